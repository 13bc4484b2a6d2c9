"""What in a prompt the loaded model will ignore, or probably means something else than it says. In sentences."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from lark import Token

from pipelines.spec.lora_tags import LORA_KINDS
from pipelines.spec.prompt.chunking import ChunkRules, count_tokens
from pipelines.spec.prompt.composition import Prompt, parse, without_comments
from pipelines.spec.prompt.grammar import number_in, tokens
from pipelines.spec.prompt.scheduling import Clock, schedule, switches
from pipelines.spec.prompt.weighting import BREAK, Mark, Weighted, partners_of, weigh
from pipelines.spec.schedulers import SCHEDULERS, prompt_steps

EXTREME_WEIGHT = 2.0
"""Beyond this a picture usually falls apart."""
KNOWN_NETWORKS = LORA_KINDS | {"hypernet"}

_LIKE_A_TAG = re.compile(r"<\w+:[^\s>]*>?")
_EXCERPT = 20


class NoteKind(StrEnum):
    """What a note is about."""

    BRACKETS = "brackets"
    COMMENT = "comment"
    EXTRA_NETWORK = "extra_network"
    LENGTH = "length"
    SCHEDULE = "schedule"
    WEIGHT = "weight"


@dataclass(frozen=True, slots=True)
class Note:
    """One sentence to show beside the prompt."""

    kind: NoteKind
    message: str
    is_warning: bool = True
    """False where nothing is wrong and the user may only want to know."""


@dataclass(frozen=True, slots=True)
class _Pass:
    """What prompts count in one pass."""

    clock: Clock
    last_evaluation: int
    """From 0."""
    in_words: str

    @classmethod
    def of(cls, scheduler: str, num_inference_steps: int, *, after: "_Pass | None" = None) -> "_Pass":
        """Return the first pass, or the one after it."""
        steps, spec = prompt_steps(scheduler, num_inference_steps), SCHEDULERS[scheduler]
        clock = Clock(steps) if after is None else Clock(after.clock.steps, steps)
        in_words = f"{num_inference_steps} {'steps' if after is None else 'hires steps'}"
        if spec.is_second_order:
            in_words += f", which {spec.label} counts double"
        return cls(clock, (spec.evaluations(num_inference_steps) or steps) - 1, in_words)


def lint(
    prompt: str,
    *,
    num_inference_steps: int,
    scheduler: str = "euler",
    hires_steps: int | None = None,
    hires_scheduler: str | None = None,
    rules: ChunkRules | None = None,
    pools_first_chunk: bool = False,
    networks: frozenset[str] = KNOWN_NETWORKS,
    supports_weights: bool = True,
    comments: bool = True,
    composable: bool = True,
) -> tuple[Note, ...]:
    """Return the notes on a prompt in a fixed order, each once. A prompt of plain words has none.

    Args:
        prompt: as the user typed it.
        num_inference_steps: of the first pass.
        scheduler: of the first pass.
        hires_steps: of the second pass, when there is one.
        hires_scheduler: of the second pass, when it is another.
        rules: of the text encoder; None leaves out what needs a tokenizer.
        pools_first_chunk: see `Family.pools_first_chunk`.
        networks: the kinds of tags that the model takes.
        supports_weights: whether the text encoder takes weights and chunks; T5 and language models do not.
        comments: see `parse`.
        composable: see `parse`.
    """
    parsed = parse(prompt, comments=comments, composable=composable)
    notes: list[Note] = []
    if comments and without_comments(prompt) != prompt:
        notes.append(Note(NoteKind.COMMENT, 'From "#" to the end of its line is a comment and left out.', False))
    notes += _on_networks(parsed, networks)
    if len(parsed.branches) == 1 and parsed.branches[0].weight != 1:
        number = f"{parsed.branches[0].weight:g}"
        notes.append(Note(NoteKind.WEIGHT, f'The ":{number}" at the end is the weight of the whole prompt, not text.'))
    passes = [_Pass.of(scheduler, num_inference_steps)]
    if hires_steps is not None:
        passes.append(_Pass.of(hires_scheduler or scheduler, hires_steps, after=passes[0]))
    for branch in parsed.branches:
        notes += _on_brackets(branch.text)
        for closer in switches(branch.text):
            notes += _on_switch(closer, passes)
        texts = dict.fromkeys(
            step.text
            for each in passes
            for step in schedule(
                branch.text, num_inference_steps=each.clock.num_inference_steps, hires_steps=each.clock.hires_steps
            )
        )
        runs = [weigh(text) for text in texts]
        notes += _on_weights(runs, supports_weights)
        if rules is not None and supports_weights:
            notes += _on_length(runs, rules, pools_first_chunk)
    return tuple(dict.fromkeys(notes))


def _on_networks(prompt: Prompt, networks: frozenset[str]) -> Iterator[Note]:
    for network in prompt.extra_networks:
        if network.kind not in networks:
            known = ", ".join(f"<{kind}:…>" for kind in sorted(networks)) or "none"
            message = f"<{network.kind}:{network.name}> is ignored: this model takes {known}."
            yield Note(NoteKind.EXTRA_NETWORK, message)
        elif not network.name:
            yield Note(NoteKind.EXTRA_NETWORK, f"<{network.kind}:> names no file.")
        elif network.unreadable:
            given = ", ".join(f'"{text}"' for text in network.unreadable)
            message = f"<{network.kind}:{network.name}>: {given} is no number, so the default weight is used."
            yield Note(NoteKind.EXTRA_NETWORK, message)
    for branch in prompt.branches:
        for like_a_tag in _LIKE_A_TAG.finditer(branch.text):
            yield Note(NoteKind.EXTRA_NETWORK, f'"{_excerpt(like_a_tag[0])}" is read as text: it is no complete tag.')


def _on_brackets(text: str) -> Iterator[Note]:
    row = list(tokens(text))
    partners = partners_of(row)
    closers = set(partners.values())
    for index, token in enumerate(row):
        if token.type.startswith("OPEN") and partners[index] is None:
            excerpt = _excerpt("".join(row[index:]))
            yield Note(NoteKind.BRACKETS, f'"{excerpt}": this "{token}" is never closed, so it lasts until the end.')
        elif token.type.startswith("CLOSE") and index not in closers:
            excerpt = _excerpt("".join(row[: index + 1])[::-1])[::-1]
            yield Note(NoteKind.BRACKETS, f'"{excerpt}": this "{token[-1]}" closes nothing and is read as text.')


def _on_switch(token: Token, passes: Sequence[_Pass]) -> Iterator[Note]:
    when = number_in(token)
    if passes[0].clock.last_step_before(when) == 0:
        yield Note(NoteKind.SCHEDULE, f'"{token}" switches before the first step, so only its last text is used.')
    elif all(each.clock.last_step_before(when) >= each.last_evaluation for each in passes):
        steps = " and ".join(each.in_words for each in passes)
        yield Note(NoteKind.SCHEDULE, f'"{token}" never switches within {steps}.')


def _on_weights(texts: Sequence[Sequence[Weighted | Mark]], supports_weights: bool) -> Iterator[Note]:
    runs = [run for text in texts for run in text]
    weighted = [run for run in runs if isinstance(run, Weighted) and run.weight != 1]
    if not supports_weights:
        if weighted:
            message = f'This model takes no weights: those of "{_excerpt(weighted[0].text)}" are ignored.'
            yield Note(NoteKind.WEIGHT, message)
        if BREAK in runs:
            yield Note(NoteKind.WEIGHT, "This model reads a prompt in one piece: BREAK is ignored.")
        return
    for run in weighted:
        if run.text == BREAK.value and run.weight < 0:
            yield Note(NoteKind.WEIGHT, f"BREAK in brackets is a word of the weight {run.weight:.4g}; put it outside.")
        if not abs(run.weight) <= EXTREME_WEIGHT:
            message = f'"{_excerpt(run.text)}" has the weight {run.weight:.4g}; beyond {EXTREME_WEIGHT:g} pictures '
            yield Note(NoteKind.WEIGHT, message + "usually fall apart.")


def _on_length(
    texts: Sequence[Sequence[Weighted | Mark]], rules: ChunkRules, pools_first_chunk: bool
) -> Iterator[Note]:
    for text in texts:
        count = count_tokens(text, rules=rules)
        if count.chunks > 1 + sum(run is BREAK for run in text):
            message = f"{count.used} of {count.capacity} tokens: the text is encoded in {count.chunks} chunks"
            if pools_first_chunk:
                message += f", and only the first {rules.chunk_length} tokens say what the picture is as a whole"
            yield Note(NoteKind.LENGTH, f"{message}.", pools_first_chunk)


def _excerpt(text: str) -> str:
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}…"
