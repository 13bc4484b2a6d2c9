"""Which texts of a request are still to be written out: {a|b} and __wildcards__ are a template's, styles add pieces.

How they are written out is not known here.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

TEMPLATES: Mapping[str, str] = MappingProxyType(
    {
        "prompt": "template",
        "negative_prompt": "negative_template",
        "hires_prompt": "hires_template",
        "hires_negative_prompt": "hires_negative_template",
    }
)
"""A text -> the field that keeps what it was made from. Where that is given, the text is taken as it stands."""

_TEMPLATE = re.compile(r"\{[^{}]*\}|__\S+?__")


def is_template(text: str) -> bool:
    """Whether a text is still to be expanded; a brace without its partner is text."""
    return _TEMPLATE.search(text) is not None


def open_brace(text: str) -> str | None:
    """Return what stands behind a brace that is never closed in a text that is therefore no template."""
    brace = text.find("{")
    return None if brace < 0 or is_template(text) or text[:brace].endswith("\\") else text[brace:]


def as_it_stands(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a request with a note on each text that would otherwise be taken for a template."""
    notes = {
        note: fields[field]
        for field, note in TEMPLATES.items()
        if fields.get(note) is None and is_template(fields.get(field) or "")
    }
    return {**fields, **notes}
