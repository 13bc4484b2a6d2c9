"""The page put together: tabs, what connects them, and how Gradio is mounted."""

from functools import partial

import gradio as gr
from fastapi import FastAPI

from studio.core import Studio
from studio.inputs import MAX_INPUT_BYTES
from studio.ui import UPLOAD_SECONDS, theme
from studio.ui.foreign_tags import NoForeignTags
from studio.ui.sending import Sender
from studio.ui.tabs import gallery, generate, read, train
from studio.ui.tabs.gallery import GalleryTab
from studio.ui.tabs.generate import GenerateTab
from studio.ui.tabs.read import ReadTab
from studio.ui.widgets import QUIET, TO_TOP, Updates, clicked_image

TITLE = "Open Weights Studio"
_LAND = """() => {
  const place = document.querySelector('#start-from');
  const goal = document.querySelector('#complaint .complaint') ?? place;
  const growing = new ResizeObserver(() => goal.scrollIntoView());
  growing.observe(place);
  place.classList.add('landed');
  place.addEventListener('animationend', () => {
    place.classList.remove('landed');
    growing.disconnect();
  }, { once: true });
}"""
"""Shows where a picture went: the page goes there, or to what is told about it, and the place lights up.

The place grows while its parts and the picture appear; until it rests, there may be too little page to scroll."""
_CACHE_SECONDS = (3600, UPLOAD_SECONDS)
"""How often Gradio looks for old uploads, and how old they are."""


def mount(app: FastAPI, studio: Studio) -> None:
    """Serve the page at `/`. Gradio may serve no folder: pictures come from the REST routes."""
    app.add_middleware(NoForeignTags)
    gr.mount_gradio_app(
        app,
        build(studio),
        path="/",
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=False,
        max_file_size=MAX_INPUT_BYTES,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme.THEME,
        css_paths=theme.STYLESHEET,
        head=theme.HEAD,
    )


def build(studio: Studio) -> gr.Blocks:
    """Return the page of a studio."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=_CACHE_SECONDS, fill_width=True) as blocks:
        demo: gr.Blocks = blocks
        gr.HTML(f"<h1>{TITLE}</h1>", elem_id="masthead", apply_default_css=False)
        with gr.Tabs(selected="generate", elem_id="tabs") as tabs:
            with gr.Tab("Generate", id="generate", elem_id="tab-generate") as generate_tab:
                making = generate.build(studio, demo)
            with gr.Tab("Gallery", id="gallery", elem_id="tab-gallery") as gallery_tab:
                keeping = gallery.build(studio)
            with gr.Tab("Read a picture", id="read", elem_id="tab-read") as read_tab:
                reading = read.build(studio)
            with gr.Tab("Train", id="train", elem_id="tab-train") as train_tab:
                training = train.build(studio, demo)
        _connect(studio, tabs, making=making, keeping=keeping, reading=reading)
        gallery_tab.select(keeping.panel.show_page, keeping.panel.page, keeping.panel.outputs, **QUIET)
        gallery_tab.select(lambda: gr.Timer(active=True), None, keeping.timer, **QUIET)
        train_tab.select(training.look_anew, None, training.outputs, **QUIET)
        looking = {gallery_tab: keeping.timer, train_tab: training.timer}
        for tab in (generate_tab, gallery_tab, read_tab, train_tab):
            others = [timer for owner, timer in looking.items() if owner is not tab]
            tab.select(partial(_rest, len(others)), None, others, **QUIET)
            tab.select(**TO_TOP)
    demo.queue(api_open=False)
    return demo


def _rest(count: int) -> list[gr.Timer] | gr.Timer:
    """Return updates that let the timers of other tabs rest."""
    return [gr.Timer(active=False) for _ in range(count)] if count > 1 else gr.Timer(active=False)


def _connect(studio: Studio, tabs: gr.Tabs, *, making: GenerateTab, keeping: GalleryTab, reading: ReadTab) -> None:
    """Join the tabs: a picture anywhere opens in the gallery; gallery and reader send settings and pictures back."""
    panel, sender = keeping.panel, Sender(studio, tabs, making)

    def open_in_gallery(page: int, event: gr.EventData) -> Updates:
        return {tabs: gr.Tabs(selected="gallery"), **panel.show_image(clicked_image(event), page)}

    for box in (making.stage, making.strip):
        box.click(open_in_gallery, panel.page, [tabs, *panel.outputs], **QUIET)
    for what, from_gallery, from_file in (
        (sender.settings, keeping.reuse, reading.use_settings),
        (sender.picture, keeping.use_as_input, reading.start_from),
        (sender.picture_to_repaint, keeping.repaint, reading.repaint),
    ):
        sent = (
            from_gallery.click(partial(sender.from_gallery, what), keeping.selected, sender.outputs, **QUIET),
            from_file.click(partial(sender.from_file, what), [reading.fields, reading.upload], sender.outputs, **QUIET),
        )
        if what != sender.settings:
            for each in sent:
                each.success(None, js=_LAND, **QUIET)
