"""How strongly each word counts: `(x)` times 1.1, `[x]` divided by 1.1, `(x:1.3)` as said, nested by multiplying."""

import re
from dataclasses import dataclass

ROUND = 1.1
SQUARE = 1 / 1.1

_TOKEN = re.compile(
    r"""
    \\[()\[\]\\]                              # an escaped bracket or backslash
    | \\                                      # a backslash before anything else
    | [(\[\])]                                # a bracket
    | :\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)   # a weight and the end of its bracket
    | \s*\bBREAK\b\s*
    | (?:(?!\s*\bBREAK\b)[^\\()\[\]:])+
    | :
    """,
    re.VERBOSE,
)

_ESCAPED = re.compile(r"\\[()\[\]\\]")


@dataclass(frozen=True)
class Weighted:
    """A stretch of text and what its encoding is multiplied by."""

    text: str
    weight: float = 1.0


BREAK = Weighted("BREAK", -1.0)
"""Stands where the rest of a chunk stays empty."""


def weigh(text: str) -> tuple[Weighted, ...]:
    """Return the stretches of equal weight, in order. A bracket that is never closed reaches to the end."""
    scale = _Scale()
    for token in _TOKEN.finditer(text):
        piece = token[0]
        match piece:
            case "(" | "[":
                scale.open(piece)
            case ")" if scale.close("(", ROUND):
                continue
            case "]" if scale.close("[", SQUARE):
                continue
            case _ if token["weight"] and scale.close("(", float(token["weight"])):
                continue
            case _ if piece.strip() == BREAK.text:
                scale.add(BREAK)
            case _:
                scale.add(Weighted(piece[1] if _ESCAPED.fullmatch(piece) else piece))
    scale.close_all()
    return scale.merged()


class _Scale:
    """The stretches so far, and the brackets that are open: where their text begins."""

    def __init__(self) -> None:
        self._stretches: list[Weighted] = []
        self._open: dict[str, list[int]] = {"(": [], "[": []}

    def open(self, bracket: str) -> None:
        self._open[bracket].append(len(self._stretches))

    def close(self, bracket: str, factor: float) -> bool:
        """Weigh what stands since the bracket; False if none is open."""
        if not self._open[bracket]:
            return False
        start = self._open[bracket].pop()
        self._stretches[start:] = [
            each if each is BREAK else Weighted(each.text, each.weight * factor) for each in self._stretches[start:]
        ]
        return True

    def close_all(self) -> None:
        for bracket, factor in (("(", ROUND), ("[", SQUARE)):
            while self.close(bracket, factor):
                pass

    def add(self, stretch: Weighted) -> None:
        self._stretches.append(stretch)

    def merged(self) -> tuple[Weighted, ...]:
        merged: list[Weighted] = []
        for each in self._stretches:
            if merged and BREAK not in (merged[-1], each) and merged[-1].weight == each.weight:
                merged[-1] = Weighted(merged[-1].text + each.text, each.weight)
            else:
                merged.append(each)
        return tuple(merged) or (Weighted(""),)
