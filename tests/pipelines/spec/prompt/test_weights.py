"""Weights multiply as in A1111, and no text is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.spec.prompt import BREAK, weigh

VECTORS: list[tuple[str, list[tuple[str, float]]]] = [
    ("normal text", [("normal text", 1.0)]),
    ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
    ("(unbalanced", [("unbalanced", 1.1)]),
    ("a [[faint", [("a ", 1.0), ("faint", 1 / 1.21)]),
    ("unbalanced)", [("unbalanced)", 1.0)]),
    (r"\(literal\]", [("(literal]", 1.0)]),
    (r"back\\slash a\b", [(r"back\slash a\b", 1.0)]),
    ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
    (
        "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
        [
            *(("a ", 1.0), ("house", 1.573), (" ", 1.1), ("on", 1.0), (" a ", 1.1)),
            *(("hill", 0.55), (", sun, ", 1.1), ("sky", 1.4641), (".", 1.1)),
        ],
    ),
    ("(x: 1.3 )", [("x", 1.3)]),
    ("(x:.5)", [("x", 0.5)]),
    ("(x:-1)", [("x", -1.0)]),
    ("(x:1.2.3)", [("x:1.2.3", 1.1)]),
    ("x:1.3)", [("x:1.3)", 1.0)]),
    ("", [("", 1.0)]),
]


@pytest.mark.parametrize(("text", "expected"), VECTORS)
def test_a_text_is_weighed_as_in_a1111(text: str, expected: list[tuple[str, float]]) -> None:
    weighed = weigh(text)

    assert [each.text for each in weighed] == [words for words, _ in expected]
    assert [each.weight for each in weighed] == pytest.approx([weight for _, weight in expected])


def test_break_parts_the_text_and_takes_its_blanks() -> None:
    assert [each.text for each in weigh("a cat\nBREAK  a dog BREAKFAST")] == ["a cat", "BREAK", "a dog BREAKFAST"]
    weighed = weigh("(a BREAK b:1.2)")
    assert [each.weight for each in weighed] == pytest.approx([1.2, BREAK.weight, 1.2])
    assert weighed[1] is BREAK


@given(st.text(st.characters(exclude_characters="()[]\\:"), max_size=60).filter(lambda text: "BREAK" not in text))
def test_plain_text_stays_whole(text: str) -> None:
    assert [(each.text, each.weight) for each in weigh(text)] == [(text, 1.0)]


@given(st.text(st.sampled_from(list("ab ,:()[]\\.1B")), max_size=40) | st.text(max_size=40))
def test_no_letter_is_lost(text: str) -> None:
    kept = "".join(each.text for each in weigh(text))

    assert kept.count("a") == text.count("a")
    assert all(isinstance(each.weight, float) for each in weigh(text))
