"""Writing pictures with their record inside, and reading what pictures say. One file per format.

PNG keeps text chunks; JPEG, WebP and AVIF keep EXIF: the record in ImageDescription, the infotext in UserComment.
A picture that was only made larger goes on saying what its source says, but for EXIF that other programs wrote.
"""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import piexif
import piexif.helper
from PIL import Image, features
from PIL.PngImagePlugin import PngInfo

from pipelines.spec.errors import InvalidRequest, NotFound
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.values import OutputFormat
from studio.metadata import a1111_keys, a1111_writing, native, provenance
from studio.metadata.agreement import disagreements
from studio.metadata.finding import FindLora, FindModel, FoundLora, Note, Outcome
from studio.metadata.importing import Imported, import_request, read_foreign
from studio.metadata.ours import MODELS, asked_here
from studio.metadata.record import Record
from studio.metadata.stripping import AVIF_QUALITY, strip, stripped
from studio.metadata.texts import XMP, read_texts, texts_of

__all__ = [
    "MODELS",
    "FindLora",
    "FindModel",
    "FoundLora",
    "Imported",
    "Note",
    "Outcome",
    "Record",
    "asked_here",
    "check_room",
    "disagreements",
    "import_request",
    "read",
    "read_texts",
    "record_in",
    "save",
    "strip",
    "stripped",
    "texts_of",
]

_JPEG_BYTES = 65533
_PNG_PAINTED = {"compress_type": zlib.Z_RLE}
"""Painted pictures hardly repeat themselves: so they take a fourth of the time of Pillow's own, and are as small."""
_PNG_ENLARGED = {"compress_level": 4}
"""Pages of text and drawings do. Pillow's own 6 takes more than twice the time for files that are 3 % smaller."""
_PROVENANCE_BYTES = 4096
"""Room kept for what the engine reports."""


def save(
    image: Image.Image,
    file: BinaryIO,
    record: Record,
    *,
    output_format: OutputFormat,
    source: Path | None = None,
    provenance_mark: bool = True,
) -> None:
    """Write a picture with its record, natively and as A1111 infotext.

    Args:
        image: RGB.
        file: where to; opened for binary writing.
        record: how the picture came to be.
        output_format: png is lossless; jpeg and webp are written at quality 95, avif at 90.
        source: the picture that this one is, larger, where its request paints nothing.
        provenance_mark: say in the words of IPTC, as XMP, that the picture was generated.
    """
    said = _said_by(source) if source is not None else {}
    texts = _texts(record, said)
    kind = provenance.source_type(record.request, said.get(XMP, ""))
    xmp = provenance.xmp(kind) if provenance_mark and kind else ""
    match output_format:
        case "png":
            chunks = PngInfo()
            for key, text in texts.items():
                chunks.add_text(key, text)
            if xmp:
                chunks.add_itxt(XMP, xmp)
            packing = _PNG_ENLARGED if record.request.paints_nothing else _PNG_PAINTED
            image.save(file, format="PNG", pnginfo=chunks, **packing)
        case "jpeg":
            image.save(file, format="JPEG", quality=95, subsampling=0, exif=_to_exif(texts), xmp=xmp.encode())
        case "webp":
            image.save(file, format="WEBP", quality=95, method=4, exif=_to_exif(texts), xmp=xmp.encode())
        case "avif":
            exif = _to_exif(texts)
            image.save(file, format="AVIF", quality=AVIF_QUALITY, subsampling="4:4:4", exif=exif, xmp=xmp.encode())


def check_room(request: ResolvedRequest, *, source: Path | None = None) -> None:
    """Refuse a request whose record will not fit into its format, or whose format cannot be written here.

    Args:
        request: one picture.
        source: as for `save`.

    Raises:
        InvalidRequest: JPEG keeps 64 KiB of EXIF, and the prompts need more; or Pillow was built without AVIF.
    """
    if request.output_format == "avif" and not features.check("avif"):
        raise InvalidRequest("output_format avif: Pillow was built without it; choose webp", field="output_format")
    if request.output_format != "jpeg":
        return
    said = _said_by(source) if source is not None else {}
    needed = len(_to_exif(_texts(Record("0" * 16, 0, 0.0, request, {}), said))) + _PROVENANCE_BYTES
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
    try:
        record = record_in(texts)
    except ValueError as error:
        raise NotFound(f"{path} carries a record that cannot be read: {error}") from error
    if record is None and (foreign := read_foreign(texts)) is not None and foreign.program == a1111_keys.OURS:
        raise NotFound(
            f"{path} says that {a1111_keys.OURS} made it, but its record is gone, and only that repeats a picture; "
            "`studio read` shows what its infotext still tells"
        )
    if record is None:
        raise NotFound(f"{path} was not made by Open Weights Studio; it carries {', '.join(texts) or 'no metadata'}")
    return record


def record_in(texts: Mapping[str, str]) -> Record | None:
    """Return our record among the texts of a picture, if there is one.

    Raises:
        ValueError: it cannot be read.
    """
    text = texts.get(native.ENLARGED, texts.get(native.KEY))
    return None if text is None else native.read(text)


def _said_by(source: Path) -> dict[str, str]:
    try:
        return read_texts(source)
    except NotFound:  # EXIF that is damaged says nothing, and the pixels are good
        return {}


def _texts(record: Record, said: Mapping[str, str]) -> dict[str, str]:
    """Return what a picture says: of itself, or, where nothing was painted, what its source says and what enlarged it.

    Args:
        record: of the picture.
        said: the texts of its source.
    """
    if not record.request.paints_nothing:
        return {native.KEY: native.write(record), a1111_keys.KEY: a1111_writing.write(record)}
    kept = {key: text for key, text in said.items() if key.isascii() and key not in {XMP, *a1111_keys.EXTRAS}}
    extras = a1111_writing.write_extras(record.request)
    return {**kept, native.ENLARGED: native.write(record), a1111_keys.EXTRAS[0]: extras}


def _to_exif(texts: Mapping[str, str]) -> bytes:
    zeroth, comment = {}, {}
    if native.KEY in texts:
        zeroth[piexif.ImageIFD.ImageDescription] = texts[native.KEY].encode()
    if native.ENLARGED in texts:
        zeroth[piexif.ImageIFD.Make] = f"{native.ENLARGED}: {texts[native.ENLARGED]}".encode()
    if a1111_keys.KEY in texts:
        infotext = piexif.helper.UserComment.dump(texts[a1111_keys.KEY], encoding="unicode")
        comment[piexif.ExifIFD.UserComment] = infotext
    exif: bytes = piexif.dump({"0th": zeroth, "Exif": comment})
    return exif
