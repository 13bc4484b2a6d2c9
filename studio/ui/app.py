"""The page put together: tabs, what connects them, and how Gradio is mounted."""

import gradio as gr
from fastapi import FastAPI

from pipelines.spec.errors import NotFound, StudioError
from studio.core import Studio
from studio.files import MAX_INPUT_BYTES
from studio.ui import theme
from studio.ui.tabs import gallery, generate
from studio.ui.tabs.gallery import GalleryTab
from studio.ui.tabs.generate import GenerateTab
from studio.ui.widgets import QUIET, Updates, clicked_image, complaint

TITLE = "Open Weights Studio"
_CACHE_SECONDS = (3600, 24 * 3600)
"""Every hour, uploads older than a day are deleted: inputs of requests have their own store."""


def mount(app: FastAPI, studio: Studio) -> None:
    """Serve the page at `/`. Gradio may serve no folder: pictures come from the REST routes."""
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
        _connect(studio, tabs, making=making, keeping=keeping)
        gallery_tab.select(keeping.panel.show_page, keeping.panel.page, keeping.panel.outputs, **QUIET)
        gallery_tab.select(lambda: gr.Timer(active=True), None, keeping.timer, **QUIET)
        generate_tab.select(lambda: gr.Timer(active=False), None, keeping.timer, **QUIET)
    demo.queue(api_open=False)
    return demo


def _connect(studio: Studio, tabs: gr.Tabs, *, making: GenerateTab, keeping: GalleryTab) -> None:
    """Join the tabs: a picture anywhere opens in the gallery; the gallery sends settings back to the form."""
    panel = keeping.panel

    def open_in_gallery(page: int, event: gr.EventData) -> Updates:
        return {tabs: gr.Tabs(selected="gallery"), **panel.show_image(clicked_image(event), page)}

    def reuse_settings(image_id: str | None) -> Updates:
        try:
            request = studio.gallery.get(image_id or "").request.asked()
            written = making.form.write(request)
        except StudioError as error:
            raise gr.Error(str(error), print_exception=False) from error
        gone = [name for name in ("init_image", "mask_image") if _is_gone(studio, getattr(request, name))]
        warning = f"{' and '.join(gone)}: the image is gone; give it again" if gone else ""
        return {tabs: gr.Tabs(selected="generate"), making.complaint: complaint(warning), **written}

    def start_from(image_id: str | None) -> Updates:
        try:
            image = studio.gallery.get(image_id or "")
            value = making.form.image_value(studio.inputs.put(image.path))
        except StudioError as error:
            raise gr.Error(str(error), print_exception=False) from error
        return {
            tabs: gr.Tabs(selected="generate"),
            making.start_from: gr.Accordion(open=True),
            making.form["init_image"]: value,
        }

    for box in (making.stage, making.strip):
        box.click(open_in_gallery, panel.page, [tabs, *panel.outputs], **QUIET)
    keeping.reuse.click(reuse_settings, keeping.selected, [tabs, making.complaint, *making.form], **QUIET)
    keeping.use_as_input.click(
        start_from, keeping.selected, [tabs, making.start_from, making.form["init_image"]], **QUIET
    )


def _is_gone(studio: Studio, input_id: str | None) -> bool:
    try:
        return input_id is not None and not studio.inputs.path(input_id).is_file()
    except NotFound:
        return True
