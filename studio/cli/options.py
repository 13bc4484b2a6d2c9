"""Command-line options made from the fields of a pydantic model: name, type, help and bounds stand there, not here."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import typer

_TYPES: Mapping[str, type] = {"integer": int, "number": float, "string": str, "array": str}


def add_options(
    function: Callable[..., None], schemas: Mapping[str, Mapping[str, Any]], *, metavars: Mapping[str, str]
) -> Callable[..., None]:
    """Give a command one option per field, in front of its own parameters; it receives them as `**fields`.

    Args:
        function: takes `**fields`; a field that is not given is not passed.
        schemas: JSON schema of each field, by name.
        metavars: what stands for the value in the help, for fields that need a word of their own.
    """
    own = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    options = [_option(name, schema, metavars.get(name)) for name, schema in schemas.items()]

    def command(**values: Any) -> None:
        fields = {name: values.pop(name) for name in schemas}
        function(**values, **{name: value for name, value in fields.items() if value is not None})

    parameters = [*own, *options]
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _option(name: str, schema: Mapping[str, Any], metavar: str | None) -> inspect.Parameter:
    kind = _TYPES[schema.get("type", "string")]
    info = typer.Option(f"--{name.replace('_', '-')}", help=_help(schema), metavar=metavar, show_default=False)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, info]
    )


def _help(schema: Mapping[str, Any]) -> str:
    notes = []
    if "minimum" in schema or "exclusiveMinimum" in schema:
        low = schema.get("minimum", schema.get("exclusiveMinimum"))
        notes.append(f"{low} to {schema['maximum']}" if "maximum" in schema else f"from {low}")
    if "enum" in schema:
        notes.append(", ".join(map(str, schema["enum"])))
    if isinstance(schema.get("default"), str | int | float) and schema["default"] != "":
        notes.append(f"default {schema['default']}")
    text = str(schema.get("description", ""))
    return f"{text} ({'; '.join(notes)})" if notes else text


def field_schemas(schema: Mapping[str, Any], names: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """Return the schema of each named field of a model's JSON schema, with its variants other than null folded in."""
    found: dict[str, Mapping[str, Any]] = {}
    for name in names:
        field = dict(schema["properties"][name])
        for variant in field.pop("anyOf", ()):
            if variant.get("type") != "null":
                field |= variant
        found[name] = field
    return found
