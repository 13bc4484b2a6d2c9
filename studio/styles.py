"""Styles as A1111 keeps them: named pieces of prompt in styles.csv. Applied, and taken off again for pasting."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from pipelines.spec.errors import InvalidRequest

PLACE = "{prompt}"
"""Where a style wants the prompt; one without it is appended."""

_SHOWN = 10
"""Names that are told to who names an unknown one that is like none of them."""


@dataclass(frozen=True)
class Style:
    """One row of a styles file."""

    name: str
    prompt: str
    negative_prompt: str


class Styles:
    """The styles of one or several files, by name; where two share a name, the last file wins.

    Args:
        folder: where the files are.
        pattern: their names, for example `styles*.csv`.

    Raises:
        InvalidRequest: a file cannot be read.
    """

    def __init__(self, folder: Path, *, pattern: str = "styles*.csv") -> None:
        self.place = folder / pattern
        """Where the files are looked for."""
        rows = (row for path in sorted(folder.glob(pattern)) for row in _read(path))
        self.by_name: Mapping[str, Style] = {style.name: style for style in rows}

    def apply(self, names: Iterable[str], *, prompt: str, negative_prompt: str = "") -> tuple[str, str]:
        """Return prompt and negative prompt with styles applied in their order.

        Raises:
            InvalidRequest: no style has this name.
        """
        for style in [self._named(name) for name in names]:
            prompt, negative_prompt = _merged(style.prompt, prompt), _merged(style.negative_prompt, negative_prompt)
        return prompt, negative_prompt

    def remove(self, *, prompt: str, negative_prompt: str = "") -> tuple[Sequence[str], str, str]:
        """Take off whatever styles were applied: return their names, in the order to apply them, and what was before.

        A style counts only if both of its pieces are found.
        """
        names: list[str] = []
        while True:
            for style in self.by_name.values():
                before, negative_before = _taken(style.prompt, prompt), _taken(style.negative_prompt, negative_prompt)
                if before is not None and negative_before is not None and style.name not in names:
                    names.insert(0, style.name)
                    prompt, negative_prompt = before, negative_before
                    break
            else:
                return names, prompt, negative_prompt

    def _named(self, name: str) -> Style:
        if name in self.by_name:
            return self.by_name[name]
        if near := get_close_matches(name, self.by_name, n=3):
            known = f"did you mean {' or '.join(near)}? `studio styles` lists all of {self.place}"
        elif self.by_name:
            first, more = sorted(self.by_name)[:_SHOWN], len(self.by_name) - _SHOWN
            others = f" and {more} more, see `studio styles`," if more > 0 else ""
            known = f"there are {', '.join(first)}{others} in {self.place}"
        else:
            known = f"there is none in {self.place}"
        raise InvalidRequest(f"styles names {name!r}, which is unknown; {known}", field="styles")


def _read(path: Path) -> Iterable[Style]:
    """Return the rows of a file. Old files have a column `text`; a name that starts with # is a comment."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidRequest(
            f"the styles {path} cannot be read: {error}; save it as CSV in UTF-8", field="styles"
        ) from error
    if rows and not ({"name", "prompt"} <= rows[0].keys() or {"name", "text"} <= rows[0].keys()):
        raise InvalidRequest(
            f"the styles {path} need the columns name, prompt, negative_prompt in the first line", field="styles"
        )
    return [
        Style(row["name"], row.get("prompt") or row.get("text") or "", row.get("negative_prompt") or "")
        for row in rows
        if row["name"] and not row["name"].startswith("#")
    ]


def _merged(piece: str, prompt: str) -> str:
    if PLACE in piece:
        return piece.replace(PLACE, prompt)
    return ", ".join(part for part in (prompt.strip(), piece.strip()) if part)


def _taken(piece: str, prompt: str) -> str | None:
    """Return the prompt without a style's piece, or None when it is not there."""
    if not piece.strip():
        return prompt
    if PLACE in piece:
        before, _, after = piece.partition(PLACE)
        fits = len(prompt) >= len(before) + len(after) and prompt.startswith(before) and prompt.endswith(after)
        inside = prompt[len(before) : len(prompt) - len(after)]
        return inside if fits and _merged(piece, inside) == prompt else None
    if prompt == piece.strip():
        return ""
    return prompt.removesuffix(f", {piece.strip()}") if prompt.endswith(f", {piece.strip()}") else None
