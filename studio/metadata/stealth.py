"""Infotext hidden in the lowest bits of a picture's alpha, as NovelAI and Forge do. Read only; we hide nothing."""

import gzip
import io
import zlib

import numpy as np
from PIL import Image

from studio.metadata import a1111_keys
from studio.metadata.foreign import json_object, text_of

_PACKED, _PLAIN = b"stealth_pngcomp", b"stealth_pnginfo"
_MAX_BYTES = 4 * 2**20
"""Gzip can unfold a small picture into gigabytes."""


def read(image: Image.Image) -> dict[str, str]:
    """Return the texts hidden in a picture; none is the usual answer.

    The bits run down the columns, from left to right: signature, length in bits (32, big endian), text.

    Raises:
        ValueError: there is a text, and it is damaged.
    """
    if image.mode != "RGBA":
        return {}
    bits = np.asarray(image.getchannel("A")).T.reshape(-1) & 1
    head = np.packbits(bits[: 8 * (len(_PACKED) + 4)]).tobytes()
    signature, length = head[:-4], int.from_bytes(head[-4:], "big")
    if signature not in {_PACKED, _PLAIN}:
        return {}
    start = 8 * len(head)
    data = np.packbits(bits[start : start + length]).tobytes()
    if signature == _PACKED:
        data = _unpacked(data)
    text = data.decode("utf-8")
    if (texts := json_object(text)) is not None:  # NovelAI's own texts, by their keys
        return {key: text_of(value) for key, value in texts.items() if text_of(value)}
    return {a1111_keys.KEY: text}


def _unpacked(data: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            text = file.read(_MAX_BYTES + 1)
    except (EOFError, zlib.error) as error:
        raise ValueError(f"the text hidden in its alpha is damaged: {error}") from error
    if len(text) > _MAX_BYTES:
        raise ValueError(f"the text hidden in its alpha is longer than {_MAX_BYTES} bytes")
    return text
