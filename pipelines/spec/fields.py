"""What the fields of a pydantic model demand, and the sentence that says what is wrong with a value."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from pipelines.spec.errors import InvalidRequest


@cache
def field_rules(model: type[BaseModel]) -> Mapping[str, Mapping[str, Any]]:
    """Return each field's JSON schema (minimum, maximum, multipleOf, description, default, …).

    What stands beside null is folded in: "an integer or nothing" reads as an integer.
    """
    fields: dict[str, dict[str, Any]] = model.model_json_schema()["properties"]
    for field in fields.values():
        for variant in field.pop("anyOf", ()):
            if variant["type"] != "null":
                field |= variant
    return fields


def explained(error: ValidationError, model: type[BaseModel], *, other_names: Mapping[str, str]) -> InvalidRequest:
    """Return pydantic's first complaint as one sentence with the field, the value and the way out.

    Args:
        error: raised for values of the model.
        model: whose fields they should have been.
        other_names: what other programs call a field -> its name here.
    """
    rules = field_rules(model)
    first = error.errors(include_url=False)[0]
    field = str(first["loc"][0]) if first["loc"] else None
    value, context = first["input"], first.get("ctx", {})
    if len(first["loc"]) > 1:
        return InvalidRequest(f"{_place(first['loc'])}: {first['msg'].lower()}, got {_short(value)}", field=field)
    match first["type"]:
        case "extra_forbidden":
            name = other_names.get(str(field))
            way_out = f"say {name}" if name else f"the fields are {', '.join(rules)}"
            return InvalidRequest(f"{field} is not a field of a request; {way_out}")
        case "missing":
            return InvalidRequest(f"{field} is missing", field=field)
        case "value_error":
            return InvalidRequest(f"{field} {context['error']}", field=field)
        case "too_long":
            most, count = context["max_length"], context["actual_length"]
            return InvalidRequest(f"{field} has {count} entries, and {most} is the most; leave some out", field=field)
        case "multiple_of":
            step = context["multiple_of"]
            below = int(value) // step * step
            low, high = (rules[str(field)][bound] for bound in ("minimum", "maximum"))
            near = sorted({min(max(side, low), high) for side in (below, below + step)})
            tries = " or ".join(map(str, near))
            return InvalidRequest(
                f"{field} must be a multiple of {step}, got {_short(value)}; try {tries}", field=field
            )
        case "string_unicode":
            return InvalidRequest(
                f"{field} holds half of a surrogate pair, got {_short(value)}; remove it", field=field
            )
        case "finite_number":
            return InvalidRequest(f"{field} must be a finite number, got {value}", field=field)
        case "string_pattern_mismatch":
            return InvalidRequest(
                f"{field} must be the id of a stored input (64 hexadecimal digits), got {_short(value)}; "
                "store the image first",
                field=field,
            )
    rule = rules.get(str(field), {})
    if first["type"].startswith(("greater_than", "less_than")):
        low = f"above {rule['exclusiveMinimum']}" if "exclusiveMinimum" in rule else f"at least {rule['minimum']}"
        return InvalidRequest(f"{field} must be {low} and at most {rule['maximum']}, got {_short(value)}", field=field)
    return InvalidRequest(f"{field}: {first['msg'].lower()}, got {_short(value)}", field=field)


def _place(location: tuple[int | str, ...]) -> str:
    """Return where in a field something stands, as in loras[0].weight."""
    field, *inner = location
    return str(field) + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in inner)


def _short(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 200:  # Python refuses to print numbers of 4300 digits
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
