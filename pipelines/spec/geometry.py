"""Sizes and masks of pictures: fit an input to the request, read a mask, put kept pixels back. Pillow only."""

from PIL import Image, ImageOps

THRESHOLD = 128
"""A mask pixel of this or more is repainted."""


def fit(image: Image.Image, *, width: int, height: int) -> Image.Image:
    """Return an RGB picture of exactly width × height: scaled to cover it (Lanczos), the overhang cropped evenly.

    A picture that already has the size is returned pixel for pixel.
    """
    return _cover(image.convert("RGB"), width=width, height=height)


def prepare_mask(mask_image: Image.Image, *, init_size: tuple[int, int], width: int, height: int) -> Image.Image:
    """Return an L picture of 0 (kept) and 255 (repainted), fitted exactly as its picture is by `fit`.

    Args:
        mask_image: any size; stretched over its picture first.
        init_size: width and height of the picture it masks.
        width: of the request.
        height: of the request.
    """
    mask = mask_image.convert("L")
    if mask.size != init_size:
        mask = mask.resize(init_size, Image.Resampling.LANCZOS)
    return _cover(mask, width=width, height=height).point(lambda value: 255 if value >= THRESHOLD else 0)


def paste_back(image: Image.Image, *, original: Image.Image, mask: Image.Image) -> Image.Image:
    """Return `image` where the mask is 255 and, bit for bit, `original` where it is 0. All have one size."""
    return Image.composite(image, original, mask)


def _cover(image: Image.Image, *, width: int, height: int) -> Image.Image:
    return image if image.size == (width, height) else ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
