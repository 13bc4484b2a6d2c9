"""Our own format: the whole record as JSON, in the text field `studio`.

A picture that was only made larger keeps that of its source; its own record stands beside it, in `studio_enlarged`.
"""

import json

from pipelines.spec.errors import InvalidRequest
from studio.metadata.record import Record

KEY = "studio"
ENLARGED = "studio_enlarged"


def write(record: Record) -> str:
    """Return the text to store; ASCII only, so that every container can hold it."""
    return json.dumps(record.to_json())


def read(text: str) -> Record:
    """Parse the text back.

    Raises:
        ValueError: it is not a record of ours.
    """
    try:
        data = json.loads(text)
        json.dumps(
            data, ensure_ascii=False
        ).encode()  # JSON can spell half of a surrogate pair; nothing else can hold it
        record = Record.from_json(data)
        record.request.asked()
    except (RecursionError, InvalidRequest) as error:
        raise ValueError(f"not a record of Open Weights Studio: {error}") from error
    return record
