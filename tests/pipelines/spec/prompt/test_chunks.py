"""Long prompts are parted at 75 tokens, at the last comma if it is near, and at BREAK."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from pipelines.spec.prompt import CHUNK_LENGTH, Chunk, chunk, weigh

COMMA = 7


def words(text: str) -> Sequence[int]:
    """One token per word, 100 and up; a comma is a token of its own."""
    return [COMMA if word == "," else 100 + len(word) for word in text.split()]


def chunks(text: str) -> tuple[Chunk, ...]:
    return chunk(weigh(text), tokenize=words, comma_tokens=frozenset({COMMA}))


def lengths(text: str) -> list[int]:
    return [len(each.token_ids) for each in chunks(text)]


def test_an_empty_prompt_is_one_empty_chunk() -> None:
    assert chunks("") == (Chunk((), ()),)


def test_a_prompt_is_parted_when_a_chunk_is_full() -> None:
    assert lengths("a " * 75) == [75]
    assert lengths("a " * 76) == [75, 1]
    assert lengths("a " * 200) == [75, 75, 50]


def test_what_follows_the_last_comma_moves_to_the_next_chunk() -> None:
    """The comma counts among the 20 tokens that A1111 looks back."""
    assert lengths("a " * 60 + ", " + "a " * 15) == [61, 15]
    assert lengths("a " * 55 + ", " + "a " * 20) == [56, 20]
    assert lengths("a " * 54 + ", " + "a " * 21) == [75, 1]
    assert lengths("a " * 75 + ", a") == [75, 2]


def test_break_fills_a_chunk() -> None:
    assert lengths("a a BREAK a a a") == [2, 3]
    assert lengths("BREAK a BREAK BREAK a") == [0, 1, 0, 1]
    assert lengths("a BREAK") == [1]


def test_each_token_has_the_weight_of_its_words() -> None:
    (first,) = chunks("a (b c:1.5) d")

    assert first.weights == (1.0, 1.5, 1.5, 1.0)


@given(st.lists(st.sampled_from(["a", "bb", ",", "BREAK", "(c:1.2)"]), max_size=300))
def test_no_token_is_lost_or_moved(parts: list[str]) -> None:
    text = " ".join(parts)
    found = chunks(text)

    assert [token for each in found for token in each.token_ids] == [
        token for part in weigh(text) if part.text != "BREAK" for token in words(part.text)
    ]
    assert all(len(each.token_ids) == len(each.weights) <= CHUNK_LENGTH for each in found)
