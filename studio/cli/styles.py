"""`studio styles`: the styles that requests may name."""

from typing import Annotated

import typer

from studio.cli.options import SETTINGS_EPILOG, with_settings
from studio.cli.output import print_json, print_table
from studio.settings import Settings

SHOWN = 80
"""Characters that are shown of each text in the list."""


def install(app: typer.Typer) -> None:
    """Add the command."""
    app.command("styles", epilog=SETTINGS_EPILOG)(with_settings(list_styles))


def list_styles(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per style.")] = False,
    settings: Settings,
) -> None:
    """List the styles of styles.csv: named pieces of prompt that --style applies."""
    from studio.styles import Styles

    styles = Styles(settings.home)
    if as_json:
        for style in styles.by_name.values():
            print_json({"name": style.name, "prompt": style.prompt, "negative_prompt": style.negative_prompt})
        return
    print_table(
        ("name", "prompt", "negative_prompt"),
        ((style.name, _cut(style.prompt), _cut(style.negative_prompt)) for style in styles.by_name.values()),
    )
    typer.echo(f"They are read from {styles.place}, with the columns name, prompt, negative_prompt", err=True)


def _cut(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= SHOWN else f"{plain[: SHOWN - 1]}…"
