"""What the fields of a pydantic model demand, and the sentence that says what is wrong with a value."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from pipelines.spec.errors import InvalidRequest

_SENTENCES: Mapping[str, str] = {
    "missing": "{field} is missing",
    "string_unicode": "{field} holds half of a surrogate pair, got {value}; remove it",
    "finite_number": "{field} must be a finite number, got {value}",
    "string_pattern_mismatch": "{field} must be the id of a stored input (64 hexadecimal digits), got {value}; "
    "store the image first",
}
"""pydantic's type of an error -> what is said of it."""


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
    if sentence := _SENTENCES.get(first["type"]):
        return InvalidRequest(sentence.format(field=field, value=_short(value)), field=field)
    match first["type"]:
        case "extra_forbidden":
            return _unknown(str(field), rules, other_names)
        case "value_error":
            return InvalidRequest(f"{field} {context['error']}", field=field)
        case "too_long":
            most, count = context["max_length"], context["actual_length"]
            return InvalidRequest(f"{field} has {count} entries, and {most} is the most; leave some out", field=field)
        case "multiple_of":
            rule = f"{field} must be a multiple of {context['multiple_of']}, got {_short(value)}"
            return InvalidRequest(f"{rule}; try {_multiples_near(value, rules[str(field)])}", field=field)
    bound = rules.get(str(field), {})
    if first["type"].startswith(("greater_than", "less_than")):
        low = f"above {bound['exclusiveMinimum']}" if "exclusiveMinimum" in bound else f"at least {bound['minimum']}"
        return InvalidRequest(f"{field} must be {low} and at most {bound['maximum']}, got {_short(value)}", field=field)
    return InvalidRequest(f"{field}: {first['msg'].lower()}, got {_short(value)}", field=field)


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
