"""`studio upscale`: any picture larger, with nothing painted."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.spec.hires import DEFAULT_SCALE, MAX_SCALE, SIDE_STEP
from pipelines.spec.request import GenerationRequest, bounds
from studio.cli.copies import Copies
from studio.cli.generate import Output, Overwrite, keep_log, make
from studio.cli.options import SETTINGS_EPILOG, in_options, with_settings
from studio.settings import Settings

SCALE = f"So many times larger, at most {MAX_SCALE}; sides are rounded down to multiples of {SIDE_STEP}. Empty: 2."


def install(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=SETTINGS_EPILOG)(with_settings(upscale))


def upscale(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="Any picture.")],
    *,
    scale: Annotated[float | None, typer.Option(help=SCALE)] = None,
    width: Annotated[
        int | None, typer.Option(help="Instead: the width, a multiple of 8. Alone keeps the shape.")
    ] = None,
    height: Annotated[
        int | None, typer.Option(help="The height, likewise. With --width what overhangs is cropped.")
    ] = None,
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
    names = {"init_image": f"IMAGE {image}", **{name: f"--{name}" for name in ("scale", *fields)}}
    if copies is not None:
        fields = copies.with_format(fields)
    with Studio(settings) as studio, in_options(names):
        keep_log(settings)
        request = studio.upscaled(image, scale=scale, **fields)
        if width is None or height is None:
            before = studio.inputs.size(str(request.init_image))
            asked = width / before[0] if width else height / before[1] if height else scale or DEFAULT_SCALE
            _tell_rounding(before, request, scale=asked)
        make(studio, request, copies=copies, as_json=as_json)


def _tell_rounding(size: tuple[int, int], request: GenerationRequest, *, scale: float) -> None:
    exact = tuple(round(side * scale) for side in size)
    if exact != (request.width, request.height):
        made = f"{size[0]}×{size[1]} becomes {request.width}×{request.height}, not {exact[0]}×{exact[1]}"
        typer.echo(f"note: {made}: sides are rounded down to multiples of {SIDE_STEP}", err=True)
