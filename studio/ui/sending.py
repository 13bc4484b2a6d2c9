"""What sends a picture of the gallery, or of a file, into the form: its settings, or the picture itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block

from pipelines.spec.errors import NotFound, StudioError
from pipelines.spec.hires import SIDE_STEP
from pipelines.spec.request import GenerationRequest
from pipelines.spec.values import MAX_SIDE, MIN_SIDE
from studio.core import Studio
from studio.metadata import Outcome
from studio.ui.tabs.generate import GenerateTab
from studio.ui.widgets import Updates, complaint

Send = Callable[[GenerationRequest, Path], Updates]
"""Puts the request that made a picture, or the picture, into the form."""


class Sender:
    """Fills the form and shows its tab.

    Args:
        studio: knows the gallery and keeps the images that requests start from.
        tabs: of the page.
        making: the tab with the form.
    """

    def __init__(self, studio: Studio, tabs: gr.Tabs, making: GenerateTab) -> None:
        self._studio = studio
        self._tabs = tabs
        self._making = making
        self.outputs: list[Block] = [tabs, making.complaint, making.start_from, making.mask, *making.form]

    def settings(self, request: GenerationRequest, _: Path) -> Updates:
        """Return updates that ask for the picture again."""
        return self._filled(request)

    def picture(self, request: GenerationRequest, path: Path) -> Updates:
        """Return updates that start from the picture: with its settings, but for those of what it was made from.

        What the mask was laid over, and what grew or was painted again larger, was another picture, of another size.
        """
        before = {name: field.default for name, field in GenerationRequest.model_fields.items() if _made_it(name)}
        own = {**before, "init_image": self._studio.inputs.put(path), "strength": request.strength or None}
        warning = ""
        if request.width is not None or request.height is not None:
            size = self._studio.inputs.size(own["init_image"])
            sides, warning = _sides(size, step=self._size_multiple(request.model))
            own |= sides
        return self._filled(request.model_copy(update=own), warning)

    def _filled(self, request: GenerationRequest, *more: str) -> Updates:
        making = self._making
        gone = [name for name in ("init_image", "mask_image") if self._is_gone(getattr(request, name))]
        warnings = [f"{' and '.join(gone)}: the image is gone; give it again"] if gone else []
        installed = {model.name for model in self._studio.models()}
        warnings += [
            f"{field} {name} is not installed; another is chosen"
            for field, name in (("model", request.model), ("hires_model", request.hires_model))
            if name is not None and name not in installed
        ]
        if request.styles and not self._studio.as_typed(request).styles:
            warnings.append(f"the styles {', '.join(request.styles)} have changed; the prompts hold them as they were")
        return {
            self._tabs: gr.Tabs(selected="generate"),
            making.complaint: complaint("; ".join(filter(None, (*warnings, *more)))),
            making.start_from: gr.Accordion(open=request.init_image is not None),
            making.mask: gr.Accordion(open=request.mask_image is not None),
            **making.form.write(request),
        }

    def _size_multiple(self, model: str | None) -> int:
        """Return the step in which a model counts sides, 8 pixels for one that is not installed."""
        return next((each.family.size_multiple for each in self._studio.models() if each.name == model), SIDE_STEP)

    def picture_to_repaint(self, request: GenerationRequest, path: Path) -> Updates:
        """Return updates that start from the picture and ask for a mask."""
        return {**self.picture(request, path), self._making.mask: gr.Accordion(open=True)}

    def from_gallery(self, send: Send, image_id: str | None) -> Updates:
        """Send a picture of the gallery, and say which of its LoRAs and embeddings are not what they were."""
        try:
            image = self._studio.gallery.get(image_id or "")
            imported = self._studio.read(image)
            updates = send(GenerationRequest.parse(imported.request_fields), image.path)
        except StudioError as error:
            raise gr.Error(str(error), print_exception=False) from error
        changed = [note for note in imported.notes if note.outcome is not Outcome.USED and note.field in _FILES]
        updates[self._making.complaint] += complaint("; ".join(f"{note.value}: {note.why}" for note in changed))
        return updates

    def from_file(self, send: Send, fields: dict[str, Any] | None, path: str | None) -> Updates:
        """Send an uploaded picture, whose fields are None where it says nothing."""
        try:
            return send(GenerationRequest.parse(fields or {}), Path(path or ""))
        except StudioError as error:
            raise gr.Error(str(error), print_exception=False) from error

    def _is_gone(self, input_id: str | None) -> bool:
        try:
            return input_id is not None and not self._studio.inputs.path(input_id).is_file()
        except NotFound:
            return True


def _sides(size: tuple[int, int], *, step: int) -> tuple[dict[str, int | None], str]:
    """Return width and height for a picture of this size, and what is to be told where they are others."""
    width, height = (round(side / step) * step for side in size)
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE:
        told = f"the picture has {size[0]}×{size[1]} pixels, and sides are {MIN_SIDE} to {MAX_SIDE}: choose a size"
        return {"width": None, "height": None}, told
    told = f"the picture has {size[0]}×{size[1]} pixels; width and height are multiples of {step}"
    return {"width": width, "height": height}, "" if (width, height) == size else told


_FILES = frozenset({"loras", "prompt"})
"""Fields that name files, but for models: those are told of with any request."""


def _made_it(field: str) -> bool:
    """Whether a field says how a picture became what it is, and nothing about one that starts from it."""
    return field in {"mask_image", "resize_mode", "upscaler"} or field.startswith(("hires_", "outpaint_"))
