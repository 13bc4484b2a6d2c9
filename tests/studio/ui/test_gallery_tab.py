"""Turning pages and pictures in the gallery tab. Widgets are real; no browser."""

import asyncio

import gradio as gr
import pytest

from studio import Studio
from studio.ui.tabs import gallery
from studio.ui.tabs.gallery import GalleryTab


@pytest.fixture
def tab(studio: Studio) -> GalleryTab:
    async def make() -> GalleryTab:  # inside a running loop, as the server does
        with gr.Blocks(analytics_enabled=False):
            return gallery.build(studio)

    return asyncio.run(make())


def test_turning_goes_through_all_pictures_and_takes_the_page_along(
    studio: Studio, tab: GalleryTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "PAGE_LENGTH", 2)
    studio.generate("a boat", num_images=9, width=64, height=64, num_inference_steps=1, progress=False)
    ids = [image.id for image in studio.gallery.page()]
    panel, shown, page = tab.panel, ids[0], 0

    for position, expected in enumerate(ids[1:], start=1):
        updates = panel.turn(shown, 0, by=1)
        shown, page = updates[panel.selected], updates[panel.page]
        assert (shown, page) == (expected, position // 2)

    assert panel.turn(shown, page, by=1) == {panel.page: page}
    assert panel.turn(ids[0], 0, by=-1)[panel.selected] == ids[0]


def test_the_picture_on_view_can_be_saved_with_and_without_metadata(studio: Studio, tab: GalleryTab) -> None:
    (image,) = studio.generate("a boat", progress=False)

    shown = tab.panel.show_image(image.id, 0)[tab.panel.download]

    assert f'/images/{image.id}/file?download=true" ' in shown
    assert f'/images/{image.id}/file?download=true&amp;metadata=false" ' in shown


def test_turning_from_a_deleted_picture_shows_the_list(studio: Studio, tab: GalleryTab) -> None:
    assert tab.panel.turn("gone", 0, by=1)[tab.panel.selected] is None


def test_the_picture_on_view_is_enlarged_as_a_job_and_shown(studio: Studio, tab: GalleryTab) -> None:
    (small,) = studio.generate("a boat", width=64, height=64, num_inference_steps=1, progress=False)
    enlarging = tab.panel.enlarging

    started = enlarging.start(small.id, "nearest", 3.0)
    job = studio.wait(studio.jobs(limit=1)[0].id)
    ended = enlarging.look(job.id)

    (large,) = studio.gallery.of_job(job.id)
    assert (large.image.size, large.request.strength, large.request.upscaler) == ((192, 192), 0, "nearest")
    assert started[enlarging.button]["interactive"] is False
    assert ended[enlarging.button]["interactive"] is True
    assert f'data-image="{large.id}"' in ended[enlarging.shown]
    assert "Now 192 × 192, and in the gallery" in ended[enlarging.shown]


@pytest.mark.parametrize(
    ("image_id", "factor", "words"),
    [("gone", 2.0, "gone"), (None, 1000.0, "at most 64, got 1000")],
    ids=["gone", "too large"],
)
def test_what_cannot_be_enlarged_is_told(
    studio: Studio, tab: GalleryTab, image_id: str | None, factor: float, words: str
) -> None:
    (small,) = studio.generate("a boat", width=64, height=64, num_inference_steps=1, progress=False)
    before = len(studio.jobs())

    updates = tab.panel.enlarging.start(image_id or small.id, "lanczos", factor)

    assert words in updates[tab.panel.enlarging.shown]
    assert len(studio.jobs()) == before
