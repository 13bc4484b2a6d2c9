"""Prompt editing and alternation mean what they mean in A1111; whatever is malformed is text."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.spec.prompt import schedule

SYNTAX = st.text(st.sampled_from(list("ab ,:|[]()\\.12\n\ue000")), max_size=40) | st.text(max_size=40)

VECTORS: list[tuple[str, list[tuple[int, str]]]] = [
    ("test", [(10, "test")]),
    ("a [b:3]", [(3, "a "), (10, "a b")]),
    ("a [b: 3]", [(3, "a "), (10, "a b")]),
    ("a [b:3 ] c", [(3, "a  c"), (10, "a b c")]),
    ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
    ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
    ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
    ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
    ("a [b::4]", [(4, "a b"), (10, "a ")]),
    ("a [unbalanced", [(10, "a [unbalanced")]),
    ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
    ("a [{b|d{:.5] c", [(5, "a  c"), (10, "a {b|d{ c")]),
    ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
    ("(a [b:3]:1.2)", [(3, "(a :1.2)"), (10, "(a b:1.2)")]),
    ("[a:b:c]", [(10, "[a:b:c]")]),
    ("[a:b:c:3]", [(10, "[a:b:c:3]")]),
    ("[a:b:0]", [(10, "b")]),
    ("[a:b:10]", [(10, "a")]),
    ("[a:b:99]", [(10, "a")]),
    ("[a:b:1.0]", [(10, "a")]),
    ("[a:b:1]", [(1, "a"), (10, "b")]),
    ("[a:b:0.5]", [(5, "a"), (10, "b")]),
    ("[a:b:-1]", [(10, "b")]),
    ("[a]", [(10, "[a]")]),
    (r"\[a:b:3\]", [(10, r"\[a:b:3\]")]),
    (r"[a\]:b:3]", [(3, r"a\]"), (10, "b")]),
    ("[|a]", [(step, "" if step % 2 else "a") for step in range(1, 11)]),
    ("[a|b:3]", [(3, ""), (10, "a|b")]),
]


@pytest.mark.parametrize(("text", "expected"), VECTORS)
def test_a_prompt_of_ten_steps(text: str, expected: list[tuple[int, str]]) -> None:
    assert [(each.until_step, each.text) for each in schedule(text, 10)] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[fe|]male", ["female", "male", "female", "male"]),
        ("[a|(b:1.1)]", ["a", "(b:1.1)", "a", "(b:1.1)"]),
        ("[a|b|c]", ["a", "b", "c", "a"]),
        ("[a|[b:c:2]]", ["a", "b", "a", "c"]),
    ],
)
def test_alternation_changes_at_each_step(text: str, expected: list[str]) -> None:
    scheduled = schedule(text, 4)
    texts = [next(each.text for each in scheduled if step <= each.until_step) for step in (1, 2, 3, 4)]

    assert texts == expected


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [
        ("a [b:1.5] c", [(10, "a  c")], [(4, "a  c"), (8, "a b c")]),
        ("a [b:.5] c", [(5, "a  c"), (10, "a b c")], [(8, "a b c")]),
        ("[a:b:12]", [(10, "a")], [(2, "a"), (8, "b")]),
        ("[a:b:3]", [(3, "a"), (10, "b")], [(8, "b")]),
    ],
)
def test_the_second_pass_goes_on_where_the_first_ended(
    text: str, first: list[tuple[int, str]], second: list[tuple[int, str]]
) -> None:
    assert [(each.until_step, each.text) for each in schedule(text, 10)] == first
    assert [(each.until_step, each.text) for each in schedule(text, 10, hires_steps=8)] == second


def test_before_a1111_1_6_a_number_below_one_was_a_fraction_and_any_other_a_step() -> None:
    assert schedule("[a:b:1.0]", 10, old_rule=True)[0].until_step == 1
    assert schedule("[a:b:0.3]", 10, old_rule=True)[0].until_step == 3


@given(SYNTAX, st.integers(1, 30))
def test_any_text_has_a_text_for_every_step(text: str, steps: int) -> None:
    scheduled = schedule(text, steps)

    ends = [each.until_step for each in scheduled]
    assert ends == sorted(set(ends))
    assert ends[-1] == steps
    assert all(first.text != second.text for first, second in pairwise(scheduled))


@given(st.text(st.characters(exclude_characters="[]"), max_size=60))
def test_a_text_without_square_brackets_is_itself(text: str) -> None:
    assert [each.text for each in schedule(text, 20)] == [text]
