"""`studio gallery` and `studio read`: finished pictures, and what they say about themselves."""

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.spec.errors import NotFound
from pipelines.spec.fields import field_rules
from pipelines.spec.lora_tags import write_lora
from pipelines.spec.loras import LoraSpec
from pipelines.spec.request import GenerationRequest
from studio.cli.options import SETTINGS_EPILOG, refuse_options_of, with_settings
from studio.cli.output import print_json, print_table, printable, shown_prompt
from studio.settings import Settings

if TYPE_CHECKING:
    from studio.gallery import GalleryImage
    from studio.metadata import FindLora, FindModel, FoundLora, Imported, Note

SHOWN_VALUE = 60
"""Characters of a foreign value that are shown beside what became of it."""


def install(app: typer.Typer) -> None:
    """Add the commands."""
    gallery = typer.Typer(epilog=SETTINGS_EPILOG, rich_markup_mode=None)
    gallery.callback(invoke_without_command=True)(with_settings(list_images))
    gallery.command(epilog=SETTINGS_EPILOG)(with_settings(rebuild))
    gallery.command("rm", epilog=SETTINGS_EPILOG)(with_settings(remove))
    app.add_typer(gallery, name="gallery")
    app.command(epilog=SETTINGS_EPILOG)(with_settings(read))


def list_images(
    context: typer.Context,
    *,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many at most.")] = 20,
    offset: Annotated[int, typer.Option(min=0, help="How many of the newest to pass over.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per picture.")] = False,
    settings: Settings,
) -> None:
    """List pictures, rebuild the list, delete pictures.

    Without a subcommand: list them, the newest first.
    """
    if context.invoked_subcommand is not None:
        refuse_options_of(context, "gallery")
        return
    from studio.core import Studio

    with Studio(settings) as studio:
        images = studio.gallery.page(limit=limit, offset=offset)
        total = studio.gallery.count()
    if as_json:
        for image in images:
            print_json(_described(image))
        return
    print_table(("id", "made", "size", "seed", "prompt"), map(_row, images))
    if offset + len(images) < total:
        more = f"studio gallery --limit {limit} --offset {offset + len(images)}"
        typer.echo(f"{len(images)} of {total} pictures; the next: {more}", err=True)


def rebuild(settings: Settings) -> None:
    """Make the gallery's list anew from the picture files; each carries its own record.

    Then delete the stored inputs that no picture and no unfinished job names, if nobody asked for them within a day.
    """
    from studio.core import Studio

    with Studio(settings) as studio:
        result, forgotten = studio.rebuild_gallery()
    typer.echo(f"{result.found} pictures found: {result.added} added to the list, {result.removed} no longer there")
    if forgotten:
        typer.echo(f"{forgotten} stored inputs deleted, which nothing needed")
    for path in result.unreadable:
        typer.echo(printable(f"left alone, no record of ours in it: {path}"), err=True)


def remove(
    image_ids: Annotated[
        list[str], typer.Argument(metavar="ID...", help="Ids of pictures, as `studio gallery` shows them.")
    ],
    *,
    settings: Settings,
) -> None:
    """Delete pictures for good: file, thumbnail and entry in the list."""
    from studio.core import Studio

    with Studio(settings) as studio:
        for image in [studio.gallery.get(image_id) for image_id in image_ids]:  # all are known before the first goes
            studio.gallery.delete(image.id)


def read(
    image: Annotated[
        Path,
        typer.Argument(
            help="A PNG, JPEG, WebP, AVIF or GIF file, or an infotext as a .txt file; - reads standard input."
        ),
    ],
    *,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help='Print one JSON object: "record" (null if not ours), "texts", and "import": the "program", its '
            'settings as a "request" of ours, and "notes" on each of them (null if no program is recognised).',
        ),
    ] = False,
    settings: Settings,
) -> None:
    """Say how a picture was made, from what it carries inside.

    That is our record, or what another program says, as far as it means something here, or whatever texts there are.
    """
    from studio import metadata
    from studio.store import EmbeddingCatalogue, upscaler_finder

    is_typed = str(image) == "-"
    texts = metadata.texts_of(sys.stdin.buffer.read()) if is_typed else metadata.read_texts(image)
    problem = ""
    try:
        record = metadata.record_in(texts)
    except ValueError as error:
        record, problem = None, f"its record cannot be read: {error}"
    try:
        imported = metadata.import_request(
            texts,
            find_model=_model_finder(settings),
            find_lora=_lora_finder(settings),
            find_embedding=EmbeddingCatalogue(settings.embeddings_dir).find,
            find_upscaler=upscaler_finder(settings.upscalers_dir),
        )
    except NotFound:  # no program that we know
        imported = None
    if problem and (as_json or imported is not None):
        typer.echo(printable(f"note: {problem}"), err=True)
    if as_json:
        described = None if imported is None else _imported_json(imported)
        data = None if record is None else record.to_json()
        typer.echo(json.dumps({"path": str(image), "record": data, "texts": texts, "import": described}, indent=2))
    elif record is not None and not record.request.paints_nothing:
        made = datetime.fromtimestamp(record.created_at).astimezone()
        about = {"made": f"{made:%Y-%m-%d %H:%M:%S} with {record.software}"}
        _print_pairs({**_chosen(record.request.model_dump(mode="json")), **record.provenance, **about})
        for note in record.notes:
            typer.echo(f"note: {note}")
        _print_notes(() if imported is None else imported.notes)
    elif imported is not None:
        _print_imported(imported)
    elif problem:
        raise NotFound(f"{'standard input' if is_typed else image}: {problem}; --json shows every text as it is")
    else:
        sections = [f"{key}:\n{text}" for key, text in texts.items()]
        nothing = (
            "This text is empty." if is_typed or image.suffix.lower() == ".txt" else "This picture carries no metadata."
        )
        typer.echo(printable("\n\n".join(sections)) or nothing)


def _model_finder(settings: Settings) -> "FindModel":
    """Return what finds an installed model; the studio, which keeps hashes, is opened only when one is asked for."""

    def find(name: str, digest: str) -> str | None:
        from studio.core import Studio
        from studio.store import model_named

        if not digest:
            return model_named(name, settings.models_dir)
        with Studio(settings) as studio:
            return studio.find_model(name, digest)

    return find


def _lora_finder(settings: Settings) -> "FindLora":
    """Return what finds an installed LoRA; the studio, which keeps hashes, is opened only when one is asked for."""

    def find(name: str, digest: str) -> "FoundLora | None":
        from studio.core import Studio

        with Studio(settings) as studio:
            return studio.find_lora(name, digest)

    return find


def _imported_json(imported: "Imported") -> dict[str, Any]:
    notes = [
        {"field": note.field, "value": note.value, "outcome": note.outcome, "why": note.why} for note in imported.notes
    ]
    return {"program": imported.program, "request": imported.request_fields, "notes": notes}


def _print_imported(imported: "Imported") -> None:
    """Print the program, our fields, and what became of each thing it says, grouped."""
    _print_pairs({"program": imported.program, **imported.request_fields})
    _print_notes(imported.notes)


def _print_notes(notes: "Sequence[Note]") -> None:
    from studio.metadata import Outcome

    for outcome in Outcome:
        those = [note for note in notes if note.outcome is outcome]
        if those:
            typer.echo(f"\n{outcome}:")
        for note in those:
            value = " ".join(note.value.split())
            said = value if len(value) <= SHOWN_VALUE else f"{value[: SHOWN_VALUE - 1]}…"
            typer.echo(printable(f"  {note.field} {said}: {note.why}"))


def _chosen(request: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is as it is for everybody who says nothing, and what is empty."""
    rules = field_rules(GenerationRequest)
    return {
        name: value
        for name, value in request.items()
        if value not in ([], {}) and rules.get(name, {}).get("default") != value
    }


def _print_pairs(pairs: dict[str, Any]) -> None:
    width = max(map(len, pairs))
    for name, value in pairs.items():
        match name:
            case "loras":
                value = ", ".join(map(_lora, value))
            case "embeddings":
                value = ", ".join(f"{word} [{digest[:12]}]" for word, digest in value.items())
        if value not in (None, ""):
            typer.echo(printable(f"{name:{width}}  {value}"))


def _lora(lora: dict[str, Any]) -> str:
    """Return a LoRA of a record or of an imported request as it would stand in a prompt, and its hash."""
    digest = lora.get("sha256", "")
    asked = LoraSpec.model_validate({name: value for name, value in lora.items() if name != "sha256"})
    return write_lora(asked) + (f" [{digest[:12]}]" if digest else "")


def _row(image: "GalleryImage") -> tuple[object, ...]:
    made = datetime.fromtimestamp(image.created_at).astimezone()
    size = f"{image.width}×{image.height}"
    return image.id, f"{made:%Y-%m-%d %H:%M}", size, image.request.seed, shown_prompt(image.request.prompt)


def _described(image: "GalleryImage") -> dict[str, Any]:
    return {
        "id": image.id,
        "path": str(image.path),
        "seed": image.request.seed,
        "created_at": image.created_at,
        "sha256": image.sha256,
        "request": image.request.model_dump(mode="json"),
        "provenance": dict(image.provenance),
    }
