"""What the counter shows, and which embeddings a prompt names, over all steps and branches."""

import pytest

from pipelines.spec.prompt import ChunkRules, TokenCount, count_prompt, named_embeddings

RULES = ChunkRules(lambda text: [ord(word[0]) for word in text.split()], embeddings={"zebra": 8})


@pytest.mark.parametrize(
    ("prompt", "composable", "used"),
    [
        ("", True, 0),
        ("a b c", True, 3),
        ("a (b:1.2) c # d e f", True, 3),
        ("[a:b c d:5] e", True, 4),
        ("[a:b c d:50] e", True, 2),
        ("a b AND c d e", True, 3),
        ("a b AND c d e", False, 6),
        ("a <lora:x:1>", True, 1),
        ("a zebra", True, 9),
        ("a BREAK b", True, 76),
    ],
)
def test_the_longest_text_counts(prompt: str, composable: bool, used: int) -> None:
    count = count_prompt(prompt, num_inference_steps=10, rules=RULES, composable=composable)

    assert count == TokenCount(used, 75 * (1 + used // 76), 1 + used // 76)


def test_embeddings_are_named_at_any_step_and_once() -> None:
    prompt = "[a:zebra:3] zebra AND zebra :0.5"

    assert named_embeddings(prompt, num_inference_steps=10, rules=RULES) == ("zebra",)
    assert named_embeddings("[a:zebra:30]", num_inference_steps=10, rules=RULES) == ()
