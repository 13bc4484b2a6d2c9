"""`studio list` and `studio doctor`: what is installed, and whether it is well."""

import json
from typing import Annotated

import typer


def install(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("list")(list_models)
    app.command()(doctor)


def list_models(
    *, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per model.")] = False
) -> None:
    """List the installed models, with licence and openness."""
    from rich.console import Console
    from rich.table import Table

    from studio.settings import Settings
    from studio.store import installed_models

    settings = Settings.load()
    models = installed_models(settings.models_dir)
    table = Table("name", "family", "size", "licence", "openness", "what it is", box=None, header_style="bold")
    for model in models:
        size = f"{model.native_width}×{model.native_height}"
        row = (model.name, model.family.label, size, model.licence, model.openness, model.description)
        table.add_row(*row)
        if as_json:
            typer.echo(
                json.dumps(
                    dict(zip(("name", "family", "size", "licence", "openness", "description"), row, strict=True))
                )
            )
    if not as_json:
        Console().print(table)
        typer.echo(f"More: copy diffusers folders into {settings.models_dir}", err=True)


def doctor(*, as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False) -> None:
    """Look at versions, devices, disk, database and exposure; exit 1 if something needs care."""
    from studio.doctor import examine
    from studio.settings import Settings

    findings = examine(Settings.load())
    for finding in findings:
        if not as_json:
            typer.echo(f"{'ok ' if finding.is_fine else '!! '} {finding.name:12} {finding.text}")
    if as_json:
        typer.echo(json.dumps([finding.to_json() for finding in findings], indent=2))
    if not all(finding.is_fine for finding in findings):
        raise typer.Exit(1)
