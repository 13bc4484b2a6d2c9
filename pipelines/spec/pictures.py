"""Picture files as people have them, read as 8-bit RGB: upright, without transparency, of any number of bits."""

import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

_WHITE = 65535


class UnreadablePicture(OSError):
    """A file is no picture, is damaged, or has pixels that cannot be shown."""


@dataclass(frozen=True)
class Picture:
    """What a file shows."""

    image: Image.Image
    """RGB, upright (EXIF orientation applied), transparency on white; of an animation the first frame."""
    frames: int
    is_transparent: bool
    """Whether any pixel is."""


def open_picture(path: Path) -> Picture:
    """Read a file whole.

    Raises:
        UnreadablePicture: with the reason.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                frames = getattr(file, "n_frames", 1)
                picture = eight_bits(upright(file))
                seen = on_white(picture)
                is_transparent = _is_transparent(picture)
    except Exception as error:  # of damaged files, each of Pillow's decoders raises what it likes
        raise UnreadablePicture(str(error) or type(error).__name__) from error
    return Picture(seen, frames, is_transparent=is_transparent)


def on_white(picture: Image.Image) -> Image.Image:
    """Return a picture as RGB, what is transparent in white."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def to_mask(picture: Image.Image) -> Image.Image:
    """Return a picture as L, to be used as a mask: how light it is, or, if any of it is transparent, how opaque.

    So A1111 reads masks: a stroke on a transparent layer marks what is repainted, whatever its colour.
    """
    return picture.convert("RGBA").getchannel("A") if _is_transparent(picture) else picture.convert("L")


def upright(picture: Image.Image) -> Image.Image:
    """Return a picture as its EXIF says that it stands; as it is, where its EXIF is damaged and its pixels are good."""
    picture.load()
    with suppress(_DamagedExif):
        return _turned(picture)
    return picture.copy()


class _DamagedExif(ValueError):
    """EXIF that cannot be read, or not be written again."""


def _turned(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except Exception as error:  # Pillow raises what it likes
        raise _DamagedExif(str(error)) from error


def eight_bits(picture: Image.Image) -> Image.Image:
    """Return 16 bits of grey as 8, which Pillow's own conversion would cut to white; other pictures as they are.

    Raises:
        UnreadablePicture: its numbers have no white of their own.
    """
    if not picture.mode.startswith(("I", "F")):
        return picture
    grey = picture.convert("I")
    darkest, lightest = grey.getextrema()
    if picture.mode == "F" or not 0 <= darkest <= lightest <= _WHITE:  # type: ignore[operator]  # one band: two numbers
        raise UnreadablePicture("its pixels are numbers of which none is white; save it with 8 bits per channel")
    return grey.point(lambda value: value * (255 / _WHITE) + 0.5).convert("L")


def _is_transparent(picture: Image.Image) -> bool:
    return picture.has_transparency_data and picture.convert("RGBA").getchannel("A").getextrema() != (255, 255)
