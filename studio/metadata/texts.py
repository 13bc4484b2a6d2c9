"""The texts inside a picture file: PNG text chunks, EXIF, XMP, GIF comments, alpha bits; or one that stands alone.

Not what they mean.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from PIL import ExifTags, Image, UnidentifiedImageError

from pipelines.spec.errors import NotFound
from studio.metadata import a1111_keys, native, stealth
from studio.metadata.foreign import json_object

XMP = "XML:com.adobe.xmp"
"""The key of PNG's text chunk for XMP; other containers have a place of their own for it."""
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF")
_KINDS = "PNG, JPEG, WebP, AVIF or GIF picture"

_KEYED = re.compile(r"(\w{1,64}):\s*([\[{].*)", re.DOTALL)
"""How ComfyUI keeps several texts in EXIF: the key before the JSON."""
_KEYED_TAGS = (ExifTags.Base.Model, ExifTags.Base.Make, ExifTags.Base.ImageDescription)


def read_texts(path: Path) -> dict[str, str]:
    """Return every metadata text of a picture, by its key; of a .txt file, the one that it is.

    Raises:
        NotFound: no such file, or not a picture.
    """
    try:
        if path.suffix.lower() == ".txt":
            return texts_of(path.read_bytes())
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as image:
            match image.format:
                case "PNG":
                    image.load()  # text may stand behind the pixels
                    texts = {str(key): str(value) for key, value in image.info.items() if isinstance(value, str)}
                    return stealth.read(image) | texts
                case "GIF":
                    return _from_comment(image.info.get("comment"))
            xmp = image.info.get("xmp")
            packet = {XMP: xmp.decode("utf-8", "replace")} if isinstance(xmp, bytes) else {}
            return dict(_from_exif(image)) | packet
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}") from error
    except UnidentifiedImageError as error:
        raise NotFound(f"{path} is not a {_KINDS}") from error
    except (OSError, ValueError, SyntaxError, RuntimeError, Image.DecompressionBombError) as error:
        raise NotFound(f"{path} is not a readable {_KINDS}: {error}") from error


def texts_of(text: str | bytes) -> dict[str, str]:
    """Return a text that was copied out of a picture by the key that it has there: our record, else an infotext.

    Raises:
        NotFound: bytes that are no UTF-8.
    """
    try:
        text = (text if isinstance(text, str) else text.decode("utf-8-sig")).strip()
    except UnicodeDecodeError as error:
        raise NotFound(f"the text is not UTF-8: {error}") from error
    is_record = "schema" in (json_object(text) or {})
    return {native.KEY if is_record else a1111_keys.KEY: text} if text else {}


def decode_comment(comment: bytes, *, little_endian: bool = False) -> str | None:
    """Return the text of an EXIF UserComment, None if it is none: cameras keep other things there.

    Args:
        comment: 8 bytes that name the encoding, then the text.
        little_endian: the byte order of the EXIF around it, which decides where the text itself does not.

    Raises:
        ValueError: it is not in the encoding that it names.
    """
    code, text = comment[:8], comment[8:]
    match code:
        case b"UNICODE\0":
            return _utf16(text, little_endian=little_endian)
        case b"ASCII\0\0\0":
            return text.decode("utf-8").rstrip("\0 ")
        case b"JIS\0\0\0\0\0":
            return text.decode("iso2022_jp" if b"\x1b" in text else "shift_jis")
    with suppress(UnicodeDecodeError):
        plain = (text if code == bytes(8) else comment).decode("utf-8").strip("\0 ")
        return plain if plain and "\0" not in plain else None
    return None


def _utf16(data: bytes, *, little_endian: bool) -> str:
    """EXIF says big endian; others write the machine's order. In either, ASCII letters have a zero on one side."""
    high, low = data[0::2].count(0), data[1::2].count(0)
    if high == low:
        little_endian = data.startswith(b"\xff\xfe") or (little_endian and not data.startswith(b"\xfe\xff"))
    else:
        little_endian = low > high
    return data.decode("utf-16-le" if little_endian else "utf-16-be").removeprefix("\ufeff").rstrip("\0")


def _from_exif(image: Image.Image) -> Iterator[tuple[str, str]]:
    """Read with Pillow: a hostile length keeps piexif busy for a minute."""
    try:
        exif = image.getexif()
        comment = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
        for tag in _KEYED_TAGS:
            value = exif.get(tag)
            if isinstance(value, str) and (keyed := _KEYED.fullmatch(value)):
                yield keyed[1], keyed[2]
            elif isinstance(value, str) and value:
                ours = tag == ExifTags.Base.ImageDescription and value.startswith("{")
                yield (native.KEY if ours else tag.name), value
        if isinstance(comment, bytes):
            comment = decode_comment(comment, little_endian=exif.endian == "<")
        if isinstance(comment, str) and comment:
            yield a1111_keys.KEY, comment
    except Exception as error:
        raise ValueError(f"its EXIF is damaged: {error}") from error


def _from_comment(comment: object) -> dict[str, str]:
    if not isinstance(comment, bytes) or not comment:
        return {}
    try:
        return {a1111_keys.KEY: comment.decode("utf-8")}
    except UnicodeDecodeError:
        return {a1111_keys.KEY: comment.decode("latin-1")}
