"""`studio verify`: is a picture what it says it is?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from studio.cli.options import SETTINGS_EPILOG, with_settings
from studio.cli.output import print_json, printable
from studio.settings import Settings

if TYPE_CHECKING:
    from studio.verification import Verification


def install(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=SETTINGS_EPILOG)(with_settings(verify))


def verify(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures made here.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per picture.")] = False,
    settings: Settings,
) -> None:
    """Make pictures again from what they say about themselves, and compare every pixel.

    Exit code 0: all are exact. 1: one is not.
    """
    from studio.core import Studio

    with Studio(settings) as studio:
        are_exact = True
        for image in images:
            result = studio.verify(image)
            are_exact = are_exact and result.is_exact
            if as_json:
                print_json(_described(result))
            else:
                typer.echo(printable(f"{result.path}: {result.sentence}"))
    if not are_exact:
        raise typer.Exit(1)


def _described(result: "Verification") -> dict[str, Any]:
    return {
        "path": str(result.path),
        "exact": result.is_exact,
        "max_difference": result.max_difference,
        "differing_pixels": result.differing_pixels,
        "notes": list(result.notes),
        "differences": {each.name: {"then": each.then, "now": each.now} for each in result.differences},
    }
