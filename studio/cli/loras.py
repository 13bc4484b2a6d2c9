"""`studio loras` and `studio loras show`: which LoRAs there are, and what they say about themselves."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.spec.errors import ModelError
from studio.cli.options import SETTINGS_EPILOG, refuse_options_of, with_settings
from studio.cli.output import print_json, print_table, printable
from studio.settings import Settings

if TYPE_CHECKING:
    from studio.store import InstalledLora

SHOWN_VALUE = 120
"""Characters that are shown of each thing that a trainer wrote."""
SHOWN_WORDS = 60
"""Characters that are shown of trigger words in the list."""


def install(app: typer.Typer) -> None:
    """Add the commands."""
    loras = typer.Typer(epilog=SETTINGS_EPILOG, rich_markup_mode=None)
    loras.callback(invoke_without_command=True)(with_settings(list_loras))
    loras.command(epilog=SETTINGS_EPILOG)(with_settings(show))
    app.add_typer(loras, name="loras")


def list_loras(
    context: typer.Context,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per LoRA.")] = False,
    settings: Settings,
) -> None:
    """List the LoRAs, or show one.

    Without a subcommand: list them, those that cannot be used among them, with the reason.
    """
    if context.invoked_subcommand is not None:
        refuse_options_of(context, "loras")
        return
    from studio.core import Studio

    with Studio(settings) as studio:
        loras = studio.loras()
    if as_json:
        for lora in loras:
            print_json(_described(lora))
        return
    print_table(("name", "family", "kind", "rank", "layers", "size", "trigger words"), map(_row, loras))
    for lora in loras:
        if lora.problem:
            typer.echo(printable(f"{lora.name} cannot be used: {lora.problem}"), err=True)
    typer.echo(f"For more, copy .safetensors files into {settings.lora_folders[0]}", err=True)


def show(
    name: Annotated[str, typer.Argument(help="As `studio loras` lists it, or its title.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    settings: Settings,
) -> None:
    """Show all that a LoRA says about itself, and its hashes.

    Exit code 1: it cannot be used.
    """
    from studio.core import Studio

    with Studio(settings) as studio:
        lora = studio.lora(name)
    described = _described(lora)
    if as_json:
        print_json(described)
    else:
        _print_pairs({**described, **_shown(lora)})
        if described["metadata"]:
            typer.echo("\ntraining:")
            _print_pairs(dict(sorted(described["metadata"].items())))
    if lora.problem:
        raise ModelError(f"LoRA {lora.name} cannot be used: {lora.problem}")


def _described(lora: "InstalledLora") -> dict[str, Any]:
    from studio.store import described_lora

    preview = None if lora.preview is None else str(lora.preview)
    return {**described_lora(lora), "path": str(lora.path), "preview": preview}


def _shown(lora: "InstalledLora") -> dict[str, Any]:
    """Return in a person's words what is otherwise plain data."""
    verdict = {None: "", True: " (true)", False: " (not true: the tensors are others)"}[lora.is_claim_true]
    header = lora.header
    return {
        "size": _size(lora),
        "ranks": ", ".join(map(str, header.ranks)) if header else "",
        "layers": _layers(lora),
        "embeddings": ", ".join(header.embeddings) if header else "",
        "trigger_words": ", ".join(lora.trigger_words),
        "has_preview": "",
        "claimed_sha256": f"{header.claimed_sha256}{verdict}" if header and header.claimed_sha256 else "",
        "metadata": "",
    }


def _row(lora: "InstalledLora") -> tuple[object, ...]:
    if lora.header is None:
        return lora.name, "", "cannot be used", "", "", _size(lora), ""
    ranks = sorted({lora.header.ranks[0], lora.header.ranks[-1]}) if lora.header.ranks else []
    words = ", ".join(lora.trigger_words)[:SHOWN_WORDS]
    rank = " to ".join(map(str, ranks))
    return (
        lora.name,
        lora.family_label or "unknown",
        lora.header.kind,
        rank,
        _layers(lora),
        _size(lora),
        words,
    )


def _layers(lora: "InstalledLora") -> str:
    return ", ".join(f"{part} {count}" for part, count in lora.header.layers.items()) if lora.header else ""


def _size(lora: "InstalledLora") -> str:
    return f"{lora.size / 2**20:.1f} MiB"


def _print_pairs(pairs: Mapping[str, Any]) -> None:
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        if value not in (None, "", [], {}):
            text = " ".join(str(value).split())
            cut = text if len(text) <= SHOWN_VALUE else f"{text[: SHOWN_VALUE - 1]}…"
            typer.echo(printable(f"{name:{width}}  {cut}"))
