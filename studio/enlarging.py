"""A finished picture, larger: the request that paints it as before and then a second time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.spec.hires import SIZE_FIELDS
from pipelines.spec.request import GenerationRequest
from studio import metadata

DEFAULT_SCALE = 2.0


def enlarged(path: Path, fields: Mapping[str, Any]) -> GenerationRequest:
    """Return the request that a picture's record makes, with a second pass.

    The first pass is that of the picture, bit for bit. What the record says of a second pass stays unless a field says
    otherwise; a new size replaces the old one.

    Args:
        path: a picture made here.
        fields: those of the second pass; without a size, and without one in the record, it becomes twice as large.

    Raises:
        NotFound: no such file, or one without a record of ours.
        InvalidRequest: naming the field.
    """
    record = metadata.read(path).request
    values = record.asked().model_dump()
    if any(fields.get(field) is not None for field in SIZE_FIELDS):
        values |= dict.fromkeys(SIZE_FIELDS)
    elif record.enlargement is None:
        values["hires_scale"] = DEFAULT_SCALE
    return GenerationRequest.parse({**values, **fields})
