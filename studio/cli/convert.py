"""`studio convert`: the tensors of a pickle as a safetensors file, which alone is loaded."""

from pathlib import Path
from typing import Annotated

import typer

from studio.cli.output import print_json, printable

SHOWN_NAMES = 10
"""How many names of what is left out are shown."""


def install(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(convert)


def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .pth, .pt, .bin or .ckpt file.")],
    output: Annotated[
        Path | None,
        typer.Argument(metavar="OUTPUT", help="The new file, or a folder for it. Empty: beside FILE, as .safetensors."),
    ] = None,
    *,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file of that name.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Make a safetensors file of a pickle, and print its path.

    For upscale models, embeddings, LoRAs and parts of diffusers folders. Nothing in the pickle runs: only tensors and
    plain values are read, and a file that asks for more is refused. FILE stays.
    """
    from studio.conversion import convert as converted

    made = converted(file, output, overwrite=overwrite)
    if as_json:
        print_json(
            {"path": str(made.path), "tensors": made.num_tensors, "left_out": list(made.left_out), "use": made.use}
        )
        return
    typer.echo(printable(str(made.path)))
    if made.left_out:
        more = len(made.left_out) - SHOWN_NAMES
        shown = ", ".join(made.left_out[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
        typer.echo(printable(f"left out, since it is no tensor of the model: {shown}"), err=True)
    count = "1 tensor" if made.num_tensors == 1 else f"{made.num_tensors} tensors"
    typer.echo(printable(f"{count}: {made.use}"), err=True)
