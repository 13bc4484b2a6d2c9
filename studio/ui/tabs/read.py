"""The third tab: what any picture, or its text, says about it, what that means here, and whether it is true."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import gradio as gr
from gradio.blocks import Block

from pipelines.spec.errors import InvalidRequest, NotFound, StudioError
from studio.core import Studio
from studio.metadata import Imported
from studio.ui import markup
from studio.ui.checking import Checking
from studio.ui.widgets import QUIET, Updates, complaint, image_input

_WELCOME = (
    '<p class="welcome">Drop a picture here: one of yours, or one made with A1111, Forge, SD.Next, ComfyUI, InvokeAI, '
    "Fooocus, NovelAI or SwarmUI. It does not leave this machine.</p>"
)

_NO_PICTURE = "A picture that was made here can be made again, to see whether what it says is true."
_NOT_OURS = "Only a picture that was made here, and says so, can be made again."


@dataclass(frozen=True)
class ReadTab:
    """The parts that the page connects with the form."""

    upload: gr.Image
    fields: gr.State
    """The fields of a request that the picture stands for; None where it says nothing."""
    use_settings: gr.Button
    start_from: gr.Button
    repaint: gr.Button


class _Panel:
    """The widgets of the tab and what they show."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self.fields = gr.State(None)
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                self.upload = image_input(label="Picture", height=360, elem_id="read-picture")
                self.text = gr.Textbox(
                    label="Or paste its settings as text",
                    placeholder="a red house\nSteps: 20, Sampler: Euler a, Seed: 1, …",
                    lines=3,
                    max_lines=8,
                    elem_id="read-text",
                )
                self.use_settings = gr.Button(
                    "Use these settings", variant="primary", interactive=False, elem_id="read-use"
                )
                with gr.Row(elem_classes="tight"):
                    self.start_from = gr.Button("Start from this picture", interactive=False, elem_id="read-start")
                    self.repaint = gr.Button("Repaint parts of it", interactive=False, elem_id="read-repaint")
                self.checking = Checking(studio, Path, elem_id="read-check", why_not=_NO_PICTURE)
            with gr.Column(scale=7, min_width=300):
                self.report = gr.HTML(_WELCOME, elem_id="read-report", apply_default_css=False)
        self.outputs: list[Block] = [
            *(self.text, self.fields, self.report, self.use_settings, self.start_from, self.repaint),
            *self.checking.outputs,
        ]

    def show(self, path: str | None) -> Updates:
        """Return updates that tell what a picture says."""
        there_is_one = gr.update(interactive=path is not None and self._can_start_from(path))
        return {
            **self._told(None if path is None else partial(self._read, path)),
            self.text: "",
            self.start_from: there_is_one,
            self.repaint: there_is_one,
        }

    def show_text(self, text: str, path: str | None) -> Updates:
        """Return updates that tell what a pasted text says. Of a picture on view, only the pixels count then."""
        if not text.strip():
            return self.show(path)
        return {**self._told(partial(self._studio.read_text, text)), **self.checking.reset(why_not=_NO_PICTURE)}

    def _can_start_from(self, path: str) -> bool:
        try:
            self._studio.inputs.check(Path(path))
        except InvalidRequest:
            return False
        return True

    def _read(self, path: str) -> Imported:
        try:
            return self._studio.read(Path(path))
        except NotFound as error:  # where an upload lies is of no use to who sent it
            raise NotFound(str(error).replace(path, Path(path).name)) from error

    def _told(self, read: Callable[[], Imported] | None) -> Updates:
        report, fields, why_not = _WELCOME, None, _NO_PICTURE
        try:
            if read is not None:
                why_not = _NOT_OURS
                imported = read()
                report, fields = markup.imported(imported), imported.request_fields
                why_not = "" if imported.is_ours else _NOT_OURS
        except StudioError as error:
            report = complaint(str(error))
        return {
            self.fields: fields,
            self.report: report,
            self.use_settings: gr.update(interactive=fields is not None),
            **self.checking.reset(why_not=why_not),
        }


def build(studio: Studio) -> ReadTab:
    """Lay the tab out and connect it."""
    panel = _Panel(studio)
    panel.upload.input(panel.show, panel.upload, panel.outputs, **QUIET)
    # what is pasted with the mouse is no `input` to Gradio
    panel.text.change(panel.show_text, [panel.text, panel.upload], panel.outputs, trigger_mode="always_last", **QUIET)
    panel.checking.connect(panel.upload)
    return ReadTab(panel.upload, panel.fields, panel.use_settings, panel.start_from, panel.repaint)
