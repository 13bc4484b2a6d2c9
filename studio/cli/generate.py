"""`studio generate`: a prompt in, paths of pictures out. Standard output carries nothing else."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.spec.errors import Cancelled, GenerationFailed, InvalidRequest
from pipelines.spec.request import bounds, field_names
from studio.cli.options import add_options
from studio.cli.progress import JobProgress

if TYPE_CHECKING:
    from studio.core import Studio
    from studio.gallery import GalleryImage

_FILE_FIELDS = ("init_image", "mask_image")


def install(app: typer.Typer) -> None:
    """Add the command, with every field of a request as an option."""
    schemas = {name: bounds(name) for name in field_names() if name != "prompt"}
    app.command()(add_options(generate, schemas, metavars=dict.fromkeys(_FILE_FIELDS, "FILE")))


def generate(
    prompt: Annotated[str, typer.Argument(help="What the picture shows; - reads it from standard input.")] = "",
    *,
    output: Annotated[
        Path | None,
        typer.Option(help="Also copy the picture here: a file, or a folder. Several pictures are numbered."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per picture instead of paths.")
    ] = False,
    **fields: Any,
) -> None:
    """Make pictures and print their paths, one a line.

    Ctrl-C cancels. Fields left out take the model's defaults. Pictures land in the gallery.
    """
    from studio.core import Studio

    if prompt == "-":
        prompt = sys.stdin.read().strip()
    with Studio() as studio:
        for name in _FILE_FIELDS:
            if name in fields:
                fields[name] = _input_id(studio, name, fields[name])
        job = studio.submit(studio.request(prompt, **fields))
        try:
            with JobProgress() as progress:
                job = studio.wait(job.id, on_update=progress.show)
        except KeyboardInterrupt:
            raise Cancelled(f"job {job.id} was cancelled") from None
        images = studio.gallery.of_job(job.id)
        for index, image in enumerate(images):
            path = image.path if output is None else _copy(image.path, output, index=index, several=len(images) > 1)
            typer.echo(json.dumps(_described(image, path)) if as_json else str(path))
    match job.state:
        case "cancelled":
            raise Cancelled(f"job {job.id} was cancelled")
        case "failed":
            raise GenerationFailed(job.error or f"job {job.id} failed")


def _input_id(studio: "Studio", field: str, value: str) -> str:
    """Store the file; an id of a stored input stands for itself."""
    if re.fullmatch("[0-9a-f]{64}", value):
        return value
    return studio.inputs.put(Path(value), field=field)


def _copy(path: Path, output: Path, *, index: int, several: bool) -> Path:
    """Copy a picture byte for byte, its record inside, and return where it is now."""
    if output.is_dir():
        target = output / path.name
    else:
        suffix = output.suffix or path.suffix
        target = output.with_name(f"{output.stem}-{index}{suffix}") if several else output.with_suffix(suffix)
    try:
        return Path(shutil.copyfile(path, target))
    except OSError as error:
        raise InvalidRequest(
            f"output: cannot write {target}: {error.strerror}; the picture is kept at {path}", field="output"
        ) from error


def _described(image: "GalleryImage", path: Path) -> dict[str, Any]:
    return {
        "id": image.id,
        "path": str(path),
        "seed": image.request.seed,
        "request": image.request.model_dump(mode="json"),
        "provenance": dict(image.provenance),
    }
