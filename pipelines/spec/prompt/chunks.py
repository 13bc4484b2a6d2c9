"""Long prompts in chunks of 75 tokens, each with a start and an end of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipelines.spec.prompt.weights import BREAK, Weighted

CHUNK_LENGTH = 75
COMMA_BACKTRACK = 20
"""A full chunk gives back what follows its last comma if that is fewer tokens (A1111 counts the comma)."""


@dataclass(frozen=True)
class Chunk:
    """At most 75 tokens, without start, end and padding."""

    token_ids: tuple[int, ...]
    weights: tuple[float, ...]
    """One per token."""


def chunk(
    weighted: Sequence[Weighted], *, tokenize: Callable[[str], Sequence[int]], comma_tokens: frozenset[int]
) -> tuple[Chunk, ...]:
    """Return the chunks of a text, one or more.

    Args:
        weighted: stretches of text, from `weigh`.
        tokenize: returns the ids of a text, without start and end.
        comma_tokens: ids behind which a chunk is best parted.
    """
    filling = _Filling(comma_tokens)
    for part in weighted:
        if part is BREAK:
            filling.end_chunk()
            continue
        for token in tokenize(part.text):
            filling.add(token, part.weight)
    if filling.tokens or not filling.chunks:
        filling.end_chunk()
    return tuple(filling.chunks)


class _Filling:
    """The chunk that is being filled, and those that are full."""

    def __init__(self, comma_tokens: frozenset[int]) -> None:
        self._comma_tokens = comma_tokens
        self._after_comma = 0
        """How many tokens of this chunk stand up to and with the last comma; 0 if there is none."""
        self.tokens: list[tuple[int, float]] = []
        self.chunks: list[Chunk] = []

    def add(self, token: int, weight: float) -> None:
        if len(self.tokens) == CHUNK_LENGTH:
            tail: list[tuple[int, float]] = []
            if token not in self._comma_tokens and CHUNK_LENGTH - self._after_comma < COMMA_BACKTRACK:
                self.tokens, tail = self.tokens[: self._after_comma], self.tokens[self._after_comma :]
            self.end_chunk()
            self.tokens = tail
        self.tokens.append((token, weight))
        if token in self._comma_tokens:
            self._after_comma = len(self.tokens)

    def end_chunk(self) -> None:
        self.chunks.append(Chunk(tuple(token for token, _ in self.tokens), tuple(weight for _, weight in self.tokens)))
        self.tokens, self._after_comma = [], 0
