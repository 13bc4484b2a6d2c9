"""`studio hires`: a finished picture painted again, larger."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.spec.hires import HIRES_FIELDS
from studio.cli.copies import Copies
from studio.cli.generate import Output, Overwrite, keep_log, make
from studio.cli.options import SETTINGS_EPILOG, in_options, with_request, with_settings
from studio.settings import Settings

PREFIX = "hires_"


def install(app: typer.Typer) -> None:
    """Add the command, with every field of a second pass as an option."""
    app.command(epilog=SETTINGS_EPILOG)(with_settings(with_request(hires, metavars={}, prefix=PREFIX)))


def hires(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A picture made here by text-to-image.")],
    *,
    output: Output = None,
    overwrite: Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
    fields: dict[str, Any],
    settings: Settings,
) -> None:
    """Paint a finished picture again, larger, and print the new one's path.

    The first pass is repeated bit for bit from what the picture says of itself. Twice as large if no size is given.
    """
    from studio.core import Studio

    copies = None if output is None else Copies(output, overwrite=overwrite)
    if copies is not None:
        fields = copies.with_format(fields)
    names = {name: f"--{name.removeprefix(PREFIX).replace('_', '-')}" for name in HIRES_FIELDS}
    with Studio(settings) as studio, in_options(names):
        keep_log(settings)
        make(studio, studio.enlarged(image, **fields), copies=copies, as_json=as_json)
