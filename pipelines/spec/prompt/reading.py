"""A whole prompt through a text encoder's eyes: how many tokens it has, and which embeddings it names."""

from collections.abc import Iterator
from typing import Literal

from pipelines.spec.prompt.chunking import ChunkRules, TokenCount, chunk, count_tokens
from pipelines.spec.prompt.composition import parse
from pipelines.spec.prompt.scheduling import schedule
from pipelines.spec.prompt.weighting import Mark, Weighted, weigh

Runs = tuple[Weighted | Literal[Mark.BREAK], ...]


def count_prompt(
    prompt: str, *, num_inference_steps: int, rules: ChunkRules, comments: bool = True, composable: bool = True
) -> TokenCount:
    """Return the count of the longest text, of all branches and steps.

    Args:
        prompt: as the user typed it.
        num_inference_steps: in which it is scheduled.
        rules: of the text encoder.
        comments: see `parse`.
        composable: see `parse`.
    """
    texts = _texts(prompt, num_inference_steps, comments=comments, composable=composable)
    return max((count_tokens(text, rules=rules) for text in texts), key=lambda count: count.used)


def named_embeddings(
    prompt: str,
    *,
    num_inference_steps: int,
    rules: ChunkRules,
    hires_steps: int | None = None,
    comments: bool = True,
    composable: bool = True,
) -> tuple[str, ...]:
    """Return the embeddings that a prompt names at any step, each once, in order.

    The arguments are `count_prompt`'s; `hires_steps` are those of a second pass that reads the prompt too.

    Raises:
        InvalidRequest: one is longer than a chunk.
    """
    placements = (
        placement.name
        for text in _texts(
            prompt, num_inference_steps, hires_steps=hires_steps, comments=comments, composable=composable
        )
        for part in chunk(text, rules=rules)
        for placement in part.placements
    )
    return tuple(dict.fromkeys(placements))


def _texts(
    prompt: str, num_inference_steps: int, *, hires_steps: int | None = None, comments: bool, composable: bool
) -> Iterator[Runs]:
    texts = dict.fromkeys(
        part.text
        for branch in parse(prompt, comments=comments, composable=composable).branches
        for steps in dict.fromkeys((None, hires_steps))
        for part in schedule(branch.text, num_inference_steps=num_inference_steps, hires_steps=steps)
    )
    return map(weigh, texts)
