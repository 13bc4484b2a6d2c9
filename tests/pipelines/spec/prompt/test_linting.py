"""What is said about a prompt before it runs."""

import re

import pytest
from hypothesis import given

from pipelines.spec.prompt import ChunkRules, lint
from tests.pipelines.spec.prompt.texts import PLAIN_TEXTS, TEXTS

RULES = ChunkRules(lambda text: [2] * len(re.findall(r"\w+", text)))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a (boat", ['"(boat": this "(" is never closed, so it lasts until the end.']),
        ("a [boat", ['"[boat": this "[" is never closed, so it lasts until the end.']),
        ("a boat)", ['"a boat)": this ")" closes nothing and is read as text.']),
        ("a boat:1.3)", ['"a boat:1.3)": this ")" closes nothing and is read as text.']),
        ("<foo:x:1> a", ["<foo:x> is ignored: this model takes <hypernet:…>, <lora:…>, <lyco:…>."]),
        ("<lora:x:much> a", ['<lora:x>: "much" is no number, so the default weight is used.']),
        ("<lora:te=1> a", ["<lora:> names no file."]),
        ("a <lora:x:1 b", ['"<lora:x:1" is read as text: it is no complete tag.']),
        ("[a:b:30]", ['":30]" never switches within 20 steps.']),
        ("[a:b:19]", ['":19]" never switches within 20 steps.']),
        ("[cat:1.3]", ['":1.3]" never switches within 20 steps.']),
        ("[a:b:0]", ['":0]" switches before the first step, so only its last text is used.']),
        ("(a BREAK b:1.3)", ["BREAK in brackets is a word of the weight -1.3; put it outside."]),
        ("(a:2.5)", ['"a" has the weight 2.5; beyond 2 pictures usually fall apart.']),
        ("(a:-3)", ['"a" has the weight -3; beyond 2 pictures usually fall apart.']),
        ("a house 16:9", ['The ":9" at the end is the weight of the whole prompt, not text.']),
        ("a boat #2", ['From "#" to the end of its line is a comment and left out.']),
        ("a " * 80, ["80 of 150 tokens: the text is encoded in 2 chunks."]),
        ("(a:3) AND (a:3)", ['"a" has the weight 3; beyond 2 pictures usually fall apart.']),
    ],
)
def test_what_looks_wrong_is_said_once(prompt: str, expected: list[str]) -> None:
    assert [note.message for note in lint(prompt, num_inference_steps=20, rules=RULES)] == expected


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "a boat, oil painting",
        "(a [b:c:10] (d:1.5)) [e|f] <lora:x:0.8> <hypernet:y> AND g :0.5",
        r"\(a\[ \] \:3\]",
        r"(\))",
        "a BREAK b",
        "(a [b) c]",
        "[a:b:c:0]",
    ],
)
def test_nothing_is_said_about_what_is_right(prompt: str) -> None:
    assert lint(prompt, num_inference_steps=20, rules=RULES) == ()


@pytest.mark.parametrize(
    ("scheduler", "last"), [("heun", 37), ("dpmpp_sde", 37), ("plms", 19), ("dpm_fast", 18), ("euler", 18)]
)
def test_a_switch_is_counted_in_the_evaluations_of_the_scheduler(scheduler: str, last: int) -> None:
    assert lint(f"[a:b:{last}]", num_inference_steps=20, scheduler=scheduler) == ()
    (note,) = lint(f"[a:b:{last + 1}]", num_inference_steps=20, scheduler=scheduler)
    assert ("20 steps, which" in note.message) == (last == 37)


@pytest.mark.parametrize(("prompt", "count"), [("[a:b:1.5]", 0), ("[a:b:25]", 0), ("[a:b:30]", 1), ("[a:b:2.0]", 1)])
def test_a_schedule_may_switch_in_the_second_pass(prompt: str, count: int) -> None:
    notes = lint(prompt, num_inference_steps=20, hires_steps=10)

    assert [note.message.partition(" ")[2] for note in notes] == [
        "never switches within 20 steps and 10 hires steps."
    ] * count


def test_a_text_of_the_second_pass_is_looked_at_too() -> None:
    assert len(lint("[a:(b:3):1.5]", num_inference_steps=20, hires_steps=10)) == 1


def test_an_encoder_without_weights_says_so() -> None:
    notes = lint("(a:3) BREAK [b]", num_inference_steps=20, rules=RULES, supports_weights=False)

    assert [note.message for note in notes] == [
        'This model takes no weights: those of "a" are ignored.',
        "This model reads a prompt in one piece: BREAK is ignored.",
    ]


def test_a_model_may_take_no_networks() -> None:
    notes = lint("<lora:x> a", num_inference_steps=20, networks=frozenset())

    assert [note.message for note in notes] == ["<lora:x> is ignored: this model takes none."]


def test_only_information_is_no_warning() -> None:
    notes = lint(f"# x\n(b:3) {'a ' * 80}", num_inference_steps=20, rules=RULES)

    assert [(note.kind, note.is_warning) for note in notes] == [("comment", False), ("weight", True), ("length", False)]


@given(TEXTS)
def test_any_text_can_be_looked_at(text: str) -> None:
    notes = lint(text, num_inference_steps=5, hires_steps=4, rules=RULES)

    assert all(note.message.endswith(".") for note in notes)
    assert len(set(notes)) == len(notes)


@given(PLAIN_TEXTS)
def test_plain_text_has_no_note(text: str) -> None:
    assert lint(text, num_inference_steps=20) == ()
