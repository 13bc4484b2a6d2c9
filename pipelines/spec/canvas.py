"""What a picture is painted on: the input images, prepared as the request says, and how the result goes back."""

from dataclasses import dataclass

from PIL import Image

from pipelines.spec.engine import Inputs
from pipelines.spec.geometry import Box, binary_mask, blur, fill_masked, masked_region, paste_back, resize
from pipelines.spec.request import ResolvedRequest


@dataclass(frozen=True)
class Overlay:
    """The kept part of a picture, laid over the painted one at the end."""

    original: Image.Image
    """RGB: the picture whose unmasked pixels stay."""
    mask: Image.Image
    """L, of its size: 255 shows the painted picture, 0 the original."""
    region: Box | None
    """Where the painted picture belongs in it; None is all of it."""

    def finish(self, painted: Image.Image) -> Image.Image:
        """Return the painted picture within the original; pixels that the mask keeps are those of the original."""
        if self.region is not None:
            whole = self.original.copy()
            part = resize(painted, "crop", width=self.region.width, height=self.region.height)
            whole.paste(part, self.region.corners)
            painted = whole
        return paste_back(painted, original=self.original, mask=self.mask)


@dataclass(frozen=True)
class Canvas:
    """What a picture starts from. Everything None for text-to-image."""

    init_image: Image.Image | None = None
    """RGB at the size of the request; at its own size for a latent resize."""
    mask_image: Image.Image | None = None
    """L at the size of the request, blurred; 255 is repainted, 0 is kept."""
    overlay: Overlay | None = None
    is_mask_blank: bool = False
    """The mask keeps everything, so "only masked" has nothing to look at: the whole picture is repainted."""

    def finish(self, painted: Image.Image) -> Image.Image:
        """Return the picture that the user gets."""
        return painted if self.overlay is None else self.overlay.finish(painted)


def prepare_canvas(request: ResolvedRequest, inputs: Inputs) -> Canvas:
    """Resize, blur and crop the inputs as the request says.

    Args:
        request: gives size, resize mode and the fields of the mask.
        inputs: the opened images.
    """
    image = inputs.init_image
    if image is None:
        return Canvas()
    size = {"width": request.width, "height": request.height}
    if inputs.mask_image is None:
        return Canvas(image if request.resize_mode == "latent" else resize(image, request.resize_mode, **size))
    mask = binary_mask(inputs.mask_image, size=image.size, invert=request.invert_mask)
    mask = blur(mask, sigma_x=request.mask_blur_x, sigma_y=request.mask_blur_y)
    if request.inpaint_area == "only_masked":
        region = masked_region(mask, padding=request.mask_padding, ratio=request.width / request.height)
        if region is None:
            return Canvas(resize(image, request.resize_mode, **size), is_mask_blank=True)
        overlay = Overlay(image, mask, region)
        image = resize(image.crop(region.corners), "fill", **size)
        mask = resize(mask.crop(region.corners), "fill", **size)
    else:
        image = resize(image, request.resize_mode, **size)
        mask = resize(mask, request.resize_mode, **size)
        overlay = Overlay(image, mask.point(lambda value: min(255, 2 * value)), None)
    if request.masked_content == "fill":
        image = fill_masked(image, mask)
    return Canvas(image, mask, overlay)
