"""How loud each piece of a text is: `(x)` and `[x]`, `(x:1.3)`, `BREAK`. Does not know what an encoder does with it."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal

from lark import Token

from pipelines.spec.prompt.grammar import OPENER, number_in, tokens

ROUND_WEIGHT = 1.1
"""What `(x)` multiplies by."""
SQUARE_WEIGHT = 1 / 1.1
"""What `[x]` multiplies by."""

_SPECIAL = re.compile(r"[()\[\]\\]|BREAK")
_BACKSLASH = re.compile(r"(\\[()\[\]\\])|((?<=\bBREAK)\\|\\(?=BREAK\b))|\\")
"""One that makes a bracket text; one that stands between a word and BREAK, which it parts; one that means nothing."""
_BREAK = re.compile(r"\bBREAK\b")


class Mark(Enum):
    """What stands between weighted texts."""

    BREAK = "BREAK"
    """The rest of the chunk stays empty; what follows starts a new one."""


BREAK: Final = Mark.BREAK


@dataclass(frozen=True, slots=True)
class Weighted:
    """A run of text of one weight, without brackets and escapes."""

    text: str
    weight: float


def weigh(text: str) -> tuple[Weighted | Literal[Mark.BREAK], ...]:
    """Return the runs of a scheduled text; no two neighbours have one weight, none is empty.

    `(x)` multiplies by 1.1, `[x]` divides by 1.1, `(x:1.3)` multiplies by 1.3; what is nested multiplies. A bracket
    that is never closed lasts until the end, one that was never opened is text. A backslash makes a bracket or another
    one text; it is left out, and means nothing before anything else. All as in A1111, also that BREAK is no mark where
    it has a weight, but a word whose weight is turned round.
    """
    if not _SPECIAL.search(text):
        return (Weighted(text, 1.0),) if text else ()
    row = list(tokens(_BACKSLASH.sub(lambda found: found[1] or (" " if found[2] else ""), text)))
    partners = partners_of(row)
    opened_by = {closer: opener for opener, closer in partners.items() if closer is not None}
    weights = {"OPEN_ROUND": [1.0], "OPEN_SQUARE": [1.0]}  # of the brackets open here, each times those around it
    runs: list[tuple[str, float] | None] = []  # None is BREAK
    for index, token in enumerate(row):
        weight = weights["OPEN_ROUND"][-1] * weights["OPEN_SQUARE"][-1]
        if (stack := weights.get(token.type)) is not None:
            closer = partners[index]
            stack.append(stack[-1] * _factor(token, None if closer is None else row[closer]))
        elif index in opened_by:
            if token.type == "CLOSE_SWITCH":  # a number that belongs to no schedule, as in "[a:b:c:3]"
                runs.append((token[:-1], weight))
            weights[row[opened_by[index]].type].pop()
        elif token.type == "ESCAPE":
            runs.append((token[1:], weight))
        else:
            runs += _broken(token, weight)
    return _merged(runs)


def partners_of(row: Sequence[Token]) -> dict[int, int | None]:
    """Return which token closes which bracket, by index; None for a bracket that is never closed.

    Round and square brackets do not see each other: "(a [b) c]" are two pairs.
    """
    partners: dict[int, int | None] = {}
    opened: dict[str, list[int]] = {"OPEN_ROUND": [], "OPEN_SQUARE": []}
    for index, token in enumerate(row):
        if token.type in opened:
            opened[token.type].append(index)
            partners[index] = None
        elif stack := opened.get(OPENER.get(token.type, "")):
            partners[stack.pop()] = index
    return partners


def _factor(opener: Token, closer: Token | None) -> float:
    if opener.type == "OPEN_SQUARE":
        return SQUARE_WEIGHT
    return float(number_in(closer)) if closer is not None and closer.type == "CLOSE_WEIGHT" else ROUND_WEIGHT


def _broken(text: str, weight: float) -> Iterator[tuple[str, float] | None]:
    parts = _BREAK.split(text) if "BREAK" in text else [text]
    for index, part in enumerate(parts):
        if index > 0:
            yield None if weight == 1 else (BREAK.value, -weight)
            part = part.lstrip()
        yield part.rstrip() if index + 1 < len(parts) else part, weight


def _merged(runs: Iterable[tuple[str, float] | None]) -> tuple[Weighted | Literal[Mark.BREAK], ...]:
    merged: list[Weighted | Literal[Mark.BREAK]] = []
    texts: list[str] = []
    weight = 1.0
    for run in [*runs, None]:
        if texts and (run is None or run[1] != weight):
            merged.append(Weighted("".join(texts), weight))
            texts = []
        if run is None:
            merged.append(BREAK)
        elif run[0]:
            texts.append(run[0])
            weight = run[1]
    return tuple(merged[:-1])
