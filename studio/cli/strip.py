"""`studio strip`: a copy of a picture that says nothing about how it was made."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.spec.errors import InvalidRequest


def install(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(strip)


def strip(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A PNG, JPEG, WebP or AVIF file.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The copy: a file of the same format.")],
    *,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUTPUT if it is there.")] = False,
) -> None:
    """Copy a picture without its metadata: no record, prompts, marks, EXIF or XMP.

    Pixels and colour profile stay; those of AVIF are coded anew, and lose a little.
    """
    from studio.files import publish
    from studio.metadata import stripped

    bare = stripped(image)
    if output.is_dir():
        raise InvalidRequest(f"{output} is a folder; name a file")
    if output.exists() and output.samefile(image):
        raise InvalidRequest(f"{output} is the picture itself; name another file")
    if output.exists() and not overwrite:
        raise InvalidRequest(f"{output} exists already; choose another name or give --overwrite")
    publish(output, lambda file: file.write(bare), size=len(bare))
