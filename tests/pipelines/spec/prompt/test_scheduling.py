"""Prompt editing and alternation, step by step, as A1111's users know them."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lark import Lark

from pipelines.spec.prompt import schedule
from pipelines.spec.prompt.grammar import GRAMMAR, strays_as_text, tokens
from pipelines.spec.prompt.scheduling import switches
from tests.pipelines.spec.prompt.texts import PLAIN_TEXTS, TEXTS

STEPS = 10
LALR = Lark(GRAMMAR.read_text(encoding="utf-8"), parser="lalr", lexer="basic")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("test", [(10, "test")]),
        ("", [(10, "")]),
        ("a [b:3]", [(3, "a "), (10, "a b")]),
        ("a [b: 3]", [(3, "a "), (10, "a b")]),
        ("a [b:\t3 ]", [(3, "a "), (10, "a b")]),
        ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
        ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
        ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
        ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
        ("a [unbalanced", [(10, "a [unbalanced")]),
        ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
        ("a [{b|d{:.5] c", [(10, "a [{b|d{:.5] c")]),
        ("a|b [c:d:3]", [(10, "a|b [c:d:3]")]),
        ("(a|b) [c|d]", [(10, "(a|b) [c|d]")]),
        ("[a:b|c] [c:d:3]", [(10, "[a:b|c] [c:d:3]")]),
        (r"a\|b [c:d:3]", [(3, r"a\|b c"), (10, r"a\|b d")]),
        ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
        ("[b::3]", [(3, "b"), (10, "")]),
        ("[:b:3]", [(3, ""), (10, "b")]),
        ("[::3][:3]", [(10, "")]),
        ("[a:b:1]", [(1, "a"), (10, "b")]),
        ("[a:b:1.0]", [(10, "a")]),
        ("[a:b:+3]", [(3, "a"), (10, "b")]),
        ("[a:b:0.29]", [(2, "a"), (10, "b")]),
        ("[a:b:0]", [(10, "b")]),
        ("[a:b:-3]", [(10, "b")]),
        ("[a:b:10]", [(10, "a")]),
        ("[a:b:99999999999999999999]", [(10, "a")]),
        (f"[a:b:{'9' * 400}]", [(10, "a")]),
        ("[a:a:3]", [(10, "a")]),
        ("[a:b:3] [c:d:3]", [(3, "a c"), (10, "b d")]),
        ("[a:b:3] [c:d:6]", [(3, "a c"), (6, "b c"), (10, "b d")]),
        ("([a:b:3]:1.2)", [(3, "(a:1.2)"), (10, "(b:1.2)")]),
        ("[a:b:when]", [(10, "[a:b:when]")]),
        ("[a:b:c:3]", [(10, "[a:b:c:3]")]),
        ("[a (b:c:5]", [(10, "[a (b:c:5]")]),
        ("[a:b) c:5]", [(10, "[a:b) c:5]")]),
        ("[x [a:b:3]", [(3, "[x a"), (10, "[x b")]),
        ("[a:b:c:[d:e:2]:3]", [(2, "[a:b:c:d:3]"), (10, "[a:b:c:e:3]")]),
        (r"\[a:b:3\]", [(10, r"\[a:b:3\]")]),
        (r"[a\:b:c:3]", [(3, r"a\:b"), (10, "c")]),
        ("[a:b:3", [(10, "[a:b:3")]),
        ("16:9 a|b", [(10, "16:9 a|b")]),
        ("[a\n:b\r\n:3]", [(3, "a\n"), (10, "b\r\n")]),
        ("[a:b:٣]", [(10, "[a:b:٣]")]),
        ("[a:b:1e0]", [(1, "a"), (10, "b")]),
        ("[a:b:1E1]", [(10, "a")]),
        ("[a:b:1.0e0]", [(10, "a")]),
        ("[a:b:.5e0]", [(5, "a"), (10, "b")]),
        ("[a:b:30e-1]", [(3, "a"), (10, "b")]),
        ("[a:b:1e999]", [(10, "a")]),
        ("[a:b:1e]", [(10, "[a:b:1e]")]),
        ("[(a:b:0.5]", [(10, "[(a:b:0.5]")]),
        ("[(a:b:0.5] c)", [(10, "[(a:b:0.5] c)")]),
        ("[a (b:c):d:3]", [(3, "a (b:c)"), (10, "d")]),
        ("[(a:b:c):d:3]", [(10, "[(a:b:c):d:3]")]),
        ("[(a:b:1.2):c:3]", [(10, "[(a:b:1.2):c:3]")]),
        ("[[a:b]:c:3]", [(10, "[[a:b]:c:3]")]),
        ("[[a:b:c:3]:d:3]", [(10, "[[a:b:c:3]:d:3]")]),
        ("[(a:b:c)|d]", [(10, "[(a:b:c)|d]")]),
        ("[[a:b]|c]", [(10, "[[a:b]|c]")]),
        ("([a:b]) [c:d:3]", [(3, "([a:b]) c"), (10, "([a:b]) d")]),
        ("(a:b:c [x:y:3])", [(3, "(a:b:c x)"), (10, "(a:b:c y)")]),
        ("[a (b:c) (d:e:f):g:3] [h:i:4]", [(4, "[a (b:c) (d:e:f):g:3] h"), (10, "[a (b:c) (d:e:f):g:3] i")]),
        ("[x:[a|b:3]:3] [c:d:3]", [(10, "[x:[a|b:3]:3] [c:d:3]")]),
        ("[a:b:3]\\", [(10, "[a:b:3]\\")]),
        ("[a:b:3] c\\\nd", [(10, "[a:b:3] c\\\nd")]),
        ("[a:b:3\\]", [(10, "[a:b:3\\]")]),
    ],
)
def test_prompt_editing(text: str, expected: list[tuple[int, str]]) -> None:
    assert pairs(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[a|(b:1.1)]", ["a", "(b:1.1)"] * 5),
        ("[fe|]male", ["female", "male"] * 5),
        ("[a|b|c]", ["a", "b", "c"] * 3 + ["a"]),
        ("[(a:x)|b]", ["(a:x)", "b"] * 5),
        ("[a|[b:c:4]]", ["a", "b", "a", "b", "a", "c", "a", "c", "a", "c"]),
        ("[[a|b]:c:4]", ["a", "b", "a", "b"] + ["c"] * 6),
    ],
)
def test_alternation_changes_every_step(text: str, expected: list[str]) -> None:
    assert by_step(text) == expected


def test_each_step_is_encoded_where_something_alternates() -> None:
    """The mean of a text's emphasis is that of all."""
    alternating = schedule("[[a|b]:c:4]", num_inference_steps=10)

    assert [each.times for each in alternating] == [1, 1, 1, 1, 6]
    assert [each.times for each in schedule("[a:c:4]", num_inference_steps=10)] == [1, 1]


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [
        ("a [b:.5] c", [(5, "a  c"), (10, "a b c")], [(10, "a b c")]),
        ("a [b:1.5] c", [(10, "a  c")], [(5, "a  c"), (10, "a b c")]),
        ("a [b:1.0] c", [(10, "a  c")], [(10, "a b c")]),
        ("a [b:5] c", [(5, "a  c"), (10, "a b c")], [(10, "a b c")]),
        ("a [b:15] c", [(10, "a  c")], [(5, "a  c"), (10, "a b c")]),
        ("a [b:30] c", [(10, "a  c")], [(10, "a  c")]),
        ("[a:b:1.2]", [(10, "a")], [(1, "a"), (10, "b")]),  # 1.9999999999999996, cut off as in A1111
    ],
)
def test_one_clock_runs_through_both_passes(
    text: str, first: list[tuple[int, str]], second: list[tuple[int, str]]
) -> None:
    assert pairs(text) == first
    assert pairs(text, hires_steps=10) == second


def test_passes_of_different_length() -> None:
    assert pairs("[a:b:1.5]", num_inference_steps=20, hires_steps=6) == [(3, "a"), (6, "b")]
    assert pairs("[a:b:22]", num_inference_steps=20, hires_steps=6) == [(2, "a"), (6, "b")]


@pytest.mark.parametrize(
    ("when", "expected"),
    [("0.5", [(5, "a"), (10, "b")]), ("1.0", [(1, "a"), (10, "b")]), ("3.7", [(3, "a"), (10, "b")])],
)
def test_the_old_rule_takes_what_is_less_than_one_as_a_fraction(when: str, expected: list[tuple[int, str]]) -> None:
    assert pairs(f"[a:b:{when}]", old_fractions=True) == expected
    assert pairs(f"[a:b:{when}]", old_fractions=True, hires_steps=10) == expected


@given(TEXTS, st.integers(1, 30), st.none() | st.integers(1, 30))
def test_any_text_covers_each_step_once(text: str, num_inference_steps: int, hires_steps: int | None) -> None:
    steps = schedule(text, num_inference_steps=num_inference_steps, hires_steps=hires_steps)

    untils = [step.until_step for step in steps]
    assert untils == sorted(set(untils))
    assert untils[0] >= 1
    assert untils[-1] == (num_inference_steps if hires_steps is None else hires_steps)
    assert all(one.text != next_one.text for one, next_one in pairwise(steps))


@given(PLAIN_TEXTS)
def test_plain_text_holds_throughout(text: str) -> None:
    assert pairs(text) == [(STEPS, text)]


@given(TEXTS)
def test_the_grammar_takes_every_text_and_sees_the_same_groups(text: str) -> None:
    row = strays_as_text(tokens(text))

    tree = LALR.parse_interactive()
    for token in row:
        tree.feed_token(token)
    groups = tree.feed_eof()

    assert "".join(row) == text
    is_plain = "|" in groups.children or bool({"\\", "\\\n"} & set(row))
    closers = [] if is_plain else [group.children[-1] for group in groups.find_data("switch")]
    assert sorted(closers) == sorted(switches(text))


@pytest.mark.parametrize(
    "text", ["[" * 4000, "[" * 4000 + ":3]" * 1300, "[a|" * 2000 + "]" * 2000, "(" * 4000 + ")" * 4000]
)
def test_nesting_may_be_as_deep_as_a_prompt_is_long(text: str) -> None:
    assert by_step(text)


def pairs(text: str, **options: int) -> list[tuple[int, str]]:
    steps = schedule(text, **{"num_inference_steps": STEPS, **options})
    return [(step.until_step, step.text) for step in steps]


def by_step(text: str) -> list[str]:
    steps = schedule(text, num_inference_steps=STEPS)
    starts = [0, *(step.until_step for step in steps)]
    return [step.text for start, step in zip(starts, steps, strict=False) for _ in range(start, step.until_step)]
