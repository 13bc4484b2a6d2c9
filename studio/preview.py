"""Live previews as they are stored in a job's row: small JPEG files."""

import io

from PIL import Image

MAX_SIDE = 512


def encode_preview(image: Image.Image) -> bytes:
    """Return a JPEG of at most 512 pixels a side."""
    small = image.convert("RGB")
    small.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=80)
    return buffer.getvalue()
