"""What commands print: tables for people, lines of JSON for programs. Text from outside never steers the terminal."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

PIPE_WIDTH = 200
"""Columns of a table that nobody watches; a terminal has its own width."""

_STEERING = (*range(0x20), 0x7F, *range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_SURROGATES = range(0xD800, 0xE000)
"""Halves of pairs: JSON can spell them, and no terminal can print them."""
_HARMLESS: Mapping[int, str] = {code: "�" for code in (*_STEERING, *_SURROGATES) if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """Return a text without characters that move the cursor, colour the terminal or turn the reading direction."""
    return text.translate(_HARMLESS)


def shown_prompt(prompt: str) -> str:
    """Return what stands for a prompt in a table."""
    return prompt or "(no prompt)"


def print_json(data: Mapping[str, Any]) -> None:
    """Print one JSON object on one line; ASCII only, so that it survives every terminal and pipe."""
    typer.echo(json.dumps(data))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under their headings on standard output. The last column is cut where the line is full."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
    console.print(table(columns, rows))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> "RenderableType":
    """Return rows under their headings, to be drawn."""
    from rich.table import Table
    from rich.text import Text

    cells = [[" ".join(printable(str(cell)).split()) for cell in row] for row in rows]
    drawn = Table(box=None, header_style="bold", pad_edge=False)
    for number, column in enumerate(columns):
        longest = max((len(row[number]) for row in cells), default=0)
        is_last = number == len(columns) - 1
        drawn.add_column(column, no_wrap=True, overflow="ellipsis", min_width=None if is_last else min(longest, 40))
    for row in cells:
        drawn.add_row(*map(Text, row))
    return drawn
