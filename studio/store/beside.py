"""What lies beside a LoRA file: notes of A1111 and Civitai, and a picture, made small. Anyone may have made them."""

import base64
import binascii
import io
import json
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pipelines.spec.characters import whole
from pipelines.spec.errors import NotFound
from pipelines.spec.pictures import upright

NOTES = (".json", ".civitai.info")
"""How notes are called, behind the file's name: A1111's, and those of its extension for Civitai."""
MAX_NOTES_BYTES = 2**20
MAX_WORDS = 20
_MAX_TEXT = 2000

PREVIEW_SIDE = 256
MAX_PREVIEW_BYTES = 32 * 2**20
MAX_PREVIEW_PIXELS = 64 * 10**6
_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF")
_DATA_URI = re.compile(r"data:image/(?:png|jpe?g|webp);base64,(.+)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Notes:
    """What someone noted about a LoRA. Empty or None: nothing."""

    trigger_words: tuple[str, ...] = ()
    preferred_weight: float | None = None
    description: str = ""


def read_notes(paths: Iterable[Path]) -> Notes:
    """Return what notes say, the first of them first; what cannot be read says nothing."""
    said = [_json(path) for path in paths]
    words = dict.fromkeys(word for each in said for word in _words(each))
    weights = (each.get("preferred weight") for each in said)
    return Notes(
        tuple(words)[:MAX_WORDS],
        next((float(weight) for weight in weights if isinstance(weight, int | float) and 0 < abs(weight) <= 10), None),
        next((text for each in said if (text := _text(each.get("description")))), ""),
    )


def small_picture(source: Path | str) -> bytes:
    """Return a picture as a small WebP without metadata.

    Args:
        source: a file, or a data URI as modelspec.thumbnail holds.

    Raises:
        NotFound: it cannot be read, is no picture that browsers know, or is too large.
    """
    try:
        data = _read(source)
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PREVIEW_PIXELS:
                raise ValueError(f"{image.width}×{image.height} pixels are too many")
            image.thumbnail((2 * PREVIEW_SIDE, 2 * PREVIEW_SIDE))
            small = upright(image).convert("RGBA")
        small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
        small.info.clear()
        buffer = io.BytesIO()
        small.save(buffer, format="WEBP", quality=85, method=2)
    except (OSError, ValueError, SyntaxError, RuntimeError, EOFError, Image.DecompressionBombError) as error:
        raise NotFound(f"the preview cannot be shown: {error}") from error
    return buffer.getvalue()


def _read(source: Path | str) -> bytes:
    if isinstance(source, Path):
        with source.open("rb") as file:
            data = file.read(MAX_PREVIEW_BYTES + 1)
    else:
        encoded = _DATA_URI.fullmatch(source)
        if encoded is None:
            raise ValueError("it is no PNG, JPEG or WebP")
        try:
            data = base64.b64decode(encoded[1], validate=True)
        except binascii.Error as error:
            raise ValueError(f"it is damaged: {error}") from error
    if len(data) > MAX_PREVIEW_BYTES:
        raise ValueError(f"it has more than {MAX_PREVIEW_BYTES // 2**20} MiB")
    return data


def _json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = json.loads(file.read(MAX_NOTES_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _words(said: dict[str, Any]) -> Iterator[str]:
    """Yield A1111's activation text as one phrase, and Civitai's words one by one."""
    trained = said.get("trainedWords")
    for words in (said.get("activation text"), *(trained if isinstance(trained, list) else ())):
        if text := _text(words).strip(", "):
            yield text


def _text(value: object) -> str:
    return whole(" ".join(value.split())[:_MAX_TEXT]) if isinstance(value, str) else ""
