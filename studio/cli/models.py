"""`studio list` and `studio doctor`: what is installed, and whether it is well."""

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
    app.command(epilog=SETTINGS_EPILOG)(with_settings(doctor))


def list_models(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per model.")] = False,
    settings: Settings,
) -> None:
    """List the installed models, with licence and openness."""
    from studio.store import installed_models

    models = [_described(model) for model in installed_models(settings.models_dir)]
    if as_json:
        for model in models:
            print_json(model)
        return
    columns = ("name", "family", "size", "licence", "openness", "description")
    sized = [{**model, "size": f"{model['native_width']}×{model['native_height']}"} for model in models]
    print_table(columns, ([model[column] for column in columns] for model in sized))
    typer.echo(f"For more, copy diffusers folders into {settings.models_dir}", err=True)


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


def _described(model: "Model") -> dict[str, Any]:
    return {
        "name": model.name,
        "family": model.family.label,
        "native_width": model.native_width,
        "native_height": model.native_height,
        "licence": model.licence,
        "openness": model.openness,
        "description": model.description,
    }
