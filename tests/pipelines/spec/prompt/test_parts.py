"""Comments, extra networks and AND."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.spec.prompt import Branch, parse


@pytest.mark.parametrize(
    ("text", "branches"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("a cat AND a dog", [("a cat", 1.0), ("a dog", 1.0)]),
        ("a cat :1.2 AND a dog: 0.5 AND fog :-.3", [("a cat", 1.2), ("a dog", 0.5), ("fog", -0.3)]),
        ("a cat\nAND\na dog", [("a cat", 1.0), ("a dog", 1.0)]),
        ("SAND and BAND", [("SAND and BAND", 1.0)]),
        ("time: 12:30", [("time: 12:30", 1.0)]),
        ("", [("", 1.0)]),
    ],
)
def test_and_parts_a_prompt_into_weighted_branches(text: str, branches: list[tuple[str, float]]) -> None:
    assert list(parse(text).branches) == [Branch(*each) for each in branches]


@pytest.mark.parametrize(
    ("tag", "name", "weights"),
    [
        ("<lora:style>", "style", (1.0, 1.0)),
        ("<lora:style:0.8>", "style", (0.8, 0.8)),
        ("<lora:my style v2.1:0.8:0.2>", "my style v2.1", (0.8, 0.2)),
        ("<lora:style:te=0.5>", "style", (0.5, 0.5)),
        ("<lora:style:unet=0.5>", "style", (1.0, 0.5)),
        ("<lora:style:te=0:unet=-1>", "style", (0.0, -1.0)),
        ("<lora:style:0.8:unet=0.3:dyn=4>", "style", (0.8, 0.3)),
    ],
)
def test_a_lora_has_weights_for_text_encoder_and_unet(tag: str, name: str, weights: tuple[float, float]) -> None:
    prompt = parse(f"a boat {tag} at sea")

    (network,) = prompt.extra_networks
    assert (network.kind, network.name, network.weights()) == ("lora", name, weights)
    assert prompt.branches[0].text == "a boat  at sea"


def test_other_tags_are_taken_out_too() -> None:
    prompt = parse("<hypernet:old:0.5> a <b> c < d : e > f")

    assert [(each.kind, each.name) for each in prompt.extra_networks] == [("hypernet", "old")]
    assert prompt.branches[0].text == " a <b> c < d : e > f"


def test_comments_can_be_switched_off() -> None:
    text = "a boat # at sea\n# a whole line\nwith fog"

    assert parse(text).branches[0].text == "a boat\nwith fog"
    assert parse(text, comments=False).branches[0].text == text


@given(st.text(st.characters(exclude_characters="<#"), max_size=60).filter(lambda text: "AND" not in text))
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert parse(text).branches == (Branch(text),)


@given(st.lists(st.sampled_from([*"aN D#<>:=.1\n", "AND", "<lora:"]), max_size=40))
def test_no_text_is_refused(pieces: list[str]) -> None:
    assert parse("".join(pieces)).branches
