"""Cuts text into the tokens of prompt.lark and finds which brackets are partners. Does not know what they mean."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from lark import Lark, Token

GRAMMAR = Path(__file__).with_name("prompt.lark")

OPENER = {
    "CLOSE_ROUND": "OPEN_ROUND",
    "CLOSE_WEIGHT": "OPEN_ROUND",
    "CLOSE_SQUARE": "OPEN_SQUARE",
    "CLOSE_SWITCH": "OPEN_SQUARE",
}
"""Which bracket a closing token can close."""


def tokens(text: str) -> Iterator[Token]:
    """Return the tokens of any text; together they are the text, character for character."""
    return _lexer().lex(text)


def strays_as_text(tokens: Iterable[Token]) -> list[Token]:
    """Return the tokens with every bracket made TEXT that has no partner, or whose group the grammar does not know.

    A group holds only whole groups: in "[a (b:c:5]" the "]" does not fit the "(", so all three brackets are stray. So
    are all four in "[(a:b:c):d:5]", where the round ones hold a colon too many.
    """
    result = list(tokens)
    opened: list[_Opened] = []
    stray: list[int] = []
    for index, token in enumerate(result):
        if token.type in {"OPEN_ROUND", "OPEN_SQUARE"}:
            opened.append(_Opened(index, []))
        elif token.type in {"COLON", "BAR"} and opened:
            opened[-1].separators.append(token.type)
        elif (opener := OPENER.get(token.type)) is not None:
            if opened and result[opened[-1].position].type == opener and _is_group(token, opened[-1].separators):
                opened.pop()
            else:
                stray += [*(bracket.position for bracket in opened), index]
                opened.clear()
    for index in stray + [bracket.position for bracket in opened]:
        result[index] = Token("TEXT", result[index].value)
    return result


def number_in(token: Token) -> str:
    """Return "3" for CLOSE_WEIGHT ": 3)" or CLOSE_SWITCH ":3 ]"."""
    return token[1:-1].strip()


class _Opened(NamedTuple):
    """A bracket that is not closed yet."""

    position: int
    separators: list[str]
    """COLON and BAR of its own, in their order."""


def _is_group(closer: Token, separators: Sequence[str]) -> bool:
    match closer.type:
        case "CLOSE_ROUND" | "CLOSE_SWITCH":  # (louder), (4:3), [from:to:when]
            return separators in ([], ["COLON"])
        case "CLOSE_SQUARE":  # [one|or|another]
            return "COLON" not in separators
    return not separators  # (louder:1.2)


@cache
def _lexer() -> Lark:
    return Lark(GRAMMAR.read_text(encoding="utf-8"), parser=None, lexer="basic")
