"""Which text holds at which step: `[from:to:when]`, `[to:when]`, `[from::when]` and `[a|b]`, nested as one likes."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from lark import Lark, Token, Transformer

_MARK = "\ue000"
_STRUCTURE = re.compile(r"\\.|[\[\]()]", re.DOTALL)
_PARTNERS = {"]": "[", ")": "("}
_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*")


@dataclass(frozen=True)
class ScheduledText:
    """A text and the last step, counted from 1, that it is for."""

    until_step: int
    text: str


def schedule(
    text: str, num_inference_steps: int, *, hires_steps: int | None = None, old_rule: bool = False
) -> tuple[ScheduledText, ...]:
    """Return the texts of all steps; equal neighbours are one. Malformed syntax is text.

    "When" is the last step before the switch. A number with a point is a fraction: up to 1 of the first pass, from 1 to
    2 of the second. A number without counts steps, and goes on counting in the second pass.

    Args:
        text: a prompt, or a branch of one.
        num_inference_steps: steps of the first pass.
        hires_steps: steps of the second pass, if it is the one that is scheduled.
        old_rule: A1111 before 1.6: a number below 1 is a fraction, any other counts steps, however it is written.
    """
    clock = _Clock(num_inference_steps, hires_steps, old_rule)
    last = num_inference_steps if hires_steps is None else hires_steps
    if "[" not in text:
        return (ScheduledText(last, text),)
    tree = _parse(text.replace(_MARK, ""))
    moments = sorted({moment for moment in tree.moments(clock) if 0 < moment < last} | {last})
    scheduled = [ScheduledText(moment, tree.text(moment, clock)) for moment in moments]
    return tuple(
        each
        for index, each in enumerate(scheduled)
        if index + 1 == len(scheduled) or scheduled[index + 1].text != each.text
    )


@dataclass(frozen=True)
class _Clock:
    """The pass that is scheduled, and what "when" means in it."""

    steps: int
    hires_steps: int | None
    old_rule: bool

    def moment(self, when: str) -> int:
        """Return the last step of the pass before a switch; 0 or less if it has happened before."""
        value = float(when)
        is_fraction = value < 1 if self.old_rule else "." in when
        if self.hires_steps is None:
            return int(value * self.steps) if is_fraction else int(value)
        return int((value - 1) * self.hires_steps) if is_fraction else int(value) - self.steps

    def every_step(self) -> range:
        return range(1, (self.steps if self.hires_steps is None else self.hires_steps) + 1)


class _Node(Protocol):
    """A piece of a prompt."""

    def text(self, step: int, clock: _Clock) -> str:
        """Return what it says at a step."""

    def moments(self, clock: _Clock) -> Iterator[int]:
        """Return the last steps before it may say something else."""


@dataclass(frozen=True)
class _Sequence:
    """Texts and nodes, one after another."""

    pieces: tuple[str | _Node, ...]

    def text(self, step: int, clock: _Clock) -> str:
        return "".join(piece if isinstance(piece, str) else piece.text(step, clock) for piece in self.pieces)

    def moments(self, clock: _Clock) -> Iterator[int]:
        for piece in self.pieces:
            if not isinstance(piece, str):
                yield from piece.moments(clock)


@dataclass(frozen=True)
class _Editing:
    """`[before:after:when]`."""

    before: _Node
    after: _Node
    when: str

    def text(self, step: int, clock: _Clock) -> str:
        return (self.before if step <= clock.moment(self.when) else self.after).text(step, clock)

    def moments(self, clock: _Clock) -> Iterator[int]:
        yield clock.moment(self.when)
        yield from self.before.moments(clock)
        yield from self.after.moments(clock)


@dataclass(frozen=True)
class _Alternation:
    """`[a|b|…]`: another one at each step, over and over."""

    parts: tuple[_Node, ...]

    def text(self, step: int, clock: _Clock) -> str:
        return self.parts[(step - 1) % len(self.parts)].text(step, clock)

    def moments(self, clock: _Clock) -> Iterator[int]:
        yield from clock.every_step()


_Child = Token | _Node


class _ToNodes(Transformer[Token, _Node]):
    """Turns the grammar's rules into nodes."""

    def round(self, children: Sequence[_Child]) -> _Node:
        return _sequence(children)

    def square(self, children: Sequence[_Child]) -> _Node:
        *texts, when = _split(children, "COLON")
        number = _NUMBER.fullmatch(str(when[0])) if len(when) == 1 and isinstance(when[0], Token) else None
        if number is not None and len(texts) in {1, 2}:
            before, after = (_sequence(part) for part in ([], *texts)[-2:])
            return _Editing(before, after, number[1])
        parts = _split(children, "BAR")
        if len(parts) > 1:
            return _Alternation(tuple(_sequence(part) for part in parts))
        return _sequence((Token("TEXT", "["), *children, Token("TEXT", "]")))


def _parse(text: str) -> _Sequence:
    """Return the nodes of a text: what stands in square brackets is parsed, all else is taken as it is."""
    pieces: list[str | _Node] = []
    end = 0
    unpaired, groups = _pair_brackets(text)
    for first, last in groups:
        pieces.append(text[end:first])
        pieces.append(_grammar().parse(_marked(text, first, last, unpaired)))  # type: ignore[arg-type]  # by _ToNodes
        end = last
    return _Sequence((*pieces, text[end:]))


@cache
def _grammar() -> Lark:
    grammar = (Path(__file__).parent / "schedule.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", start="square", transformer=_ToNodes(visit_tokens=False))


def _pair_brackets(text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Return where brackets without a partner stand, and from where to where the outermost square groups reach."""
    open_brackets: list[re.Match[str]] = []
    unpaired: list[int] = []
    groups: list[tuple[int, int]] = []
    for found in _STRUCTURE.finditer(text):
        if found[0] in _PARTNERS.values():
            open_brackets.append(found)
        elif found[0] in _PARTNERS:
            if not open_brackets or open_brackets[-1][0] != _PARTNERS[found[0]]:
                unpaired.append(found.start())
                continue
            first = open_brackets.pop().start()
            if found[0] == "]":
                while groups and groups[-1][0] > first:
                    groups.pop()
                groups.append((first, found.end()))
    return [*unpaired, *(found.start() for found in open_brackets)], groups


def _marked(text: str, first: int, last: int, unpaired: Sequence[int]) -> str:
    """Return a stretch of a text with the mark before every bracket that has no partner."""
    for position in sorted((each for each in unpaired if first < each < last), reverse=True):
        text = f"{text[:position]}{_MARK}{text[position:]}"
        last += 1
    return text[first:last]


def _split(children: Sequence[_Child], kind: str) -> list[list[_Child]]:
    parts: list[list[_Child]] = [[]]
    for child in children:
        if isinstance(child, Token) and child.type == kind:
            parts.append([])
        else:
            parts[-1].append(child)
    return parts


def _sequence(children: Sequence[_Child]) -> _Sequence:
    return _Sequence(tuple(str(child).replace(_MARK, "") if isinstance(child, Token) else child for child in children))
