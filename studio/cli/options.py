"""Command-line options made from the fields of a pydantic model: name, type, help and bounds stand there, not here."""

import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from pipelines.spec.errors import InvalidRequest
from pipelines.spec.fields import field_rules, wanted
from pipelines.spec.request import GenerationRequest
from studio.settings import Settings

SETTINGS_EPILOG = (
    "Settings are options of this command too, for example --home or --outputs: see `studio serve --help`."
)

_TYPES: Mapping[str, Any] = {"boolean": bool, "array": list[str]}
"""Type of a field -> that of its option; all others are text, and read here: typer's words for numbers name no rule."""
_NUMBERS: Mapping[str, type[int] | type[float]] = {"integer": int, "number": float}
_ONE_OF_MANY: Mapping[str, tuple[str, str]] = {
    "loras": ("--lora", "NAME[:WEIGHT…]"),
    "styles": ("--style", "NAME"),
}
"""Field that holds several values -> the option that gives one of them and may be repeated, and its value in a word."""


def with_request(
    function: Callable[..., None], *, metavars: Mapping[str, str], prefix: str = ""
) -> Callable[..., None]:
    """Give a command every field of a request but the prompt as an option; it receives those given as `fields`.

    Args:
        function: the command; has a parameter `fields`.
        metavars: what the help calls the value of a field that needs a word of its own.
        prefix: only the fields that begin so; the options do without it.
    """
    return with_fields(function, GenerationRequest, leave_out=("prompt",), metavars=metavars, prefix=prefix)


def with_fields(
    function: Callable[..., None],
    model: type[BaseModel],
    *,
    leave_out: Collection[str] = (),
    required: Collection[str] = (),
    metavars: Mapping[str, str] = MappingProxyType({}),
    prefix: str = "",
) -> Callable[..., None]:
    """Give a command the fields of a model as options; it receives those given as `fields`.

    Args:
        function: the command; has a parameter `fields`.
        model: whose fields they are.
        leave_out: fields that the command takes in another way.
        required: fields that must be given.
        metavars: what the help calls the value of a field that needs a word of its own.
        prefix: only the fields that begin so; the options do without it.
    """
    rules = {
        name.removeprefix(prefix): schema
        for name, schema in field_rules(model).items()
        if name not in leave_out and name.startswith(prefix)
    }
    options = [
        _option(
            name,
            schema,
            kind=_TYPES.get(schema["type"], str),
            metavar=f"<{kind.__name__}>" if (kind := _NUMBERS.get(schema["type"])) else metavars.get(f"{prefix}{name}"),
            is_required=f"{prefix}{name}" in required,
        )
        for name, schema in rules.items()
    ]
    return _extended(
        function,
        "fields",
        options,
        lambda given: {
            f"{prefix}{name}": _read(name, value, rules[name]) for name, value in given.items() if value != []
        },
    )


@contextmanager
def in_options(names: Mapping[str, str]) -> Iterator[None]:
    """Say of a request's fields what they are called on this command's line.

    Args:
        names: field -> what the user wrote.

    Raises:
        InvalidRequest: as inside, in these words.
    """
    try:
        yield
    except InvalidRequest as error:
        sentence = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), str(error))
        raise InvalidRequest(sentence, field=error.field) from error


def with_settings(function: Callable[..., None], *, hidden: bool = True) -> Callable[..., None]:
    """Give a command every setting as an option; it receives all of them, read and checked, as `settings`.

    Args:
        function: the command; has a parameter `settings`.
        hidden: keep them out of the help.
    """
    options = [  # text: settings are read from variables too, and explain themselves what they take
        _option(name, schema, kind=str, metavar=_metavar(schema), hidden=hidden)
        for name, schema in field_rules(Settings).items()
    ]
    return _extended(function, "settings", options, lambda given: Settings.load(**given))


def refuse_options_of(context: typer.Context, group: str) -> None:
    """Options before a subcommand would change nothing: `gallery --home A rm ID` must not delete elsewhere.

    Raises:
        InvalidRequest: there are some.
    """
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option, command = name.replace("_", "-"), context.invoked_subcommand
            raise InvalidRequest(f"--{option} must stand behind {command}: studio {group} {command} --{option} …")


def _read(name: str, value: Any, schema: Mapping[str, Any]) -> Any:
    """Return the value of an option; a number is read from its text."""
    if (kind := _NUMBERS.get(schema["type"])) is None:
        return value
    try:
        return kind(value)
    except ValueError as error:
        option = name.replace("_", "-")
        raise InvalidRequest(f"--{option} must be {wanted(schema)}, got {value!r:.60}", field=name) from error


def _extended(
    function: Callable[..., None],
    parameter: str,
    options: list[inspect.Parameter],
    collect: Callable[[dict[str, Any]], object],
) -> Callable[..., None]:
    """Replace one parameter of a command by options; those given are collected into its value."""

    def command(**values: Any) -> None:
        given = {option.name: values.pop(option.name) for option in options}
        collected = collect({name: value for name, value in given.items() if value is not None})
        function(**values, **{parameter: collected})

    signature = inspect.signature(function)
    own = [p.replace(kind=p.KEYWORD_ONLY) for p in signature.parameters.values() if p.name != parameter]
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in (*own, *options)}
    return command


def _option(
    name: str,
    schema: Mapping[str, Any],
    *,
    kind: Any,
    metavar: str | None,
    hidden: bool = False,
    is_required: bool = False,
) -> inspect.Parameter:
    text = _help(schema)
    names = []
    if kind == list[str]:
        names, metavar = [_ONE_OF_MANY[name][0]], _ONE_OF_MANY[name][1]
        text += " May be repeated."
    info = typer.Option(*names, help=text, metavar=metavar, show_default=False, hidden=hidden)
    default, annotation = (inspect.Parameter.empty, kind) if is_required else (None, kind | None)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, info]
    )


def _metavar(schema: Mapping[str, Any]) -> str:
    if schema["type"] == "array":
        return "A,B"
    return "FOLDER" if schema.get("format") == "path" else schema["type"].upper()


def _help(schema: Mapping[str, Any]) -> str:
    notes = []
    if "enum" in schema:
        notes.append(", ".join(map(str, schema["enum"])))
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    if low is not None:
        above = "above " if "exclusiveMinimum" in schema else "" if high is not None else "from "
        notes.append(f"{above}{low}" if high is None else f"{above}{low} to {high}")
    if "multipleOf" in schema:
        notes.append(f"multiples of {schema['multipleOf']}")
    default = schema.get("default")
    if default not in (None, "", []):
        notes.append(f"default {','.join(default) if isinstance(default, list) else default}")
    text = str(schema["description"])
    return f"{text} ({'; '.join(notes)})" if notes else text
