"""The `studio` command: turns its arguments into requests for the one Studio, and errors into sentences.

Nothing heavy is imported before a command needs it, so `studio --help` answers at once.
"""

import sys

import typer

from pipelines.spec.errors import AlreadyRunning, Cancelled, InvalidRequest, NotFound, StudioError
from studio.cli import gallery, generate, jobs, models, serve

EXIT_CODES: tuple[tuple[type[StudioError], int], ...] = (
    (InvalidRequest, 2),
    (NotFound, 2),
    (AlreadyRunning, 3),
    (Cancelled, 130),
    (StudioError, 1),
)
"""The first row that fits counts. 0 is done."""

app = typer.Typer(
    name="studio",
    help="Open Weights Studio: make pictures with open-weight models, on your own machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    epilog="Exit codes: 0 done, 1 failed, 2 invalid request, 3 already running, 130 cancelled.",
)
for module in (serve, generate, jobs, gallery, models):
    module.install(app)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True)) -> None:
    if version:
        from studio import __version__

        typer.echo(f"Open Weights Studio {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line of this process and exit."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a file of the console's encoding
    try:
        app(prog_name="studio")
    except StudioError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(exit_code(error))


def exit_code(error: StudioError) -> int:
    """Return the exit code of an error."""
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))
