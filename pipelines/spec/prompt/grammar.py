"""Cuts text into the tokens of prompt.lark and finds which brackets are partners. Does not know what they mean."""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

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
    """Return the tokens with every bracket that has no partner made TEXT.

    A group holds only whole groups: in "[a (b:c:5]" the "]" does not fit the "(", so all three brackets are stray.
    """
    result = list(tokens)
    opened: list[int] = []
    stray: list[int] = []
    for index, token in enumerate(result):
        if token.type in {"OPEN_ROUND", "OPEN_SQUARE"}:
            opened.append(index)
        elif (opener := OPENER.get(token.type)) is not None:
            if opened and result[opened[-1]].type == opener:
                opened.pop()
            else:
                stray += [*opened, index]
                opened.clear()
    for index in stray + opened:
        result[index] = Token("TEXT", result[index].value)
    return result


def number_in(token: Token) -> str:
    """Return "3" for CLOSE_WEIGHT ": 3)" or CLOSE_SWITCH ":3 ]"."""
    return token[1:-1].strip()


@cache
def _lexer() -> Lark:
    return Lark(GRAMMAR.read_text(encoding="utf-8"), parser=None, lexer="basic")
