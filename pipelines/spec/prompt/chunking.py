"""Cuts weighted text into the chunks that a CLIP text encoder takes. Does not know the tokenizer, only what it says."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

from pipelines.spec.errors import InvalidRequest
from pipelines.spec.prompt.weighting import BREAK, Mark, Weighted

PLACEHOLDER = 0
"""The token id where the vectors of a named embedding will stand."""


@dataclass(frozen=True)
class ChunkRules:
    """What the loaded model's text encoder takes."""

    tokenize: Callable[[str], Sequence[int]]
    """Text -> token ids, without those for the beginning and the end."""
    comma_tokens: frozenset[int] = frozenset()
    """The ids of a comma; a chunk that fills up is cut behind the last one."""
    embeddings: Mapping[str, int] = field(default_factory=dict)
    """Embedding (textual inversion) -> how many vectors it has. Found by the tokens of its name, the longest first."""
    chunk_length: int = 75
    comma_padding_backtrack: int = 20
    """How many tokens back the last comma may be; 0 never looks back."""

    @cached_property
    def names(self) -> Mapping[int, Sequence[tuple[tuple[int, ...], str, int]]]:
        """First token id -> the embeddings whose name begins with it as (token ids, name, vectors), longest first."""
        names: dict[int, list[tuple[tuple[int, ...], str, int]]] = {}
        for name, vectors in self.embeddings.items():
            if ids := tuple(self.tokenize(name)):
                names.setdefault(ids[0], []).append((ids, name, vectors))
        for candidates in names.values():
            candidates.sort(key=lambda candidate: -len(candidate[0]))
        return names


@dataclass(frozen=True, slots=True)
class Placement:
    """Where in a chunk the vectors of a named embedding stand."""

    start: int
    name: str
    vectors: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """At most `chunk_length` tokens, without those for the beginning and the end and without padding."""

    token_ids: tuple[int, ...]
    weights: tuple[float, ...]
    """One for each token."""
    placements: tuple[Placement, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenCount:
    """What a counter beside the prompt shows."""

    used: int
    """All chunks but the last count as full."""
    capacity: int
    """Of the chunks in use."""
    chunks: int


class _Piece(NamedTuple):
    """A token, or an embedding that takes the place of its name's tokens."""

    token_id: int
    weight: float
    length: int = 1
    name: str | None = None


def chunk(weighted: Iterable[Weighted | Literal[Mark.BREAK]], *, rules: ChunkRules) -> tuple[Chunk, ...]:
    """Return one chunk or more.

    When a chunk is full and its last comma is near its end, what follows the comma moves to the next chunk. BREAK
    closes a chunk, even an empty one. The vectors of an embedding always stand in one chunk.

    Raises:
        InvalidRequest: an embedding is longer than a chunk.
    """
    chunks: list[Chunk] = []
    current: list[_Piece] = []
    length = 0
    for run in weighted:
        if run is BREAK:
            chunks.append(_chunk(current))
            current, length = [], 0
            continue
        for piece in _pieces(run, rules):
            while length + piece.length > rules.chunk_length:
                looks_back = length == rules.chunk_length and piece.token_id not in rules.comma_tokens
                cut = _behind_last_comma(current, rules) if looks_back else len(current)
                chunks.append(_chunk(current[:cut]))
                current = current[cut:]
                length = sum(moved.length for moved in current)
            current.append(piece)
            length += piece.length
    if current or not chunks:
        chunks.append(_chunk(current))
    return tuple(chunks)


def count_tokens(weighted: Iterable[Weighted | Literal[Mark.BREAK]], *, rules: ChunkRules) -> TokenCount:
    """Count what `chunk` makes of it."""
    chunks = chunk(weighted, rules=rules)
    before = rules.chunk_length * (len(chunks) - 1)
    return TokenCount(before + len(chunks[-1].token_ids), before + rules.chunk_length, len(chunks))


def _pieces(run: Weighted, rules: ChunkRules) -> Iterator[_Piece]:
    ids = tuple(rules.tokenize(run.text))
    position = 0
    while position < len(ids):
        for name_ids, name, vectors in rules.names.get(ids[position], ()):
            if ids[position : position + len(name_ids)] == name_ids:
                if vectors > rules.chunk_length:
                    raise InvalidRequest(
                        f"an embedding must have at most {rules.chunk_length} vectors for this model, {name} has "
                        f"{vectors}; take it out of the prompt",
                        field="prompt",
                    )
                yield _Piece(PLACEHOLDER, run.weight, vectors, name)
                position += len(name_ids)
                break
        else:
            yield _Piece(ids[position], run.weight)
            position += 1


def _behind_last_comma(pieces: Sequence[_Piece], rules: ChunkRules) -> int:
    """Return where to cut a full chunk: behind a comma near its end, else at its end."""
    moved = 0
    for index in range(len(pieces) - 1, -1, -1):
        if pieces[index].name is None and pieces[index].token_id in rules.comma_tokens:
            return index + 1
        moved += pieces[index].length
        if moved >= rules.comma_padding_backtrack:
            break
    return len(pieces)


def _chunk(pieces: Iterable[_Piece]) -> Chunk:
    token_ids: list[int] = []
    weights: list[float] = []
    placements: list[Placement] = []
    for piece in pieces:
        if piece.name is not None:
            placements.append(Placement(len(token_ids), piece.name, piece.length))
        token_ids += [piece.token_id] * piece.length
        weights += [piece.weight] * piece.length
    return Chunk(tuple(token_ids), tuple(weights), tuple(placements))
