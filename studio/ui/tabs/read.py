"""The third tab: what any picture says about itself, what that means here, and whether it is true."""

from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from gradio.blocks import Block

from pipelines.spec.errors import StudioError
from studio.core import Studio
from studio.ui import markup
from studio.ui.checking import Checking
from studio.ui.widgets import QUIET, Updates, complaint, image_input

_WELCOME = (
    '<p class="welcome">Drop a picture here: one of yours, or one made with A1111, Forge, SD.Next, ComfyUI, InvokeAI, '
    "Fooocus, NovelAI or SwarmUI. It does not leave this machine.</p>"
)


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
                self.upload = image_input(label="Picture", height=420, elem_id="read-picture")
                self.use_settings = gr.Button(
                    "Use these settings", variant="primary", interactive=False, elem_id="read-use"
                )
                with gr.Row(elem_classes="tight"):
                    self.start_from = gr.Button("Start from this picture", interactive=False, elem_id="read-start")
                    self.repaint = gr.Button("Repaint parts of it", interactive=False, elem_id="read-repaint")
                self.checking = Checking(studio, Path, elem_id="read-check")
                self.checking.button.interactive = False
            with gr.Column(scale=7, min_width=300):
                self.report = gr.HTML(_WELCOME, elem_id="read-report", apply_default_css=False)
        self.outputs: list[Block] = [
            *(self.fields, self.report, self.use_settings, self.start_from, self.repaint),
            *self.checking.outputs,
        ]

    def show(self, path: str | None) -> Updates:
        """Return updates that tell what a picture says."""
        report, fields, is_ours = _WELCOME, None, False
        if path is not None:
            try:
                imported = self._studio.read(Path(path))
                report, fields, is_ours = markup.imported(imported), imported.request_fields, imported.is_ours
            except StudioError as error:
                report = complaint(str(error))
        there_is_one = gr.update(interactive=path is not None)
        return {
            self.fields: fields,
            self.report: report,
            self.use_settings: gr.update(interactive=fields is not None),
            self.start_from: there_is_one,
            self.repaint: there_is_one,
            **self.checking.reset(interactive=is_ours),
        }


def build(studio: Studio) -> ReadTab:
    """Lay the tab out and connect it."""
    panel = _Panel(studio)
    panel.upload.change(panel.show, panel.upload, panel.outputs, **QUIET)
    panel.checking.connect(panel.upload)
    return ReadTab(panel.upload, panel.fields, panel.use_settings, panel.start_from, panel.repaint)
