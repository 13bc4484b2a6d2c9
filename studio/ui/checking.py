"""A button that makes a picture again, and a line that says whether it came out the same. Tabs place both."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block

from pipelines.spec.errors import NotFound, StudioError
from studio import verification
from studio.core import Studio
from studio.ui import markup
from studio.ui.widgets import QUIET, Updates, complaint, waiting

LOOK_SECONDS = 0.5
SHOWN_SECONDS = 5.0
"""How long the second picture stays: every page that shows it has loaded it by then."""


@dataclass(frozen=True)
class _Check:
    """A picture that is being made again."""

    path: Path
    job_id: str
    made_id: str | None = None
    """The second picture, once it has been compared."""
    compared_at: float = 0.0


class Checking:
    """Queues the picture as any other job, and compares when it is done. The second picture is deleted soon after.

    Args:
        studio: makes the picture.
        find: returns the file of the picture on view, from the value of the component that names it.
        elem_id: of the button; the verdict's is the same with "-verdict".
    """

    def __init__(self, studio: Studio, find: Callable[[Any], Path], *, elem_id: str) -> None:
        self._studio = studio
        self._find = find
        self.button = gr.Button("Make it again and compare", elem_id=elem_id)
        self._verdict = gr.HTML("", elem_id=f"{elem_id}-verdict", apply_default_css=False)
        self._check = gr.State(None)
        self._timer = gr.Timer(LOOK_SECONDS, active=False)
        self.outputs: list[Block] = [self.button, self._verdict, self._check, self._timer]

    def connect(self, picture: Block) -> None:
        """Let the button mean the picture that this component names."""
        self.button.click(self._start, picture, self.outputs, **QUIET)
        self._timer.tick(self._look, self._check, self.outputs, **QUIET)

    def reset(self, *, interactive: bool) -> Updates:
        """Return updates for another picture on view."""
        return {
            self.button: gr.update(interactive=interactive),
            self._verdict: "",
            self._check: None,
            self._timer: gr.Timer(active=False),
        }

    def _start(self, named: Any) -> Updates:
        try:
            path = self._find(named)
            job = self._studio.submit(verification.again(self._studio, path))
        except StudioError as error:
            return {self._verdict: complaint(str(error))}
        return {
            self.button: gr.update(interactive=False),
            self._verdict: waiting(job.status),
            self._check: _Check(path, job.id),
            self._timer: gr.Timer(active=True),
        }

    def _look(self, check: _Check | None) -> Updates:
        """Tell how far the second making is, then what came out; then leave no picture behind."""
        if check is None:
            return {self._timer: gr.Timer(active=False)}
        if check.made_id is not None:
            return self._clear_away(check.made_id, since=check.compared_at)
        try:
            job = self._studio.job(check.job_id)
            if not job.is_finished:
                return {self._verdict: waiting(job.status)}
            (made,) = self._studio.result(job)
            verdict = markup.verdict(verification.compare(check.path, made))
        except StudioError as error:
            return {**self.reset(interactive=True), self._verdict: complaint(str(error))}
        compared = replace(check, made_id=made.id, compared_at=time.monotonic())
        return {self._verdict: verdict, self._check: compared, self.button: gr.update(interactive=True)}

    def _clear_away(self, made_id: str, *, since: float) -> Updates:
        if time.monotonic() - since < SHOWN_SECONDS:
            return {self._timer: gr.update()}
        with suppress(NotFound):  # somebody was quicker
            self._studio.gallery.delete(made_id)
        return {self._check: None, self._timer: gr.Timer(active=False)}
