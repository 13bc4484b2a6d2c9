"""`studio list`, `studio embeddings` and `studio doctor`: what is installed, and whether it is well."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from studio.cli.options import SETTINGS_EPILOG, with_settings
from studio.cli.output import print_json, print_table, printable
from studio.settings import Settings

if TYPE_CHECKING:
    from pipelines.spec.model import Model


def install(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("list", epilog=SETTINGS_EPILOG)(with_settings(list_models))
    app.command("embeddings", epilog=SETTINGS_EPILOG)(with_settings(list_embeddings))
    app.command(epilog=SETTINGS_EPILOG)(with_settings(doctor))


def list_models(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per model.")] = False,
    settings: Settings,
) -> None:
    """List the installed models, with licence and openness, and the hash of those that have painted here."""
    from studio.core import Studio

    with Studio(settings) as studio:
        hashes = studio.model_hashes()
        models = [_described(model, sha256=hashes.get(model.name)) for model in studio.models()]
    if as_json:
        for model in models:
            print_json(model)
        return
    columns = ("name", "family", "size", "hash", "licence", "openness", "description")
    shown = [
        {**model, "size": f"{model['native_width']}×{model['native_height']}", "hash": (model["sha256"] or "")[:10]}
        for model in models
    ]
    print_table(columns, ([model[column] for column in columns] for model in shown))
    typer.echo(f"For more, copy diffusers folders into {settings.models_dir}", err=True)


def list_embeddings(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per embedding.")] = False,
    settings: Settings,
) -> None:
    """List the embeddings (textual inversion): words that prompts may use."""
    from studio.store import EmbeddingCatalogue

    found = [embedding.described() for embedding in EmbeddingCatalogue(settings.embeddings_dir).all()]
    if as_json:
        for embedding in found:
            print_json(embedding)
        return
    columns = ("name", "vectors", "made_for", "hash", "note")
    shown = [{**each, "hash": each["sha256"][:12], "note": each["problem"] or each["note"]} for each in found]
    print_table(columns, ([str(each[column]) for column in columns] for each in shown))
    typer.echo(f"For more, copy .safetensors files into {settings.embeddings_dir}", err=True)


def doctor(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    settings: Settings,
) -> None:
    """Look whether all is well, and what is exposed.

    Versions, devices, disk, database, models, server, exposure. Exits 1, with a sentence each, if something needs care.
    """
    from studio.doctor import examine

    findings = examine(settings)
    problems = [finding for finding in findings if not finding.is_fine]
    if as_json:
        answer = {"is_fine": not problems, "findings": [finding.to_json() for finding in findings]}
        typer.echo(json.dumps(answer, indent=2))
    else:
        marks = {True: "ok", False: "!!"}
        for finding in findings:
            line = printable(f"{marks[finding.is_fine]}  {finding.name:15}  {finding.text}")
            typer.secho(line, fg=None if finding.is_fine else "red")
    if problems:
        count = "one thing needs" if len(problems) == 1 else f"{len(problems)} things need"
        typer.echo(f"error: {count} care", err=True)
        raise typer.Exit(1)


def _described(model: "Model", *, sha256: str | None) -> dict[str, Any]:
    return {
        "name": model.name,
        "family": model.family.label,
        "native_width": model.native_width,
        "native_height": model.native_height,
        "licence": model.licence,
        "openness": model.openness,
        "description": model.description,
        "sha256": sha256,
    }
