"""Copies of pictures without metadata. Coded pixels are copied byte for byte, except those of AVIF: coded anew."""

import io
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path

import piexif
from PIL import ExifTags, Image, UnidentifiedImageError

from pipelines.spec.errors import InvalidRequest, NotFound

AVIF_QUALITY = 90
_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = frozenset(
    {
        *(b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"acTL", b"fcTL", b"fdAT"),
        *(b"cHRM", b"cICP", b"gAMA", b"iCCP", b"sBIT", b"sRGB", b"pHYs"),
    }
)
"""Pixels, and how their colours are meant."""
_WEBP_KEPT = frozenset({b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF", b"ICCP"})
_WEBP_HAS_EXIF_OR_XMP = 0x08 | 0x04


def strip(path_in: Path, path_out: Path) -> None:
    """Copy a picture without its metadata; see `stripped`.

    Raises:
        NotFound: as `stripped`.
        InvalidRequest: both paths are the same file.
    """
    if path_out.exists() and path_in.exists() and path_out.samefile(path_in):
        raise InvalidRequest(f"cannot copy {path_in} onto itself; choose another name", field="path_out")
    path_out.write_bytes(stripped(path_in))


def stripped(path: Path) -> bytes:
    """Return a picture's file without its metadata: no texts, EXIF, XMP or IPTC, thumbnails or notes of the camera.

    Colour profiles stay, and so does the EXIF orientation, as nothing but that. What a picture hides in its pixels
    (the alpha bits of NovelAI and Forge) stays too. PNG, JPEG and WebP keep their pixels; AVIF loses a little.

    Raises:
        NotFound: no such file, or no whole PNG, JPEG, WebP or AVIF picture.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=_FORMATS) as image:
            data = path.read_bytes()
            match image.format:
                case "PNG":
                    return b"".join(_png(data))
                case "JPEG":
                    return b"".join(_jpeg(data, orientation=_orientation(image)))
                case "WEBP":
                    return _webp(data, orientation=_orientation(image))
                case _:
                    return _avif(image)
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}") from error
    except UnidentifiedImageError as error:
        raise NotFound(f"{path} is not a PNG, JPEG, WebP or AVIF picture") from error
    except (OSError, ValueError, SyntaxError, RuntimeError, struct.error, Image.DecompressionBombError) as error:
        raise NotFound(f"{path} is not a whole PNG, JPEG, WebP or AVIF picture: {error}") from error


def _png(data: bytes) -> Iterator[bytes]:
    yield _PNG_SIGNATURE
    at, kind = len(_PNG_SIGNATURE), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise ValueError("it ends in the middle of a chunk")
        if kind in _PNG_KEPT:
            yield data[at:end]
        at = end


def _jpeg(data: bytes, *, orientation: bytes) -> Iterator[bytes]:
    """Copy the segments up to the end of the image, without application data and comments."""
    yield data[:2]
    if orientation:
        yield b"\xff\xe1" + struct.pack(">H", len(orientation) + 2) + orientation
    at = 2
    while True:
        marker = data[at : at + 2]
        if len(marker) < 2 or marker[0] != 0xFF:
            raise ValueError("it ends before its end of image")
        if marker == b"\xff\xff":  # padding
            at += 1
        elif marker == b"\xff\xd9":
            yield marker
            return
        else:
            end = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
            scan_end = _scan_end(data, end) if marker == b"\xff\xda" else end
            if _is_kept(marker[1], data[at + 4 : end]):
                yield data[at:scan_end]
            at = scan_end


def _is_kept(marker: int, content: bytes) -> bool:
    if marker == 0xE2:
        return content.startswith(b"ICC_PROFILE\0")
    return marker in {0xE0, 0xEE} or not (0xE0 <= marker <= 0xEF or marker == 0xFE)  # JFIF, Adobe; APPn, comment


def _scan_end(data: bytes, at: int) -> int:
    """Return where the entropy-coded data ends: at a marker that is neither a stuffed zero nor a restart."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            raise ValueError("it ends in the middle of its pixels")
        if data[at + 1] != 0 and not 0xD0 <= data[at + 1] <= 0xD7:
            return at
        at += 2


def _webp(data: bytes, *, orientation: bytes) -> bytes:
    chunks = bytearray()
    end = min(len(data), 8 + struct.unpack_from("<I", data, 4)[0])
    at = 12
    while at + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, at)
        following = at + 8 + length + length % 2
        if at + 8 + length > len(data):
            raise ValueError("it ends in the middle of a chunk")
        if kind in _WEBP_KEPT:
            start = len(chunks)
            chunks += data[at:following]
            if kind == b"VP8X":
                chunks[start + 8] &= ~_WEBP_HAS_EXIF_OR_XMP & 0xFF
                chunks[start + 8] |= 0x08 if orientation else 0
        at = following
    if orientation and chunks.startswith(b"VP8X"):
        chunks += b"EXIF" + struct.pack("<I", len(orientation)) + orientation + b"\0" * (len(orientation) % 2)
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + bytes(chunks)


def _avif(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    orientation = _orientation(image)
    image.load()
    image.info.clear()
    image.save(buffer, format="AVIF", quality=AVIF_QUALITY, subsampling="4:4:4", exif=orientation or None, xmp=None)
    return buffer.getvalue()


def _orientation(image: Image.Image) -> bytes:
    """Return EXIF that says how to turn the picture and nothing else; empty if it stands upright."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception as error:
        raise ValueError(f"its EXIF is damaged: {error}") from error
    if value not in range(2, 9):
        return b""
    return bytes(piexif.dump({"0th": {piexif.ImageIFD.Orientation: value}}))
