"""Which text holds at which step: `[from:to:when]` switches once, `[a|b]` alternates every step.

A1111's steps are those of `schedulers.prompt_steps`. The text of a step is used while the denoiser has run so often or
less, counted from 0: the first text holds for one evaluation more than it has steps.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, repeat

from lark import Token

from pipelines.spec.prompt.grammar import OPENER, number_in, strays_as_text, tokens

_TIMED = re.compile(r"\||[0-9.]\s*\]")
"""A text without a bar and without a number before a square bracket is one text."""

_Unrolled = str | list[str]
"""A text that holds in every step, or one text per step."""


@dataclass(frozen=True, slots=True)
class ScheduledText:
    """What to encode up to and including a step."""

    until_step: int
    """At least 1."""
    text: str
    times: int = 1
    """How often A1111 encodes it: for each step if anything in the prompt alternates, else once."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Tells at which step of a pass a `when` lies.

    A `when` with a "." in it is a fraction of the pass, any other is a step number. The two passes of a picture that is
    made small and repainted large share one clock: fractions from 1 to 2 and numbers beyond the first pass address the
    second. So in the second pass what belongs to the first has switched already.
    """

    num_inference_steps: int
    """Of the first pass, at least 1."""
    hires_steps: int | None = None
    """Of the second pass, at least 1, when that is the one to be scheduled."""
    old_fractions: bool = False
    """The rule of A1111 before 1.6: what is less than 1 is a fraction, in either pass."""

    @property
    def steps(self) -> int:
        """Of the pass that is scheduled."""
        return self.num_inference_steps if self.hires_steps is None else self.hires_steps

    def last_step_before(self, when: str) -> int:
        """Return the last step that still shows `from`: 0 is before the first, `steps` means that it never switches."""
        value = float(when)
        if self.old_fractions:
            value *= self.steps if value < 1 else 1
        elif "." in when:  # in this order, as A1111 computes it: 1.2 of 10 hires steps is 1.9999999999999996
            value = (value - (self.hires_steps is not None)) * self.steps
        elif self.hires_steps is not None:
            value -= self.num_inference_steps
        return int(min(max(value, 0), self.steps))


def schedule(
    text: str, *, num_inference_steps: int, hires_steps: int | None = None, old_fractions: bool = False
) -> tuple[ScheduledText, ...]:
    """Return the texts of one pass in order; the last holds until its last step. Neighbours differ.

    Weights and escapes stay in the texts, for `weigh`. Brackets that make no group are text; all of it is
    if a "|" stands outside of an alternation, or a backslash at the end of a line.

    Args:
        text: of one branch.
        num_inference_steps: of the first pass.
        hires_steps: None schedules the first pass; a number schedules the second pass, which has so many steps.
        old_fractions: see `Clock`.
    """
    clock = Clock(num_inference_steps, hires_steps, old_fractions)
    row = strays_as_text(tokens(text)) if "[" in text and _TIMED.search(text) else []
    unrolled = text if not row or _is_plain(row) else _unroll(row, clock)
    if isinstance(unrolled, str):
        return (ScheduledText(clock.steps, unrolled),)
    alternates = any(token.type == "BAR" for token in row)
    schedule = []
    until_step = 0
    for text_of_steps, steps in groupby(unrolled):
        times = sum(1 for _ in steps)
        until_step += times
        schedule.append(ScheduledText(until_step, text_of_steps, times if alternates else 1))
    return tuple(schedule)


def switches(text: str) -> Iterator[Token]:
    """Yield the closing tokens, such as ":0.5]", of the groups that switch from one text to another."""
    row = strays_as_text(tokens(text))
    if not _is_plain(row):
        yield from (token for token in row if token.type == "CLOSE_SWITCH")


def _is_plain(row: Iterable[Token]) -> bool:
    """Whether A1111 takes the whole text as it is: a "|" separates nothing, or a backslash ends a line."""
    depth = 0
    for token in row:
        depth += token.type.startswith("OPEN")
        depth -= token.type in OPENER
        if (token.type == "BAR" and depth == 0) or (token.type == "ESCAPE" and token in {"\\", "\\\n"}):
            return True
    return False


def _unroll(row: Iterable[Token], clock: Clock) -> _Unrolled:
    groups: list[list[_Unrolled]] = [[]]
    for token in row:
        if token.type in {"OPEN_ROUND", "OPEN_SQUARE"}:
            groups.append([])
        groups[-1].append(token)
        match token.type:
            case "CLOSE_ROUND" | "CLOSE_WEIGHT":
                group = _join(groups.pop())
            case "CLOSE_SQUARE":
                group = _alternated(groups.pop(), clock.steps)
            case "CLOSE_SWITCH":
                group = _switched(groups.pop(), clock, number_in(token))
            case _:
                continue
        groups[-1].append(group)
    return _join(groups[0])


def _alternated(group: list[_Unrolled], steps: int) -> _Unrolled:
    options = [_join(option) for option in _split(group[1:-1], "BAR")]
    if len(options) == 1:
        return _join(group)
    return [_at(options[step % len(options)], step) for step in range(steps)]


def _switched(group: list[_Unrolled], clock: Clock, when: str) -> _Unrolled:
    before, after = ["", *(_join(part) for part in _split(group[1:-1], "COLON"))][-2:]
    last = clock.last_step_before(when)
    return [_at(before if step < last else after, step) for step in range(clock.steps)]


def _split(pieces: Sequence[_Unrolled], separator: str) -> list[list[_Unrolled]]:
    parts: list[list[_Unrolled]] = [[]]
    for piece in pieces:
        if isinstance(piece, Token) and piece.type == separator:
            parts.append([])
        else:
            parts[-1].append(piece)
    return parts


def _join(pieces: Sequence[_Unrolled]) -> _Unrolled:
    if all(isinstance(piece, str) for piece in pieces):
        return "".join(piece for piece in pieces if isinstance(piece, str))
    return ["".join(texts) for texts in zip(*(repeat(p) if isinstance(p, str) else p for p in pieces), strict=False)]


def _at(unrolled: _Unrolled, step: int) -> str:
    return unrolled if isinstance(unrolled, str) else unrolled[step]
