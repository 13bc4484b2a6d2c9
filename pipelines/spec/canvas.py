"""What a picture is painted on: the input images, prepared as the request says, and how the result goes back."""

from dataclasses import dataclass

from PIL import Image, ImageChops

from pipelines.spec.engine import Inputs
from pipelines.spec.geometry import (
    Box,
    Enlarge,
    binary_mask,
    blur,
    fill_masked,
    grey_mask,
    grow,
    margin_mask,
    masked_region,
    paste_back,
    resize,
    resize_by,
    undo_fill,
)
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.values import Task

OUTPAINT_OVERLAP = 8
"""Pixels of the old picture, next to a side that grows, that are repainted so that the new part finds its way in."""

_REVEAL = 16
"""A grey mask this many times as bright shows what is painted: only its darkest greys fade into the original."""


@dataclass(frozen=True)
class Overlay:
    """The kept part of a picture, laid over the painted one at the end."""

    original: Image.Image
    """RGB: the picture whose unmasked pixels stay."""
    mask: Image.Image
    """L, of its size: 255 shows the painted picture, 0 the original."""
    region: Box | None
    """Where the painted picture belongs in it; None is all of it, at the same size."""
    margin: Image.Image | None = None
    """L, of its size: 255 where the original is not a picture at all, but made up for outpaint."""

    def finish(self, painted: Image.Image, *, change: Image.Image | None) -> Image.Image:
        """Return the painted picture within the original; pixels that the mask keeps are those of the original."""
        mask = self.mask
        if change is not None:
            scaled = change.resize(painted.size, Image.Resampling.BICUBIC)
            mask = ImageChops.darker(mask, self._placed(scaled, on=Image.new("L", mask.size)))
            mask = mask if self.margin is None else ImageChops.lighter(mask, self.margin)
        return paste_back(self._placed(painted, on=self.original), original=self.original, mask=mask)

    def _placed(self, picture: Image.Image, *, on: Image.Image) -> Image.Image:
        if self.region is None:
            return picture
        whole = on.copy()
        size = {"width": self.region.width, "height": self.region.height}
        part = resize(picture, "crop", **size) if self.margin is None else undo_fill(picture, **size)
        whole.paste(part, self.region.corners)
        return whole


@dataclass(frozen=True)
class Canvas:
    """What a picture starts from. Everything None for text-to-image."""

    init_image: Image.Image | None = None
    """RGB at the size of the request; at its own size for a latent resize."""
    mask_image: Image.Image | None = None
    """L at the size of the request, blurred; 255 is repainted, 0 is kept."""
    unfilled: Image.Image | None = None
    """RGB at the size of the request: `init_image` before its masked part was filled."""
    overlay: Overlay | None = None
    is_mask_blank: bool = False
    """The mask keeps everything, so "only masked" has nothing to look at: the whole picture is repainted."""

    def finish(self, painted: Image.Image, *, change: Image.Image | None = None) -> Image.Image:
        """Return the picture that the user gets.

        Args:
            painted: RGB at the size of the request.
            change: L of any size, 255 where a soft mask let something new come, 0 where the original may show.
        """
        return painted if self.overlay is None else self.overlay.finish(painted, change=change)


def prepare_canvas(request: ResolvedRequest, inputs: Inputs, *, enlarge: Enlarge | None = None) -> Canvas:
    """Resize, blur and crop the inputs as the request says.

    Args:
        request: gives size, resize mode and the fields of the mask.
        inputs: the opened images.
        enlarge: the upscaler of image-to-image, if it is not Lanczos.
    """
    image = inputs.init_image
    if image is None:
        return Canvas()
    size = {"width": request.width, "height": request.height}
    if request.task is Task.IMAGE_TO_IMAGE:
        if request.resize_mode == "latent":
            return Canvas(image)
        if enlarge is not None and image.size != (request.width, request.height):
            return Canvas(resize_by(enlarge, image, request.resize_mode, **size))
        return Canvas(resize(image, request.resize_mode, **size))
    image, mask, margin = _masked(image, request, inputs.mask_image)
    region = None
    if request.inpaint_area == "only_masked":
        region = masked_region(mask, padding=request.mask_padding, ratio=request.width / request.height)
        if region is None:
            return Canvas(resize(image, request.resize_mode, **size), is_mask_blank=True)
    elif margin is not None:
        region = Box(0, 0, *image.size)
    if region is not None:
        overlay = Overlay(image, _shown(mask, request), region, margin)
        image = resize(image.crop(region.corners), "fill", **size)
        mask = resize(mask.crop(region.corners), "fill", **size)
    else:
        image = resize(image, request.resize_mode, **size)
        mask = resize(mask, request.resize_mode, **size)
        overlay = Overlay(image, _shown(mask, request), None)
    filled = fill_masked(image, mask) if request.masked_content == "fill" else image
    return Canvas(filled, mask, image, overlay)


def _masked(
    image: Image.Image, request: ResolvedRequest, mask_image: Image.Image | None
) -> tuple[Image.Image, Image.Image, Image.Image | None]:
    """Return the picture with its margins, its blurred mask, and where it is all margin (None without outpaint)."""
    mask = Image.new("L", image.size)
    if mask_image is not None:
        levels = binary_mask if request.mask_mode == "hard" else grey_mask
        mask = levels(mask_image, size=image.size, invert=request.invert_mask)
    margin = None
    if any(request.margins):
        size = request.grown(image.size)
        margin, nearby = (margin_mask(size, request.margins, overlap=overlap) for overlap in (0, OUTPAINT_OVERLAP))
        image = grow(image, request.margins)
        own, mask = mask, Image.new("L", size)
        mask.paste(own, request.margins[:2])
        mask = ImageChops.lighter(mask, nearby)
    mask = blur(mask, sigma_x=request.mask_blur_x, sigma_y=request.mask_blur_y)
    return image, mask if margin is None else ImageChops.lighter(mask, margin), margin


def _shown(mask: Image.Image, request: ResolvedRequest) -> Image.Image:
    """Return how much of the painted picture shows: a hard mask repaints what is more than half, others any grey."""
    if request.mask_mode != "hard":
        return mask.point(lambda value: min(255, _REVEAL * value))
    if request.inpaint_area == "only_masked":
        return mask
    return mask.point(lambda value: min(255, 2 * value))
