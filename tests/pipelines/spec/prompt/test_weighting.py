"""Attention: which run of a text has which weight."""

import re
from itertools import pairwise

import pytest
from hypothesis import given

from pipelines.spec.prompt import BREAK, Weighted, weigh
from tests.pipelines.spec.prompt.texts import PLAIN_TEXTS, TEXTS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("", []),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        ("[unbalanced (twice", [("unbalanced ", 1 / 1.1), ("twice", 1.0)]),
        ("un)balanced]", [("un)balanced]", 1.0)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        (r"a \\ b", [("a \\ b", 1.0)]),
        (r"(a\:1.3)", [("a", 1.3)]),
        (r"a \BREAK b", [("a", 1.0), None, ("b", 1.0)]),
        (r"a\BREAK\b", [("a", 1.0), None, ("b", 1.0)]),
        (r"BREAK\BREAK", [None, None]),
        (r"(a\BREAK:1.2)", [("a", 1.2), ("BREAK", -1.2)]),
        (r"a\\BREAK", [("a\\", 1.0), None]),
        (r"aBREAK\b \BREAKb", [("aBREAKb BREAKb", 1.0)]),
        ("back\\slash \\", [("backslash ", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                *[("a ", 1.0), ("house", 1.573), (" ", 1.1), ("on", 1.0), (" a ", 1.1), ("hill", 0.55)],
                *[(", sun, ", 1.1), ("sky", 1.4641), (".", 1.1)],
            ],
        ),
        ("[quiet]", [("quiet", 1 / 1.1)]),
        ("(a: 1.3 )", [("a", 1.3)]),
        ("(a:+.5)(b:-1)(c:2.)", [("a", 0.5), ("b", -1.0), ("c", 2.0)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("(a:b)", [("a:b", 1.1)]),
        ("a:1.3)", [("a:1.3)", 1.0)]),
        ("[a:1.3)", [("a:1.3)", 1 / 1.1)]),
        ("[a:b:c:3] d", [("a:b:c:3", 1 / 1.1), (" d", 1.0)]),
        ("a:3]", [("a:3]", 1.0)]),
        ("a|b 16:9", [("a|b 16:9", 1.0)]),
        ("(a [b) c]", [("a ", 1.1), ("b", 1.0), (" c", 1 / 1.1)]),
        ("()[](:1.3)", []),
        ("a BREAK b", [("a", 1.0), None, ("b", 1.0)]),
        (" a BREAK, b ", [(" a", 1.0), None, (", b ", 1.0)]),
        ("BREAK BREAK", [None, None]),
        ("(a BREAK b:1.3)", [("a", 1.3), ("BREAK", -1.3), ("b", 1.3)]),
        ("(a BREAK b:1)", [("a", 1.0), None, ("b", 1.0)]),
        ("BREAKFAST daBREAK", [("BREAKFAST daBREAK", 1.0)]),
    ],
)
def test_weights(text: str, expected: list[tuple[str, float] | None]) -> None:
    runs = weigh(text)

    assert [run if run is BREAK else run.text for run in runs] == [
        BREAK if item is None else item[0] for item in expected
    ]
    weights = [run.weight for run in runs if isinstance(run, Weighted)]
    assert weights == pytest.approx([item[1] for item in expected if item is not None])


@given(TEXTS)
def test_any_text_keeps_its_characters(text: str) -> None:
    syntax = r"[()\[\]\\:\s0-9.+\-BREAK]"  # brackets, escapes, what a weight and BREAK are made of

    runs = [run for run in weigh(text) if isinstance(run, Weighted)]

    assert re.sub(syntax, "", "".join(run.text for run in runs)) == re.sub(syntax, "", text)


@given(TEXTS)
def test_runs_are_merged_and_not_empty(text: str) -> None:
    runs = weigh(text)

    assert all(run is BREAK or run.text for run in runs)
    assert all(BREAK in (a, b) or a.weight != b.weight for a, b in pairwise(runs))


@given(PLAIN_TEXTS.filter(bool))
def test_plain_text_has_the_weight_one(text: str) -> None:
    assert weigh(text) == (Weighted(text, 1.0),)


def test_an_escaped_text_is_literal() -> None:
    text = "(a [b:1.3) | c] \\"

    escaped = re.sub(r"([\\()\[\]:])", r"\\\1", text)

    assert weigh(escaped) == (Weighted(text, 1.0),)


def test_nesting_may_be_as_deep_as_a_prompt_is_long() -> None:
    assert weigh("(" * 2000 + "[" * 2000 + "a" + "]" * 2000 + ")" * 2000) == (Weighted("a", pytest.approx(1.0)),)
