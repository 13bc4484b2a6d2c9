"""A button that makes a picture again, and a line that says whether it came out the same. Tabs place both."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import gradio as gr
from gradio.blocks import Block

from pipelines.spec.errors import NotFound, StudioError
from studio import verification
from studio.core import Studio
from studio.ui import markup
from studio.ui.widgets import QUIET, Updates, complaint, waiting
from studio.verification import Verification

LOOK_SECONDS = 0.5
SHOWN_SECONDS = 5.0
"""How long the second picture stays: every page that shows it has loaded it by then."""


@dataclass(frozen=True)
class _Check:
    """A picture that is being made again."""

    path: Path
    job_id: str
    outcome: Future[Verification] = field(default_factory=Future)


class Checking:
    """Queues the picture as any other job, and compares when it is done. The second picture is deleted soon after.

    Args:
        studio: makes the picture.
        find: returns the file of the picture on view, from the value of the component that names it.
        elem_id: of the button; the verdict's is the same with "-verdict".
        why_not: said instead of a verdict while there is no picture that can be made again.
    """

    def __init__(self, studio: Studio, find: Callable[[Any], Path], *, elem_id: str, why_not: str = "") -> None:
        self._studio = studio
        self._find = find
        self.button = gr.Button("Make it again and compare", interactive=not why_not, elem_id=elem_id)
        self._verdict = gr.HTML(_said(why_not), elem_id=f"{elem_id}-verdict", apply_default_css=False)
        self._check = gr.State(None)
        self._timer = gr.Timer(LOOK_SECONDS, active=False)
        self.outputs: list[Block] = [self.button, self._verdict, self._check, self._timer]

    def connect(self, picture: Block) -> None:
        """Let the button mean the picture that this component names."""
        self.button.click(self._start, picture, self.outputs, **QUIET)
        self._timer.tick(self._look, self._check, self.outputs, **QUIET)

    def reset(self, *, why_not: str = "") -> Updates:
        """Return updates for another picture on view, and why it cannot be made again if it cannot."""
        return {
            self.button: gr.update(interactive=not why_not),
            self._verdict: _said(why_not),
            self._check: None,
            self._timer: gr.Timer(active=False),
        }

    def _start(self, named: Any) -> Updates:
        try:
            path = self._find(named)
            job = self._studio.submit(verification.again(self._studio, path))
        except StudioError as error:
            return {self._verdict: complaint(str(error))}
        check = _Check(path, job.id)
        Thread(target=self._compare, args=[check], name=f"check-{job.id}", daemon=True).start()
        return {
            self.button: gr.update(interactive=False),
            self._verdict: waiting(job.status),
            self._check: check,
            self._timer: gr.Timer(active=True),
        }

    def _look(self, check: _Check | None) -> Updates:
        """Tell how far the second making is, or what came out."""
        if check is None:
            return {self._timer: gr.Timer(active=False)}
        try:
            if not check.outcome.done():
                return {self._verdict: waiting(self._studio.job(check.job_id).status)}
            verdict = markup.verdict(check.outcome.result())
        except StudioError as error:
            verdict = complaint(str(error))
        return {**self.reset(), self._verdict: verdict}

    def _compare(self, check: _Check) -> None:
        """Wait for the second picture and compare; then leave none behind, whether a page still looks on or not."""
        try:
            while not (job := self._studio.job(check.job_id)).is_finished:
                time.sleep(LOOK_SECONDS)
            (made,) = self._studio.result(job)
            check.outcome.set_result(verification.compare(check.path, made))
            time.sleep(SHOWN_SECONDS)
        except StudioError as error:
            check.outcome.set_exception(error)
        finally:
            for image in self._studio.gallery.of_job(check.job_id):
                with suppress(NotFound):  # somebody was quicker
                    self._studio.gallery.delete(image.id)


def _said(why_not: str) -> str:
    return waiting(why_not) if why_not else ""
