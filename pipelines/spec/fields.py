"""What the fields of a pydantic model demand, and the sentence that says what is wrong with a value."""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipelines.spec.errors import InvalidRequest

_SENTENCES: Mapping[str, str] = {
    "missing": "{field} is missing",
    "string_unicode": "{field} holds half of a surrogate pair, got {value}; remove it",
    "string_type": "{field} must be a text, got {value}",
    "string_too_short": "{field} must not be empty, got {value}",
    "bool_type": "{field} must be true or false, got {value}",
    "int_type": "{field} must be {wanted}, got {value}",
    "float_type": "{field} must be {wanted}, got {value}",
    "literal_error": "{field} must be {expected}, got {value}",
    "model_type": "{field} must be a text such as ink:0.8, or its parts by name, got {value}",
    "finite_number": "{field} must be a finite number, got {value}",
    "extra_forbidden": "{field} is unknown, got {value}; leave it out",
    "string_too_long": "{field} must have at most {max_length} characters, got {value}; shorten it",
}
"""pydantic's type of an error -> what is said of it."""


@cache
def field_rules(model: type[BaseModel]) -> Mapping[str, Mapping[str, Any]]:
    """Return each field's JSON schema (minimum, maximum, multipleOf, description, default, …).

    What stands beside null is folded in: "an integer or nothing" reads as an integer.
    """
    fields: dict[str, dict[str, Any]] = model.model_json_schema()["properties"]
    return {name: _folded(schema) for name, schema in fields.items()}


def wanted(rule: Mapping[str, Any]) -> str:
    """Return what a field of numbers wants, in words: "a whole number from 1 to 200"."""
    kind = "a whole number" if rule["type"] == "integer" else "a number"
    low = f"above {rule['exclusiveMinimum']}" if "exclusiveMinimum" in rule else f"from {rule.get('minimum')}"
    return f"{kind} {low} to {rule['maximum']}" if "maximum" in rule else kind


def explained(error: ValidationError, model: type[BaseModel], *, other_names: Mapping[str, str]) -> InvalidRequest:
    """Return pydantic's first complaint as one sentence with the field, the value and the way out.

    Args:
        error: raised for values of the model.
        model: whose fields they should have been.
        other_names: what other programs call a field -> its name here.
    """
    first = error.errors(include_url=False)[0]
    field = str(first["loc"][0])
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        return _unknown(field, field_rules(model), other_names)
    return InvalidRequest(_sentence(first, rule=_rule(model, first["loc"])), field=field)


def _sentence(error: ErrorDetails, *, rule: Mapping[str, Any]) -> str:
    """Say what is wrong with a value, and what its schema wants."""
    kind, place, value, context = error["type"], _place(error["loc"]), error["input"], error.get("ctx", {})
    if template := _SENTENCES.get(kind):
        words = {"wanted": wanted(rule)} if kind in {"int_type", "float_type"} else {}
        return template.format(field=place, value=_short(value), **words, **context)
    match kind:
        case "string_pattern_mismatch" if len(error["loc"]) == 1:
            stored = "the id of a stored input (64 hexadecimal digits)"
            return f"{place} must be {stored}, got {_short(value)}; store the image first"
        case "tuple_type":
            way_out = f"; give a list: [{json.dumps(value[:60])}]" if isinstance(value, str) else ""
            return f"{place} must be a list, got {_short(value)}{way_out}"
        case "value_error":
            return f"{place} {context['error']}"
        case "too_long":
            most, count = context["max_length"], context["actual_length"]
            return f"{place} has {count} entries, and {most} is the most; leave some out"
        case "multiple_of":
            refused = f"{place} must be a multiple of {context['multiple_of']}, got {_short(value)}"
            return f"{refused}; try {_multiples_near(value, rule)}"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            low = f"above {rule['exclusiveMinimum']}" if "exclusiveMinimum" in rule else f"at least {rule['minimum']}"
            return f"{place} must be {low} and at most {rule['maximum']}, got {_short(value)}"
    return f"{place}: {error['msg'].lower()}, got {_short(value)}"


def _rule(model: type[BaseModel], location: tuple[int | str, ...]) -> Mapping[str, Any]:
    """Return the JSON schema of what stands at a place inside a model; empty where nothing may stand."""
    schema: Mapping[str, Any] = model.model_json_schema()
    definitions = schema.get("$defs", {})
    for part in location:
        inner = schema.get("properties", {}).get(part) or schema.get("items") or schema.get("additionalProperties")
        schema = _folded(inner or {})
        if "$ref" in schema:
            schema = definitions[schema["$ref"].rpartition("/")[2]]
    return schema


def _folded(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Fold what stands beside null in."""
    folded = dict(schema)
    for variant in folded.pop("anyOf", ()):
        if variant.get("type") != "null":
            folded |= variant
    return folded


def _unknown(field: str, rules: Mapping[str, Any], other_names: Mapping[str, str]) -> InvalidRequest:
    name = other_names.get(field)
    way_out = f"say {name}" if name else f"the fields are {', '.join(rules)}"
    return InvalidRequest(f"{field} is not a field of a request; {way_out}")


def _multiples_near(value: float, rule: Mapping[str, Any]) -> str:
    step, low, high = (rule[bound] for bound in ("multipleOf", "minimum", "maximum"))
    below = int(value) // step * step
    return " or ".join(map(str, sorted({min(max(side, low), high) for side in (below, below + step)})))


def _place(location: tuple[int | str, ...]) -> str:
    """Return where in a field something stands, as in loras[0].weight."""
    field, *inner = location
    return str(field) + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in inner)


def _short(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 200:  # Python refuses to print numbers of 4300 digits
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
