"""What goes from a picture into the form. Widgets are real; no browser."""

import asyncio
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from pipelines.spec.request import GenerationRequest
from studio import Studio
from studio.ui.sending import Sender
from studio.ui.tabs import generate


@pytest.fixture
def sender(studio: Studio) -> Sender:
    (studio.settings.outputs_dir / "tmp").mkdir()

    async def make() -> Sender:  # inside a running loop, as the server does
        with gr.Blocks(analytics_enabled=False) as demo, gr.Tabs() as tabs, gr.Tab():
            return Sender(studio, tabs, generate.build(studio, demo))

    return asyncio.run(make())


def sent(sender: Sender, request: GenerationRequest, size: tuple[int, int], folder: Path) -> dict[str, object]:
    """Return what the form shows after "Start from", and what is told."""
    Image.new("RGB", size, "teal").save(folder / "picture.png")
    updates = sender.picture(request, folder / "picture.png")
    shown = {name: updates[widget]["value"] for name, widget in sender._making.form.widgets.items()}
    return shown | {"told": updates[sender._making.complaint]}


def test_a_picture_that_was_painted_larger_keeps_its_size(sender: Sender, tmp_path: Path) -> None:
    request = GenerationRequest(prompt="a", width=128, height=128, hires_scale=1.5)

    shown = sent(sender, request, (192, 192), tmp_path)

    assert (shown["width"], shown["height"], shown["hires_scale"]) == ("192", "192", None)
    assert shown["told"] == ""


@pytest.mark.parametrize(
    ("size", "sides", "told"),
    [
        ((190, 195), ("192", "192"), "190×195 pixels; width and height are multiples of 8"),
        ((40, 300), (None, None), "40×300 pixels, and sides are 64 to 4096: choose a size"),
    ],
)
def test_a_size_that_cannot_be_painted_is_told(
    sender: Sender, tmp_path: Path, size: tuple[int, int], sides: tuple[str | None, ...], told: str
) -> None:
    shown = sent(sender, GenerationRequest(width=128, height=128), size, tmp_path)

    assert (shown["width"], shown["height"]) == sides
    assert told in str(shown["told"])


def test_a_picture_without_a_size_of_its_own_leaves_it_to_the_model(sender: Sender, tmp_path: Path) -> None:
    shown = sent(sender, GenerationRequest(prompt="a"), (640, 480), tmp_path)

    assert (shown["width"], shown["height"]) == (None, None)


def test_how_a_picture_was_enlarged_says_nothing_of_what_starts_from_it(sender: Sender, tmp_path: Path) -> None:
    upscaled = GenerationRequest(
        init_image="0" * 64, strength=0.0, upscaler="nearest", resize_mode="fill", width=128, height=128
    )

    shown = sent(sender, upscaled, (128, 128), tmp_path)

    assert (shown["strength"], shown["resize_mode"], shown["width"]) == (None, "crop", "128")
    assert not shown["upscaler"]
