"""Writing pictures with their record inside, and reading what pictures say. One file per format.

PNG keeps text chunks; JPEG, WebP and AVIF keep EXIF: the record in ImageDescription, the infotext in UserComment.
"""

from pathlib import Path
from typing import BinaryIO

import piexif
import piexif.helper
from PIL import Image, features
from PIL.PngImagePlugin import PngInfo

from pipelines.spec.errors import InvalidRequest, NotFound
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.values import OutputFormat
from studio.metadata import a1111, native, provenance
from studio.metadata.importing import Imported, Note, import_request
from studio.metadata.meanings import FindLora, FindModel, FoundLora, Outcome
from studio.metadata.ours import asked_here
from studio.metadata.record import Record
from studio.metadata.stripping import AVIF_QUALITY, strip
from studio.metadata.texts import XMP, read_texts, texts_of

__all__ = [
    "FindLora",
    "FindModel",
    "FoundLora",
    "Imported",
    "Note",
    "Outcome",
    "Record",
    "asked_here",
    "check_room",
    "import_request",
    "read",
    "read_texts",
    "save",
    "strip",
    "texts_of",
]

_JPEG_BYTES = 65533
_PNG_LEVEL = 4
"""Of zlib, lossless as all are: Pillow's own 6 takes more than twice the time for files that are 3 % smaller."""
_PROVENANCE_BYTES = 4096
"""Room kept for what the engine reports."""


def save(
    image: Image.Image, file: BinaryIO, record: Record, *, output_format: OutputFormat, provenance_mark: bool = True
) -> None:
    """Write a picture with its record, natively and as A1111 infotext.

    Args:
        image: RGB.
        file: where to; opened for binary writing.
        record: how the picture came to be.
        output_format: png is lossless; jpeg and webp are written at quality 95, avif at 90.
        provenance_mark: say in the words of IPTC, as XMP, that the picture was generated.
    """
    texts = _texts(record)
    xmp = provenance.xmp(record.request.task) if provenance_mark else ""
    match output_format:
        case "png":
            chunks = PngInfo()
            for key, text in texts.items():
                chunks.add_text(key, text)
            if xmp:
                chunks.add_itxt(XMP, xmp)
            image.save(file, format="PNG", pnginfo=chunks, compress_level=_PNG_LEVEL)
        case "jpeg":
            image.save(file, format="JPEG", quality=95, subsampling=0, exif=_to_exif(texts), xmp=xmp.encode())
        case "webp":
            image.save(file, format="WEBP", quality=95, method=4, exif=_to_exif(texts), xmp=xmp.encode())
        case "avif":
            exif = _to_exif(texts)
            image.save(file, format="AVIF", quality=AVIF_QUALITY, subsampling="4:4:4", exif=exif, xmp=xmp.encode())


def check_room(request: ResolvedRequest) -> None:
    """Refuse a request whose record will not fit into its format, or whose format cannot be written here.

    Raises:
        InvalidRequest: JPEG keeps 64 KiB of EXIF, and the prompts need more; or Pillow was built without AVIF.
    """
    if request.output_format == "avif" and not features.check("avif"):
        raise InvalidRequest("output_format avif: Pillow was built without it; choose webp", field="output_format")
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
