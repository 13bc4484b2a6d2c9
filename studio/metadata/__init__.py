"""Writing pictures with their record inside, and reading it back. One file per format.

PNG keeps text chunks; JPEG and WebP keep EXIF: the record in ImageDescription, the infotext in UserComment.
"""

import warnings
from pathlib import Path
from typing import BinaryIO

import piexif
import piexif.helper
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from pipelines.spec.errors import InvalidRequest, NotFound
from pipelines.spec.request import OutputFormat, ResolvedRequest
from studio.metadata import a1111, native
from studio.metadata.record import Record

__all__ = ["Record", "check_room", "read", "read_texts", "save"]

_FORMATS = ("PNG", "JPEG", "WEBP")
_JPEG_BYTES = 65533
_PROVENANCE_BYTES = 4096
"""Room kept for what the engine reports."""


def save(image: Image.Image, file: BinaryIO, record: Record, *, output_format: OutputFormat) -> None:
    """Write a picture with its record, natively and as A1111 infotext.

    Args:
        image: RGB.
        file: where to; opened for binary writing.
        record: how the picture came to be.
        output_format: png is lossless; jpeg and webp are written at quality 95.
    """
    texts = _texts(record)
    match output_format:
        case "png":
            chunks = PngInfo()
            for key, text in texts.items():
                chunks.add_text(key, text)
            image.save(file, format="PNG", pnginfo=chunks)
        case "jpeg":
            image.save(file, format="JPEG", quality=95, subsampling=0, exif=_to_exif(texts))
        case "webp":
            image.save(file, format="WEBP", quality=95, method=4, exif=_to_exif(texts))


def check_room(request: ResolvedRequest) -> None:
    """Refuse a request whose record will not fit into its format.

    Raises:
        InvalidRequest: JPEG keeps 64 KiB of EXIF, and the prompts need more.
    """
    if request.output_format != "jpeg":
        return
    needed = len(_to_exif(_texts(Record("0" * 16, 0, 0.0, request, {})))) + _PROVENANCE_BYTES
    if needed > _JPEG_BYTES:
        raise InvalidRequest(
            f"output_format jpeg has room for {_JPEG_BYTES} bytes of metadata, and these prompts need {needed}; "
            "shorten them, or choose png or webp",
            field="output_format",
        )


def read(path: Path) -> Record:
    """Return what a picture made here says about itself.

    Raises:
        NotFound: no such file, no picture, or one without our record; the message says which.
    """
    texts = read_texts(path)
    if native.KEY not in texts:
        raise NotFound(f"{path} was not made by Open Weights Studio; it carries {', '.join(texts) or 'no metadata'}")
    try:
        return native.read(texts[native.KEY])
    except ValueError as error:
        raise NotFound(f"{path} carries a record that cannot be read: {error}") from error


def read_texts(path: Path) -> dict[str, str]:
    """Return every metadata text of a picture, by its key.

    Raises:
        NotFound: no such file, or not a picture.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=_FORMATS) as image:
            if image.format == "PNG":
                image.load()  # text may stand behind the pixels
                return {str(key): value for key, value in image.info.items() if isinstance(value, str)}
            return _from_exif(image)
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}") from error
    except UnidentifiedImageError as error:
        raise NotFound(f"{path} is not a PNG, JPEG or WebP picture") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise NotFound(f"{path} is not a readable PNG, JPEG or WebP picture: {error}") from error


def _texts(record: Record) -> dict[str, str]:
    return {native.KEY: native.write(record), a1111.KEY: a1111.write(record)}


def _to_exif(texts: dict[str, str]) -> bytes:
    comment = piexif.helper.UserComment.dump(texts[a1111.KEY], encoding="unicode")
    exif: bytes = piexif.dump(
        {
            "0th": {piexif.ImageIFD.ImageDescription: texts[native.KEY].encode("ascii")},
            "Exif": {piexif.ExifIFD.UserComment: comment},
        }
    )
    return exif


def _from_exif(image: Image.Image) -> dict[str, str]:
    """Read with Pillow: a hostile length keeps piexif busy for a minute."""
    texts = {}
    try:
        exif = image.getexif()
        description = exif.get(ExifTags.Base.ImageDescription)
        comment = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
        if description:
            texts[native.KEY] = str(description)
        if comment:
            texts[a1111.KEY] = piexif.helper.UserComment.load(comment)
    except Exception as error:
        raise ValueError(f"its EXIF is damaged: {error}") from error
    return texts
