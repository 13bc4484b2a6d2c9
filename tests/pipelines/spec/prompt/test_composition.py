"""What a prompt is made of: comments, tags and branches."""

import pytest
from hypothesis import given

from pipelines.spec.prompt import Branch, ExtraNetwork, NetworkWeights, Prompt, parse
from tests.pipelines.spec.prompt.texts import PLAIN_TEXTS, TEXTS


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a boat", [("a boat", 1.0)]),
        ("", [("", 1.0)]),
        ("a cat AND a dog", [("a cat", 1.0), ("a dog", 1.0)]),
        ("a cat :1.2 AND a dog: -0.5 AND sea", [("a cat", 1.2), ("a dog", -0.5), ("sea", 1.0)]),
        ("a cat : .8 \n", [("a cat", 0.8)]),
        ("a AND ", [("a", 1.0), ("", 1.0)]),
        ("HAND ANDES AND_B and c", [("HAND ANDES AND_B and c", 1.0)]),
        ("(a AND b:1.3)", [("(a", 1.0), ("b:1.3)", 1.0)]),
        ("a: b", [("a: b", 1.0)]),
        (f"a:{'9' * 400}", [(f"a:{'9' * 400}", 1.0)]),
        ("a <lora:x:1>:2 AND b", [("a", 2.0), ("b", 1.0)]),
    ],
)
def test_branches(prompt: str, expected: list[tuple[str, float]]) -> None:
    assert parse(prompt).branches == tuple(Branch(text, weight) for text, weight in expected)


def test_a_negative_prompt_has_one_branch() -> None:
    assert parse("a AND b :0.8", composable=False).branches == (Branch("a AND b :0.8"),)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("a # b", "a "),
        ("a # b\nc", "a \nc"),
        ("a\n# b\nc", "a\nc"),
        ("# a", ""),
        ("a\n  # b", "a\n"),
        ("# <lora:x:1>\n# c\na", "a"),
    ],
)
def test_comments_are_left_out_when_asked(prompt: str, text: str) -> None:
    assert parse(prompt) == Prompt((Branch(text),))
    assert parse("a # b", comments=False) == Prompt((Branch("a # b"),))


@pytest.mark.parametrize(
    ("tag", "network", "weights"),
    [
        ("<lora:x>", ExtraNetwork("lora", "x"), (1.0, 1.0)),
        ("<lora:x:0.8>", ExtraNetwork("lora", "x", ("0.8",)), (0.8, 0.8)),
        ("<lora:x:0.8:0.5:8>", ExtraNetwork("lora", "x", ("0.8", "0.5", "8")), (0.8, 0.5)),
        ("<lora:x:te=1:unet=0.5>", ExtraNetwork("lora", "x", (), {"te": "1", "unet": "0.5"}), (1.0, 0.5)),
        ("<lora:x:unet=0.5>", ExtraNetwork("lora", "x", (), {"unet": "0.5"}), (1.0, 0.5)),
        ("<lora:x:te=0.5>", ExtraNetwork("lora", "x", (), {"te": "0.5"}), (0.5, 0.5)),
        ("<lora:x:0.3:te=0.5>", ExtraNetwork("lora", "x", ("0.3",), {"te": "0.5"}), (0.5, 0.5)),
        ("<lora:x:.3: -0.5 >", ExtraNetwork("lora", "x", (".3", " -0.5 ")), (0.3, -0.5)),
        ("<lora:x:strong:nan>", ExtraNetwork("lora", "x", ("strong", "nan")), (1.0, 1.0)),
        ("<hypernet:my file:1>", ExtraNetwork("hypernet", "my file", ("1",)), (1.0, 1.0)),
        ("<foo:a=b=c>", ExtraNetwork("foo", "a=b=c"), (1.0, 1.0)),
        ("<foo:a=b>", ExtraNetwork("foo", "", (), {"a": "b"}), (1.0, 1.0)),
    ],
)
def test_tags_are_taken_out(tag: str, network: ExtraNetwork, weights: tuple[float, float]) -> None:
    prompt = parse(f"a {tag}boat")

    assert prompt == Prompt((Branch("a boat"),), (network,))
    assert prompt.extra_networks[0].weights == NetworkWeights(*weights)


def test_tags_keep_their_order() -> None:
    assert [network.name for network in parse("<lora:b> x <lora:a> AND <lora:c>").extra_networks] == ["b", "a", "c"]


@pytest.mark.parametrize("text", ["<lora:x", "<lora:>", "<lora>", "a < b > c", "<:x>"])
def test_what_is_no_tag_is_text(text: str) -> None:
    assert parse(text) == Prompt((Branch(text),))


@given(PLAIN_TEXTS)
def test_plain_text_is_left_as_it_is(text: str) -> None:
    assert parse(text) == Prompt((Branch(text),))


@given(TEXTS)
def test_any_text_can_be_parsed(text: str) -> None:
    prompt = parse(text)

    assert len(prompt.branches) >= 1
    assert all(network.weights for network in prompt.extra_networks)
