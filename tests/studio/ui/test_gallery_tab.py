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


def test_turning_from_a_deleted_picture_shows_the_list(studio: Studio, tab: GalleryTab) -> None:
    assert tab.panel.turn("gone", 0, by=1)[tab.panel.selected] is None
