"""Text that means itself, read by the grammar of prompts."""

import pytest
from hypothesis import given

from pipelines.spec.literal import as_text
from pipelines.spec.prompt import parse, schedule, weigh
from tests.pipelines.spec.prompt.texts import TEXTS


def read(prompt: str) -> str:
    """Return what an encoder would get, all at weight 1."""
    parsed = parse(prompt, comments=False)
    ((branch,), ()) = parsed.branches, parsed.extra_networks
    (scheduled,) = schedule(branch.text, num_inference_steps=10)
    runs = weigh(scheduled.text)
    assert branch.weight == 1
    assert {run.weight for run in runs if not isinstance(run, str)} <= {1.0}
    return "".join(run.text for run in runs)


@pytest.mark.parametrize(
    "text",
    [
        *("a (photo)", "a [x]", "[red:blue:0.5] house", "[a|b]", "(loud:1.5)", "cats AND dogs", "a \\(b\\)", "16:9"),
        *("<lora:x:1> house", "house #5", "a cat :2", "one )", "\\"),
    ],
)
def test_syntax_is_text(text: str) -> None:
    assert read(as_text(text)) == text


def test_break_is_a_word_in_small_letters() -> None:
    assert read(as_text("a BREAK b")) == "a break b"


@given(TEXTS)
def test_any_text_means_itself(text: str) -> None:
    assert read(as_text(text)).lower() == text.lower()
    assert len(as_text(text)) <= 2 * len(text)
