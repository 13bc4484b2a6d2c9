"""Our own format: the whole record as JSON, in the text field `studio`."""

import json

from studio.metadata.record import Record

KEY = "studio"


def write(record: Record) -> str:
    """Return the text to store; ASCII only, so that every container can hold it."""
    return json.dumps(record.to_json())


def read(text: str) -> Record:
    """Parse the text back.

    Raises:
        ValueError: it is not a record of ours.
    """
    try:
        return Record.from_json(json.loads(text))
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"not a record of Open Weights Studio: {error!r}") from error
