"""`studio gallery` and `studio read`: finished pictures, and what they say about themselves."""

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from studio.gallery import GalleryImage


def install(app: typer.Typer) -> None:
    """Add the commands."""
    gallery = typer.Typer(help="List, rebuild and tidy the gallery.", invoke_without_command=True)
    gallery.callback()(list_images)
    gallery.command()(rebuild)
    gallery.command("rm")(remove)
    app.add_typer(gallery, name="gallery")
    app.command()(read)


def list_images(
    context: typer.Context,
    *,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many at most.")] = 20,
    offset: Annotated[int, typer.Option(min=0, help="How many of the newest to pass over.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per picture.")] = False,
) -> None:
    """List pictures, newest first."""
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from studio.core import Studio

    with Studio() as studio:
        images = studio.gallery.page(limit=limit, offset=offset)
        total = studio.gallery.count()
    if as_json:
        for image in images:
            typer.echo(json.dumps(_described(image)))
        return
    table = Table("id", "made", "size", "seed", "prompt", box=None, header_style="bold")
    for image in images:
        made = datetime.fromtimestamp(image.created_at).astimezone()
        size = f"{image.request.width}×{image.request.height}"
        prompt = Text(image.request.prompt, no_wrap=True, overflow="ellipsis")
        table.add_row(image.id, f"{made:%Y-%m-%d %H:%M}", size, str(image.request.seed), prompt)
    console = Console()
    console.print(table)
    console.print(f"{len(images)} of {total} pictures", style="dim")


def rebuild() -> None:
    """Make the gallery's index anew from the picture files; each carries its own record."""
    from studio.core import Studio

    with Studio() as studio:
        result = studio.gallery.rebuild()
    typer.echo(f"{result.found} pictures found, {result.added} added to the index, {result.removed} gone ones removed")
    for path in result.unreadable:
        typer.echo(f"not one of ours, left alone: {path}", err=True)


def remove(image_id: Annotated[str, typer.Argument(help="The picture's id, as `studio gallery` shows it.")]) -> None:
    """Delete a picture for good: file, thumbnail and index."""
    from studio.core import Studio

    with Studio() as studio:
        studio.gallery.delete(image_id)


def read(
    image: Annotated[Path, typer.Argument(help="A PNG, JPEG or WebP file.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Say how a picture was made, from what it carries inside."""
    from studio import metadata

    texts = metadata.read_texts(image)
    record = metadata.read(image).to_json() if metadata.native.KEY in texts else None
    if as_json:
        typer.echo(json.dumps(record if record is not None else texts, indent=2))
    elif record is None:
        typer.echo("\n\n".join(f"{key}:\n{text}" for key, text in texts.items()) or "This picture carries no metadata.")
    else:
        for name, value in {**record["request"], **record["provenance"]}.items():
            if value not in (None, ""):
                typer.echo(f"{name:20} {value}")


def _described(image: "GalleryImage") -> dict[str, Any]:
    return {
        "id": image.id,
        "path": str(image.path),
        "created_at": image.created_at,
        "request": image.request.model_dump(mode="json"),
        "provenance": dict(image.provenance),
    }
