"""From a prompt to what the denoiser is conditioned on: branches of scheduled texts, encoded chunk by chunk."""

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch

from pipelines.runtime.embeddings import BundledEmbedding, Vectors, inserted, load_vectors
from pipelines.runtime.guards import NotFinite, Stage
from pipelines.runtime.loading import Components
from pipelines.spec.embeddings import EmbeddingFile
from pipelines.spec.errors import NotANumber
from pipelines.spec.prompt import ChunkRules, chunk, parse, schedule, weigh
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.schedulers import prompt_steps
from pipelines.spec.values import Emphasis

Embeddings = Mapping[str, EmbeddingFile | BundledEmbedding]
"""By name: files, and what came with LoRAs."""

CACHED_TEXTS = 64
"""Per loaded model. One chunk is 0.2 MB for Stable Diffusion 1.x and 0.6 MB for XL, in float32."""


Worn = tuple[tuple[Hashable, float], ...]
"""The LoRAs on the text encoders: what each was made of, and its weight."""


@dataclass(frozen=True)
class Reading:
    """What prompts are read with beside the model."""

    embeddings: Embeddings = field(default_factory=dict)
    """Where the embeddings are that a request names."""
    loras: Worn = ()
    first_steps: int | None = None
    """For a second pass, the steps of the first as prompts count them, from which they count on."""


PLAIN = Reading()


@dataclass(frozen=True, eq=False)
class Conditioning:
    """One encoded text."""

    prompt_embeds: torch.Tensor
    """(1, 77 · chunks, width), in the dtype and on the device of the U-Net."""
    pooled_prompt_embeds: torch.Tensor | None
    """(1, width) for SDXL, else None."""


@dataclass(frozen=True)
class Branch:
    """One part of a prompt joined by AND."""

    weight: float
    scheduled: tuple[tuple[int, Conditioning], ...]
    """The last step that each text is for, ascending."""

    def at(self, evaluation: int) -> Conditioning:
        """Return what holds when the denoiser has run so often; beyond the last step the first text, as in A1111."""
        return next((each for until, each in self.scheduled if evaluation <= until), self.scheduled[0][1])


@dataclass(frozen=True)
class EncodedPrompt:
    """A whole prompt."""

    branches: tuple[Branch, ...]


class PromptEncoder:
    """Encodes prompts, and remembers the latest: further pictures of the same prompt make no encoder call.

    A request that is a second pass is given with the steps of the first, which its prompts count too.
    """

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Components, OrderedDict[_Key, Conditioning]] = WeakKeyDictionary()

    def encode(self, request: ResolvedRequest, *, components: Components, reading: Reading = PLAIN) -> EncodedPrompt:
        """Return the encoded prompt of a request.

        Args:
            request: what to encode, and which embeddings it names.
            components: the loaded model; it is left as it was.
            reading: what the prompts are read with beside the model.

        Raises:
            ModelError: an embedding's file is not the one the request was resolved with, or cannot be used.
        """
        prompt = parse(request.prompt, comments=request.prompt_comments)
        return EncodedPrompt(
            tuple(
                Branch(branch.weight, self._schedule(branch.text, request, components, reading))
                for branch in prompt.branches
            )
        )

    def encode_negative(
        self, request: ResolvedRequest, *, components: Components, reading: Reading = PLAIN
    ) -> EncodedPrompt:
        """Return the encoded negative prompt of a request: one branch, in which AND is a word like any other.

        Arguments and errors are those of `encode`.
        """
        (branch,) = parse(request.negative_prompt, comments=request.prompt_comments, composable=False).branches
        scheduled = self._schedule(branch.text, request, components, reading, is_negative=True)
        return EncodedPrompt((Branch(1.0, scheduled),))

    def _schedule(
        self,
        text: str,
        request: ResolvedRequest,
        components: Components,
        reading: Reading,
        *,
        is_negative: bool = False,
    ) -> tuple[tuple[int, Conditioning], ...]:
        known = self._known.setdefault(components, OrderedDict())
        named = tuple(sorted(request.embeddings.items()))
        scheduled = []
        steps = prompt_steps(request.scheduler, request.num_inference_steps)
        clock = (steps, None) if reading.first_steps is None else (reading.first_steps, steps)
        for part in schedule(text, num_inference_steps=clock[0], hires_steps=clock[1]):
            as_zeros = is_negative and not text and components.zero_empty_negative
            device = str(components.text_encoders[0].device)
            key = _Key(part.text, named, request.emphasis, request.clip_skip, as_zeros, device, reading.loras)
            if key not in known:
                known[key] = _encode(key, components, reading.embeddings)
            known.move_to_end(key)
            scheduled.append((part.until_step, known[key]))
        while len(known) > CACHED_TEXTS:
            known.popitem(last=False)
        return tuple(scheduled)


@dataclass(frozen=True)
class _Key:
    """All that an encoding depends on beside the model."""

    text: str
    embeddings: tuple[tuple[str, str], ...]
    """Name and SHA-256 of those that the request names."""
    emphasis: Emphasis
    clip_skip: int
    as_zeros: bool
    device: str
    """Where the encoders are: in reduced-memory mode they rest on the processor, which rounds differently."""
    loras: Worn


@torch.inference_mode()
def _encode(key: _Key, components: Components, embeddings: Embeddings) -> Conditioning:
    """Run every text encoder; SDXL's two lie side by side, and the second gives the pooled projection."""
    vectors = {name: load_vectors(embeddings[name], sha256=sha256) for name, sha256 in key.embeddings}
    parts = [
        _encode_with(
            tokenizer,
            encoder,
            key,
            vectors={name: each[index] for name, each in vectors.items()},
            is_normed=len(components.text_encoders) == 1,
        )
        for index, (tokenizer, encoder) in enumerate(zip(components.tokenizers, components.text_encoders, strict=True))
    ]
    embeds = torch.cat([embeds for embeds, _ in parts], dim=-1).to(components.device, components.precision.dtype)
    pooled = parts[-1][1] if len(parts) > 1 else None
    if pooled is not None:
        pooled = pooled.to(components.device, components.precision.dtype)
    if not all(bool(torch.isfinite(each).all()) for each in (embeds, pooled) if each is not None):
        if key.loras:
            raise NotFinite(Stage.TEXT_ENCODERS)
        raise NotANumber(
            f"the weights in {key.text[:60]!r} are too large for {components.precision.dtype}: the encoded prompt "
            "overflows; take weights nearer to 1"
        )
    if key.as_zeros:
        embeds, pooled = torch.zeros_like(embeds), None if pooled is None else torch.zeros_like(pooled)
    return Conditioning(embeds, pooled)


def _encode_with(
    tokenizer: Any, encoder: Any, key: _Key, *, vectors: Vectors, is_normed: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (1, 77 · chunks, width) of one encoder, and what it says of the first chunk as a whole.

    Args:
        tokenizer: of the encoder.
        encoder: a CLIP text model.
        key: text, emphasis, layer.
        vectors: of the embeddings for this encoder.
        is_normed: whether the final layer norm follows, as in Stable Diffusion 1.x.
    """
    rules = ChunkRules(
        tokenize=lambda text: tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids,
        comma_tokens=frozenset(tokenizer(",", add_special_tokens=False).input_ids),
        embeddings={name: len(each) for name, each in vectors.items()},
    )
    chunks = chunk(weigh(key.text), rules=rules)
    encoded, pooled = [], []
    for part in chunks:
        with inserted(encoder, vectors, part.placements):
            hidden, whole = _read_layer(
                encoder, _token_ids(part.token_ids, tokenizer), key.clip_skip, is_normed=is_normed
            )
        weights = torch.ones(hidden.shape[1], device=hidden.device, dtype=hidden.dtype)
        weights[1 : 1 + len(part.weights)] = torch.tensor(part.weights, device=hidden.device, dtype=hidden.dtype)
        if (weights != 1).any():
            if key.emphasis == "comfy":
                neutral, _ = _read_layer(encoder, _token_ids((), tokenizer), key.clip_skip, is_normed=is_normed)
                hidden = neutral + (hidden - neutral) * weights[:, None]
            else:
                weighted = hidden * weights[:, None]
                hidden = weighted * (hidden.mean() / weighted.mean()) if key.emphasis == "a1111" else weighted
        encoded.append(hidden)
        pooled.append(whole)
    return torch.cat(encoded, dim=1), pooled[0]


def _read_layer(
    encoder: Any, token_ids: torch.Tensor, clip_skip: int, *, is_normed: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (1, 77, width) of the layer `clip_skip` from the end, and the encoder's first output."""
    output = encoder(token_ids.to(encoder.device), output_hidden_states=True)
    hidden = output.hidden_states[-clip_skip]
    if is_normed:
        hidden = encoder.final_layer_norm(hidden)
    return hidden, output[0]


def _token_ids(token_ids: Sequence[int], tokenizer: Any) -> torch.Tensor:
    """Return (1, 77): the tokens between start and end, padded as the encoder was trained."""
    room = tokenizer.model_max_length - 2 - len(token_ids)
    return torch.tensor(
        [[tokenizer.bos_token_id, *token_ids, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * room]]
    )
