"""Sizes and masks of pictures: fit an input, blur a mask, find its region, fill what it hides. Pillow and NumPy."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter, ImageOps

from pipelines.spec.values import ResizeMode

THRESHOLD = 128
"""A mask pixel of this or more is repainted."""

_FILL_BLURS = ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1))
"""Radius and how often: the wide ones reach into large holes, the narrow ones keep the rim sharp."""


@dataclass(frozen=True)
class Box:
    """A rectangle of whole pixels: from (left, top) up to, and without, (right, bottom)."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """In pixels."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """In pixels."""
        return self.bottom - self.top

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """What Pillow calls a box."""
        return self.left, self.top, self.right, self.bottom


def resize(image: Image.Image, mode: ResizeMode, *, width: int, height: int) -> Image.Image:
    """Return a picture of exactly width × height (Lanczos). One that has the size already is returned as it is.

    Args:
        image: RGB or L.
        mode: stretch changes its shape; crop scales it to cover the area and cuts the overhang evenly; fill scales it
            to lie within, centred, and smears its edges over the rest.
        width: in pixels.
        height: in pixels.
    """
    if image.size == (width, height):
        return image
    match mode:
        case "crop":
            return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
        case "fill":
            inner = _fitted(image.size, within=(width, height))
            return _smear(image.resize(inner, Image.Resampling.LANCZOS), width, height)
        case _:
            return image.resize((width, height), Image.Resampling.LANCZOS)


class Enlarge(Protocol):
    """Makes a picture of exactly width × height."""

    def __call__(self, image: Image.Image, *, width: int, height: int) -> Image.Image:
        """Return it, RGB as the one that is given."""


def resize_by(enlarge: Enlarge, image: Image.Image, mode: ResizeMode, *, width: int, height: int) -> Image.Image:
    """Return what `resize` does, by another upscaler than Lanczos; crop cuts first, in whole pixels of the input."""
    match mode:
        case "crop":
            part_width, part_height = _fitted((width, height), within=image.size)
            left, top = (image.width - part_width) // 2, (image.height - part_height) // 2
            image = image.crop((left, top, left + part_width, top + part_height))
        case "fill":
            inner_width, inner_height = _fitted(image.size, within=(width, height))
            return _smear(enlarge(image, width=inner_width, height=inner_height), width, height)
    return enlarge(image, width=width, height=height)


def undo_fill(image: Image.Image, *, width: int, height: int) -> Image.Image:
    """Return the part of a picture that `resize` with "fill" made of one of width × height, at that size again."""
    inner = _fitted((width, height), within=image.size)
    left, top = ((outer - side) // 2 for outer, side in zip(image.size, inner, strict=True))
    part = image.crop((left, top, left + inner[0], top + inner[1]))
    return resize(part, "stretch", width=width, height=height)


def grey_mask(mask_image: Image.Image, *, size: tuple[int, int], invert: bool) -> Image.Image:
    """Return an L picture of all greys from 0 (kept) to 255 (repainted).

    Args:
        mask_image: L, any size; stretched over its picture first.
        size: width and height of the picture it masks.
        invert: repaint what is black instead.
    """
    mask = mask_image if mask_image.size == size else mask_image.resize(size, Image.Resampling.LANCZOS)
    return ImageOps.invert(mask) if invert else mask


def binary_mask(mask_image: Image.Image, *, size: tuple[int, int], invert: bool) -> Image.Image:
    """Return an L picture of 0 (kept) and 255 (repainted); arguments as for `grey_mask`."""
    mask = grey_mask(mask_image, size=size, invert=False)
    return mask.point(lambda value: 255 if (value >= THRESHOLD) is not invert else 0)


def grow(image: Image.Image, margins: tuple[int, int, int, int]) -> Image.Image:
    """Return a larger picture whose edge rows and columns are drawn out to the new border.

    Args:
        image: RGB or L.
        margins: pixels to add on the left, top, right and bottom.
    """
    left, top, right, bottom = margins
    return _pad(image, left=left, top=top, right=right, bottom=bottom)


def margin_mask(size: tuple[int, int], margins: tuple[int, int, int, int], *, overlap: int) -> Image.Image:
    """Return an L picture: 255 in the margins and `overlap` pixels inside them, 0 in the rest.

    Args:
        size: width and height, margins included.
        margins: as for `grow`; where one is 0, nothing overlaps.
        overlap: in pixels.
    """
    left, top, right, bottom = (margin + overlap if margin else 0 for margin in margins)
    mask = Image.new("L", size, 255)
    if left + right < size[0] and top + bottom < size[1]:
        mask.paste(0, (left, top, size[0] - right, size[1] - bottom))
    return mask


def blur(mask: Image.Image, *, sigma_x: float, sigma_y: float) -> Image.Image:
    """Return an L picture blurred by a Gaussian whose kernel has 2 · int(2.5 sigma + 0.5) + 1 pixels, as in A1111."""
    values = np.asarray(mask, dtype=np.float64)
    for axis, sigma in ((1, sigma_x), (0, sigma_y)):
        values = _blur_along(axis, values, sigma)
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8), "L")


def masked_region(mask: Image.Image, *, padding: int, ratio: float) -> Box | None:
    """Return the region around the white part of a mask, in a ratio of width to height where the picture has room.

    Args:
        mask: L.
        padding: pixels added on each side.
        ratio: width divided by height of what will be painted.

    Returns:
        None where nothing is white.
    """
    bounds = mask.getbbox()
    if bounds is None:
        return None
    left, top = (max(0, side - padding) for side in bounds[:2])
    right, bottom = (min(side + padding, most) for side, most in zip(bounds[2:], mask.size, strict=True))
    width, height = right - left, bottom - top
    if width / height > ratio:
        top, bottom = _grow(top, bottom, int(width / ratio), most=mask.height)
    else:
        left, right = _grow(left, right, int(height * ratio), most=mask.width)
    return Box(left, top, right, bottom)


def fill_masked(image: Image.Image, mask: Image.Image) -> Image.Image:
    """Return an RGB picture whose masked part is covered with the colours around it (A1111's "fill").

    Args:
        image: RGB.
        mask: L of the same size.
    """
    kept = image.convert("RGBA")
    kept.putalpha(ImageOps.invert(mask))
    premultiplied = kept.convert("RGBa")
    filled = Image.new("RGBA", image.size)
    for radius, repeats in _FILL_BLURS:
        blurred = premultiplied.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(repeats):
            filled.alpha_composite(blurred)
    return filled.convert("RGB")


def paste_back(image: Image.Image, *, original: Image.Image, mask: Image.Image) -> Image.Image:
    """Return `image` where the mask is 255 and, bit for bit, `original` where it is 0. All have one size."""
    return Image.composite(image, original, mask)


def _fitted(size: tuple[int, int], *, within: tuple[int, int]) -> tuple[int, int]:
    scale = min(within[0] / size[0], within[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _smear(image: Image.Image, width: int, height: int) -> Image.Image:
    """Centre a picture and draw its edge rows or columns out to the border."""
    left, top = (width - image.width) // 2, (height - image.height) // 2
    return _pad(image, left=left, top=top, right=width - left - image.width, bottom=height - top - image.height)


def _pad(image: Image.Image, *, left: int, top: int, right: int, bottom: int) -> Image.Image:
    pixels = np.asarray(image)
    return Image.fromarray(np.pad(pixels, ((top, bottom), (left, right), (0, 0))[: pixels.ndim], mode="edge"))


def _blur_along(axis: int, values: npt.NDArray[np.float64], sigma: float) -> npt.NDArray[np.float64]:
    reach = int(2.5 * sigma + 0.5)
    if reach == 0:
        return values
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    weights /= weights.sum()
    edges = [(reach, reach) if each == axis else (0, 0) for each in (0, 1)]
    padded = np.pad(values, edges, mode="reflect" if reach < values.shape[axis] else "edge")
    length = values.shape[axis]
    shifted = (np.take(padded, range(start, start + length), axis) for start in range(2 * reach + 1))
    blurred: npt.NDArray[np.float64] = sum(
        (weight * each for weight, each in zip(weights, shifted, strict=True)), np.zeros_like(values)
    )
    return blurred


def _grow(start: int, end: int, length: int, *, most: int) -> tuple[int, int]:
    """Lengthen a stretch on both sides to `length`, moved and cut to lie within 0 to `most`."""
    missing = max(0, length - (end - start))
    start -= missing // 2
    end += missing - missing // 2
    shift = min(0, most - end)
    start, end = start + shift, end + shift
    shift = max(0, -start)
    return start + shift, min(end + shift, most)


def nearest_multiple(value: float, step: int, *, least: int) -> int:
    """Return the multiple of `step` nearest to a length, and at least `least`."""
    return max(least, math.floor(value / step + 0.5) * step)
