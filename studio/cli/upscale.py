"""`studio upscale`: any picture larger, with nothing painted."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.spec.request import bounds
from studio.cli.copies import Copies
from studio.cli.generate import Output, Overwrite, keep_log, make
from studio.cli.options import SETTINGS_EPILOG, with_settings
from studio.settings import Settings


def install(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=SETTINGS_EPILOG)(with_settings(upscale))


def upscale(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="Any picture.")],
    *,
    scale: Annotated[float | None, typer.Option(min=0.1, max=64, help="So many times larger. Empty: 2.")] = None,
    width: Annotated[int | None, typer.Option(help="Instead: the width. Alone keeps the shape.")] = None,
    height: Annotated[int | None, typer.Option(help="The height. With --width what overhangs is cropped.")] = None,
    upscaler: Annotated[str | None, typer.Option(help=bounds("upscaler")["description"])] = None,
    output: Output = None,
    overwrite: Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
    settings: Settings,
) -> None:
    """Make a picture larger without painting, and print the new one's path.

    What the picture says of itself (prompt, seed and so on) stays in the new one, beside what enlarged it.
    """
    from studio.core import Studio

    copies = None if output is None else Copies(output, overwrite=overwrite)
    fields = {"width": width, "height": height, "upscaler": upscaler}
    if copies is not None:
        fields = copies.with_format(fields)
    with Studio(settings) as studio:
        keep_log(settings)
        make(studio, studio.upscaled(image, scale=scale, **fields), copies=copies, as_json=as_json)
