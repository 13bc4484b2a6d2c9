"""The `studio` command: turns its arguments into requests for the one Studio, and errors into sentences.

Nothing heavy is imported before a command needs it, so `studio --help` answers at once.
"""

import io
import sys
from collections.abc import Mapping, Sequence

import typer
import typer.main
from pydantic import ValidationError

from pipelines.spec import training
from pipelines.spec.errors import AlreadyRunning, Cancelled, InvalidRequest, NotFound, StudioError
from pipelines.spec.values import OTHER_NAMES
from studio import __version__
from studio.cli import (
    batch,
    convert,
    gallery,
    generate,
    hires,
    jobs,
    loras,
    models,
    serve,
    strip,
    styles,
    train,
    upscale,
    verify,
)
from studio.cli.output import printable

EXIT_CODES: Mapping[type[StudioError], int] = {
    InvalidRequest: 2,
    NotFound: 2,
    AlreadyRunning: 3,
    Cancelled: 130,
    StudioError: 1,
}
"""The nearest ancestor decides. 0 is done; what typer itself refuses is 2 as well."""

app = typer.Typer(
    name="studio",
    help="Open Weights Studio: make pictures with open-weight models, on your own machine.",
    epilog="Exit codes: 0 done, 1 failed, 2 invalid request or not found, 3 already running, 130 cancelled.",
    add_completion=False,
    rich_markup_mode=None,  # plain help, half as slow: rich draws tables and progress only
)
for module in (
    serve,
    generate,
    hires,
    upscale,
    batch,
    train,
    jobs,
    gallery,
    verify,
    strip,
    convert,
    models,
    loras,
    styles,
):
    module.install(app)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    *,
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
) -> None:
    if version:
        typer.echo(f"Open Weights Studio {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: those of this process when not given.
    """
    for stream in (sys.stdout, sys.stderr):
        _never_stumble_over_a_character(stream)
    command = typer.main.get_command(app)
    try:
        code = command.main(arguments, prog_name="studio", standalone_mode=False)
    except StudioError as error:
        _complain(str(error))
        return exit_code(error)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        hint = _name_here(error) or (context and f"see `{context.command_path} --help`")
        _complain(_in_our_words(error) or error.format_message().rstrip("."), hint=hint)
        return error.exit_code
    return code if isinstance(code, int) else 0


def exit_code(error: StudioError) -> int:
    """Return the exit code of an error."""
    return next(EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES)


def _in_our_words(error: typer.TyperException) -> str | None:
    """Say which number an option takes: typer says what pydantic does, without the value."""
    if not isinstance(error, typer.BadParameter) or not isinstance(error.__cause__, ValidationError) or not error.param:
        return None
    first = error.__cause__.errors(include_url=False)[0]
    rule = _NUMBERS.get(first["type"])
    name = error.param.opts[0]
    return rule and f"{name} must be {rule.format(**first.get('ctx', {}))}, got {first['input']!r:.60}"


_NUMBERS: Mapping[str, str] = {
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
}
"""pydantic's type of an error -> what an option takes."""


def _name_here(error: typer.TyperException) -> str | None:
    """Say what an option of another program is called here."""
    context = getattr(error, "ctx", None)
    names = training.OTHER_NAMES if context and context.info_name == "train" else OTHER_NAMES
    name = names.get(str(getattr(error, "option_name", "")).removeprefix("--").replace("-", "_"))
    return name and "say " + " and ".join(f"--{part.replace('_', '-')}" for part in name.split(" and "))


def _complain(sentence: str, *, hint: str | None = None) -> None:
    typer.echo(printable(f"error: {sentence}" + (f"; {hint}" if hint else "")), err=True)


def _never_stumble_over_a_character(stream: object) -> None:
    """Let a stream pass what its encoding lacks: escaped, or as the bytes that a file name really has."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="surrogateescape" if stream.encoding.lower() == "utf-8" else "backslashreplace")
