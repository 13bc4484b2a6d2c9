"""The second tab: all pictures, page by page, and one of them with what made it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from pipelines.spec.errors import NotFound, StorageError
from studio.core import Studio
from studio.ui import markup
from studio.ui.checking import Checking
from studio.ui.enlarging import Enlarging
from studio.ui.widgets import QUIET, TO_TOP, Updates, clicked_image, pictures, waiting

PAGE_LENGTH = 24
REFRESH_SECONDS = 2.0

_EMPTY = '<p class="welcome">No pictures yet. They will be here when you come back, too.</p>'
_GONE = "That picture had already been deleted."


@dataclass(frozen=True)
class GalleryTab:
    """The parts that the page connects with other tabs."""

    selected: gr.State
    """Id of the picture on view, or None."""
    reuse: gr.Button
    use_as_input: gr.Button
    repaint: gr.Button
    timer: gr.Timer
    """Keeps the list fresh while the tab is open."""
    panel: "_Panel"


class _Panel:
    """The widgets of the tab and what they show."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self.page = gr.State(0)
        self.selected = gr.State(None)
        with gr.Column(elem_id="gallery-list") as self.list:
            with gr.Row(elem_id="gallery-pager"):
                self.count = gr.HTML("", elem_id="gallery-count", apply_default_css=False)
                self.newer = gr.Button("← Newer", size="sm", elem_id="gallery-newer", min_width=80)
                self.older = gr.Button("Older →", size="sm", elem_id="gallery-older", min_width=80)
            self.notice = gr.HTML("", elem_id="gallery-notice", apply_default_css=False)
            self.grid = pictures(elem_id="gallery-grid")
        with gr.Column(visible=False, elem_id="gallery-detail") as self.detail:
            with gr.Row(elem_id="gallery-turn"):
                self.back = gr.Button("All pictures", size="sm", elem_id="gallery-back", min_width=120)
                self.next_newer = gr.Button("← Newer", size="sm", elem_id="detail-newer", min_width=70)
                self.next_older = gr.Button("Older →", size="sm", elem_id="detail-older", min_width=70)
            with gr.Row():
                with gr.Column(scale=7, min_width=300):
                    self.picture = gr.HTML("", elem_id="detail-picture", apply_default_css=False)
                with gr.Column(scale=4, min_width=280):
                    self.settings = gr.HTML("", elem_id="detail-settings", apply_default_css=False)
                    self.reuse = gr.Button("Reuse these settings", variant="primary", elem_id="detail-reuse")
                    with gr.Row(elem_classes="tight"):
                        self.use_as_input = gr.Button("Start from this picture", elem_id="detail-use")
                        self.repaint = gr.Button("Repaint parts of it", elem_id="detail-repaint")
                    self.enlarging = Enlarging(studio, self._file, elem_id="detail-enlarge")
                    self.checking = Checking(studio, self._file, elem_id="detail-check")
                    self.download = gr.HTML("", elem_id="detail-download", apply_default_css=False)
                    self.delete = gr.Button("Delete", elem_id="detail-delete", elem_classes="quiet")
                    with gr.Row(visible=False, elem_id="detail-confirm") as self.confirm:
                        self.really = gr.Button("Delete for ever", variant="stop", elem_id="detail-really")
                        self.keep = gr.Button("Keep", elem_id="detail-keep")
        self.outputs: list[Any] = [
            *(self.page, self.selected, self.list, self.detail, self.count, self.newer, self.older),
            *(self.notice, self.grid),
            *(self.picture, self.settings, self.download, self.delete, self.confirm, self.next_newer, self.next_older),
            *self.enlarging.outputs,
            *self.checking.outputs,
        ]

    def show_page(self, page: int) -> Updates:
        """Return updates that show a page of the list."""
        total = self._studio.gallery.count()
        last = max(0, (total - 1) // PAGE_LENGTH)
        page = min(max(0, page), last)
        images = self._studio.gallery.page(limit=PAGE_LENGTH, offset=page * PAGE_LENGTH)
        words = f"{total} picture{'' if total == 1 else 's'}" + (f" · page {page + 1} of {last + 1}" if last else "")
        return {
            self.page: page,
            self.count: f'<p class="status">{words}</p>' if total else "",
            self.grid: markup.grid(images, label="Gallery") if images else _EMPTY,
            self.newer: gr.update(interactive=page > 0, visible=last > 0),
            self.older: gr.update(interactive=page < last, visible=last > 0),
        }

    def show_list(self, page: int, *, notice: str = "") -> Updates:
        """Return updates that leave the single picture, and perhaps say why."""
        views = {self.list: gr.update(visible=True), self.detail: gr.update(visible=False), self.selected: None}
        return {**self.show_page(page), **views, self.notice: waiting(notice) if notice else ""}

    def show_image(self, image_id: str, page: int) -> Updates:
        """Return updates that show one picture; the list if it is gone."""
        try:
            image = self._studio.gallery.get(image_id)
        except NotFound:
            return self.show_list(page, notice=_GONE)
        return {
            self.selected: image.id,
            self.list: gr.update(visible=False),
            self.detail: gr.update(visible=True),
            self.picture: markup.full_picture(image),
            self.settings: markup.settings(image),
            self.download: markup.download_link(image) + markup.bare_download_link(image),
            self.delete: gr.update(visible=True),
            self.confirm: gr.update(visible=False),
            **self.enlarging.reset(),
            **self.checking.reset(),
        }

    def _file(self, image_id: str | None) -> Path:
        return self._studio.gallery.get(image_id or "").path

    def turn(self, image_id: str | None, page: int, *, by: int) -> Updates:
        """Return updates that show the next older (by = 1) or newer (by = -1) picture."""
        try:
            position = max(0, self._studio.gallery.position(image_id or "") + by)
        except NotFound:
            return self.show_list(page, notice=_GONE)
        neighbours = self._studio.gallery.page(limit=1, offset=position)
        if not neighbours:
            return {self.page: page}
        return {**self.show_image(neighbours[0].id, page), self.page: position // PAGE_LENGTH}

    def delete_image(self, image_id: str | None, page: int) -> Updates:
        """Delete the picture on view and return to the list."""
        notice = ""
        if image_id is not None:
            try:
                self._studio.gallery.delete(image_id)
            except NotFound:
                notice = _GONE
            except StorageError as error:
                raise gr.Error(str(error), print_exception=False) from error
        return self.show_list(page, notice=notice)


def build(studio: Studio) -> GalleryTab:
    """Lay the tab out and connect it."""
    panel = _Panel(studio)
    timer = gr.Timer(REFRESH_SECONDS, active=False)
    here = [panel.selected, panel.page]

    def open_clicked(page: int, event: gr.EventData) -> Updates:
        return panel.show_image(clicked_image(event), page)

    for box in (panel.grid, panel.enlarging.shown):
        box.click(open_clicked, panel.page, panel.outputs, **QUIET)
    panel.grid.click(**TO_TOP)
    panel.newer.click(lambda page: panel.show_page(page - 1), panel.page, panel.outputs, **QUIET)
    panel.older.click(lambda page: panel.show_page(page + 1), panel.page, panel.outputs, **QUIET)
    panel.back.click(panel.show_list, panel.page, panel.outputs, **QUIET)
    panel.next_newer.click(lambda image_id, page: panel.turn(image_id, page, by=-1), here, panel.outputs, **QUIET)
    panel.next_older.click(lambda image_id, page: panel.turn(image_id, page, by=1), here, panel.outputs, **QUIET)
    panel.enlarging.connect(panel.selected)
    panel.checking.connect(panel.selected)
    _connect_delete(panel, here)
    timer.tick(panel.show_page, panel.page, panel.outputs, **QUIET)
    return GalleryTab(panel.selected, panel.reuse, panel.use_as_input, panel.repaint, timer, panel)


def _connect_delete(panel: _Panel, here: list[gr.State]) -> None:
    """Deleting takes two presses."""
    asking = {panel.delete: gr.update(visible=False), panel.confirm: gr.update(visible=True)}
    resting = {panel.delete: gr.update(visible=True), panel.confirm: gr.update(visible=False)}
    panel.delete.click(lambda: asking, None, [panel.delete, panel.confirm], **QUIET)
    panel.keep.click(lambda: resting, None, [panel.delete, panel.confirm], **QUIET)
    panel.really.click(panel.delete_image, here, panel.outputs, **QUIET)
