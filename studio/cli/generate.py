"""`studio generate`: a prompt in, paths of pictures out. Standard output carries nothing else."""

import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from pipelines.spec.errors import InvalidRequest, StorageError
from pipelines.spec.request import GenerationRequest
from pipelines.spec.values import InputId
from studio.cli.copies import Copies
from studio.cli.options import SETTINGS_EPILOG, with_request, with_settings
from studio.cli.output import print_json, printable
from studio.cli.progress import follow, progress
from studio.settings import Settings

if TYPE_CHECKING:
    from studio.core import Studio
    from studio.gallery import GalleryImage

LOG_BYTES = 4 * 2**20
IMAGE_FIELDS = tuple(
    name for name, field in GenerationRequest.model_fields.items() if InputId in get_args(field.annotation)
)

Output = Annotated[
    Path | None,
    typer.Option(
        help="Also copy the picture here and print that path: a file if the name ends in .png, .jpg, .jpeg, "
        ".webp or .avif (several pictures are numbered, and the ending chooses the format), else a folder."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Let --output replace files.")]


def install(app: typer.Typer) -> None:
    """Add the command, with every field of a request as an option."""
    command = with_request(generate, metavars=dict.fromkeys(IMAGE_FIELDS, "FILE|ID"))
    app.command(epilog=SETTINGS_EPILOG)(with_settings(command))


def generate(
    prompt: Annotated[
        str | None,
        typer.Argument(help="What the picture shows; - reads it from standard input. With --from, it may be left out."),
    ] = None,
    *,
    like: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="IMAGE", help="Take the settings of a picture; those given here replace its own."
        ),
    ] = None,
    output: Output = None,
    overwrite: Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per picture instead.")] = False,
    fields: dict[str, Any],
    settings: Settings,
) -> None:
    """Make pictures and print their paths, one a line.

    Fields left out take the model's defaults; pictures land in the gallery.

    A running server does the work, else this process. Ctrl-C cancels.
    """
    from studio.core import Studio

    if prompt is None and like is None:
        way_out = 'write studio generate "a red house", or --from IMAGE; see `studio generate --help`'
        raise InvalidRequest(f"prompt is missing; {way_out}", field="prompt")
    copies = None if output is None else Copies(output, overwrite=overwrite)
    if copies is not None:
        fields = copies.with_format(fields)
    if prompt is not None:
        fields = {"prompt": _read(prompt), **fields}
    with Studio(settings) as studio:
        keep_log(settings)
        request = studio.request(**fields) if like is None else _like(like, fields, studio)
        make(studio, request, copies=copies, as_json=as_json)


def _like(image: Path, fields: dict[str, Any], studio: "Studio") -> GenerationRequest:
    """Return the request of a picture with other fields, and tell what of it is not as it was."""
    from studio.metadata import Outcome

    imported = studio.read(image)
    for note in imported.notes:
        if note.outcome is not Outcome.USED:
            typer.echo(printable(f"{note.outcome}: {note.field} {note.value:.60}: {note.why}"), err=True)
    return studio.like(imported, **fields)


def make(studio: "Studio", request: GenerationRequest, *, copies: Copies | None, as_json: bool) -> None:
    """Make the pictures of a request and print their paths, one a line.

    Args:
        studio: makes them.
        request: what is asked.
        copies: where copies go, whose paths are printed then.
        as_json: print one JSON object per picture instead.
    """
    if copies is not None:
        copies.check(request.num_images)
    for note in studio.notes(request):
        typer.echo(printable(f"note: {note}"), err=True)
    job = follow(studio, studio.submit(request), progress())
    images = studio.gallery.of_job(job.id)  # those made before a failure too
    for name, audit in dict.fromkeys(each for image in images for each in image.lora_audits.items()):
        typer.echo(printable(f"LoRA {name}: applied {audit}"), err=True)
    for image in images:
        path = image.path if copies is None else copies.put(image, num_images=request.num_images)
        if as_json:
            print_json(described(image, path))
        else:
            typer.echo(str(path))
    studio.result(job)


def keep_log(settings: Settings) -> None:
    """Send what a job in this process has to say where a worker's log is; the file is made when something is said."""
    path = settings.outputs_dir / "logs" / "command.log"
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {path.parent}: {error.strerror}") from error
    handler = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8", delay=True)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", handlers=[handler])


def _read(prompt: str) -> str:
    if prompt != "-":
        return prompt
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"prompt: standard input is not UTF-8: {error}", field="prompt") from error


def described(image: "GalleryImage", path: Path) -> dict[str, Any]:
    """Return what --json says of a picture."""
    return {
        "id": image.id,
        "path": str(path),
        "seed": image.request.seed,
        "request": image.request.model_dump(mode="json"),
        "provenance": dict(image.provenance),
    }
