"""Chunks, with a tokenizer of one token per word and comma."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.spec.errors import InvalidRequest
from pipelines.spec.prompt import BREAK, Chunk, ChunkRules, Placement, TokenCount, Weighted, chunk, count_tokens, weigh
from tests.pipelines.spec.prompt.texts import TEXTS

COMMA = 1


def tokenize(text: str) -> list[int]:
    """ "w7" is token 7, a comma 1, any other word 2."""
    return [
        int(t[1:]) if re.fullmatch("w[0-9]+", t) else COMMA if t == "," else 2 for t in re.findall(r"[^\s,]+|,", text)
    ]


RULES = ChunkRules(tokenize, frozenset({COMMA}))


def words(count: int, *, first: int = 10) -> str:
    return " ".join(f"w{first + index}" for index in range(count))


def lengths(text: str, rules: ChunkRules = RULES) -> list[int]:
    return [len(part.token_ids) for part in chunk(weigh(text), rules=rules)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [0]),
        (words(3), [3]),
        (words(75), [75]),
        (words(76), [75, 1]),
        (words(151), [75, 75, 1]),
        (f"{words(55)}, {words(19)}", [75]),
        (f"{words(55)}, {words(20)}", [56, 20]),  # the comma is 20 back
        (f"{words(54)}, {words(21)}", [75, 1]),  # it is 21 back
        (f"{words(74)}, {words(1)}", [75, 1]),
        (f"{words(75)}, {words(1)}", [75, 2]),  # a comma itself does not look back
        (f"{words(70)}, {words(75)}", [71, 75]),
        (f"{words(60)} BREAK {words(60)}", [60, 60]),
        ("BREAK", [0]),
        ("BREAK a", [0, 1]),
        ("a BREAK BREAK b", [1, 0, 1]),
        (f"{words(75)} BREAK a", [75, 1]),
    ],
)
def test_lengths(text: str, expected: list[int]) -> None:
    assert lengths(text) == expected


def test_looking_back_can_be_turned_off() -> None:
    rules = ChunkRules(tokenize, frozenset({COMMA}), comma_padding_backtrack=0)

    assert lengths(f"{words(60)}, {words(20)}", rules) == [75, 6]


def test_tokens_keep_order_and_weight() -> None:
    assert chunk(weigh("w5 (w6:1.5), w7 BREAK w8"), rules=RULES) == (
        Chunk((5, 6, 1, 7), (1.0, 1.5, 1.0, 1.0)),
        Chunk((8,), (1.0,)),
    )


def test_embeddings_take_the_place_of_their_name() -> None:
    rules = ChunkRules(tokenize, embeddings={"w5": 1, "w5 w6": 3})

    chunks = chunk(weigh("w4 (w5 w6:1.2) w5"), rules=rules)

    assert chunks == (
        Chunk((4, 0, 0, 0, 0), (1.0, 1.2, 1.2, 1.2, 1.0), (Placement(1, "w5 w6", 3), Placement(4, "w5", 1))),
    )


def test_an_embedding_never_straddles_two_chunks() -> None:
    rules = ChunkRules(tokenize, frozenset({COMMA}), embeddings={"w5": 4})

    assert lengths(f"{words(72)} w5 w6", rules) == [72, 5]
    assert lengths(f"{words(71)} w5 w6", rules) == [75, 1]


def test_an_embedding_moves_with_what_follows_the_comma() -> None:
    rules = ChunkRules(tokenize, frozenset({COMMA}), embeddings={"w5": 4})

    first, second = chunk(weigh(f"{words(69)}, w6 w5 w7"), rules=rules)

    assert (len(first.token_ids), first.placements) == (70, ())
    assert second == Chunk((6, 0, 0, 0, 0, 7), (1.0,) * 6, (Placement(1, "w5", 4),))


def test_a_long_embedding_leaves_what_moved_before_it_alone() -> None:
    rules = ChunkRules(tokenize, frozenset({COMMA}), embeddings={"w5": 70})

    assert lengths(f"{words(60)}, {words(14)} w5", rules) == [61, 14, 70]


def test_an_embedding_longer_than_a_chunk_is_refused() -> None:
    rules = ChunkRules(tokenize, embeddings={"w5": 76})

    with pytest.raises(InvalidRequest, match="at most 75 vectors for this model, w5 has 76"):
        chunk(weigh("w4 w5"), rules=rules)

    assert lengths("w4", rules) == [1], "what no prompt names is no harm"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", TokenCount(0, 75, 1)),
        (words(75), TokenCount(75, 75, 1)),
        (f"{words(70)}, {words(8)}", TokenCount(83, 150, 2)),
        ("a BREAK b", TokenCount(76, 150, 2)),
    ],
)
def test_the_counter(text: str, expected: TokenCount) -> None:
    assert count_tokens(weigh(text), rules=RULES) == expected


RUNS = st.one_of(
    st.just(BREAK),
    st.builds(
        Weighted,
        st.lists(st.sampled_from(["w5", "w6", "w7", ",", "x"]), max_size=15).map(" ".join),
        st.sampled_from([1.0, 1.3]),
    ),
)


@given(st.lists(RUNS, max_size=12), st.integers(4, 12), st.integers(0, 15))
def test_no_token_is_lost(runs: list[Weighted], chunk_length: int, backtrack: int) -> None:
    rules = ChunkRules(tokenize, frozenset({COMMA}), {"w5": 2, "w6 w7": 4}, chunk_length, backtrack)

    chunks = chunk(runs, rules=rules)

    assert all(len(part.token_ids) == len(part.weights) <= chunk_length for part in chunks)
    assert all(spot.start + spot.vectors <= len(part.token_ids) for part in chunks for spot in part.placements)
    placed = [_with_names(part) for part in chunks]
    texts = [run for run in runs if isinstance(run, Weighted)]
    assert [item for part in placed for item in part] == [token for run in texts for token in tokenize(run.text)]


def _with_names(part: Chunk) -> list[int]:
    """The token ids with the embeddings' names put back."""
    ids: list[int] = []
    position = 0
    for spot in part.placements:
        ids += [*part.token_ids[position : spot.start], *tokenize(spot.name)]
        position = spot.start + spot.vectors
    return [*ids, *part.token_ids[position:]]


@given(TEXTS)
def test_any_text_can_be_chunked(text: str) -> None:
    total = sum(len(tokenize(run.text)) for run in weigh(text) if isinstance(run, Weighted))

    assert sum(lengths(text)) == total
