"""A button that makes the picture on view larger, painting nothing, as a job like any other. A tab places it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block

from pipelines.spec.errors import StudioError
from pipelines.spec.upscalers import PICTURE_UPSCALERS, UPSCALERS, upscaler_label
from studio.core import Studio
from studio.gallery import GalleryImage
from studio.ui import markup
from studio.ui.widgets import QUIET, Updates, complaint, pictures, waiting

LOOK_SECONDS = 0.5
FACTORS = (1.5, 2.0, 3.0, 4.0)


class Enlarging:
    """Queues what `studio upscale` makes, tells how far it is, and then shows the larger picture.

    Args:
        studio: makes the picture.
        find: returns the file of the picture on view, from the value of the component that names it.
        elem_id: of the button; those of the parts beside it begin so.
    """

    def __init__(self, studio: Studio, find: Callable[[Any], Path], *, elem_id: str) -> None:
        self._studio = studio
        self._find = find
        with gr.Row(elem_classes="tight"):
            self.upscaler = gr.Dropdown(
                self.upscalers(), value="lanczos", label="Enlarge with", elem_id=f"{elem_id}-upscaler", min_width=120
            )
            self.factor = gr.Dropdown(
                [(f"{factor:g} ×", factor) for factor in FACTORS],
                value=2.0,
                label="Times",
                elem_id=f"{elem_id}-factor",
                min_width=70,
            )
        self.button = gr.Button("Enlarge", elem_id=elem_id)
        self.shown = pictures(elem_id=f"{elem_id}-shown")
        """How far it is; then the larger picture, on which one can click."""
        self._job = gr.State(None)
        self._timer = gr.Timer(LOOK_SECONDS, active=False)
        self.outputs: list[Block] = [self.button, self.shown, self._job, self._timer]

    def connect(self, picture: Block) -> None:
        """Let the button mean the picture that this component names."""
        self.button.click(self.start, [picture, self.upscaler, self.factor], self.outputs, **QUIET)
        self.upscaler.focus(lambda: gr.update(choices=self.upscalers()), None, self.upscaler, **QUIET)
        self._timer.tick(self.look, self._job, self.outputs, **QUIET)

    def reset(self) -> Updates:
        """Return updates for another picture on view."""
        return {self.button: gr.update(interactive=True), self.shown: "", self._job: None, self._timer: _resting()}

    def start(self, named: Any, upscaler: str, factor: float) -> Updates:
        """Queue the larger picture."""
        try:
            request = self._studio.upscaled(self._find(named), scale=factor, upscaler=upscaler)
            job = self._studio.submit(request)
        except StudioError as error:
            return {self.shown: complaint(str(error))}
        return {
            self.button: gr.update(interactive=False),
            self.shown: waiting(job.status),
            self._job: job.id,
            self._timer: gr.Timer(active=True),
        }

    def look(self, job_id: str | None) -> Updates:
        """Tell how far the larger picture is, and show it when it is there."""
        if job_id is None:
            return {self._timer: _resting()}
        try:
            job = self._studio.job(job_id)
            if not job.is_finished:
                return {self.shown: waiting(job.status)}
            (larger,) = self._studio.result(job)
            return {**self.reset(), self.shown: markup.grid([larger], label="Enlarged") + waiting(_told(larger))}
        except StudioError as error:
            return {**self.reset(), self.shown: complaint(str(error))}

    def upscalers(self) -> list[tuple[str, str]]:
        """Return label and name of what enlarges pictures: those of the table, and the model files at this moment."""
        names = (name for name in self._studio.upscalers() if name in PICTURE_UPSCALERS or name not in UPSCALERS)
        return [(upscaler_label(name), name) for name in names]


def _told(larger: GalleryImage) -> str:
    return f"Now {larger.width} × {larger.height}, and in the gallery; press it to see it."


def _resting() -> gr.Timer:
    return gr.Timer(active=False)
