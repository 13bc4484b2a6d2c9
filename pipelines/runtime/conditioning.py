"""From a prompt to what the denoiser is conditioned on: branches of scheduled texts, encoded chunk by chunk."""

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any
from weakref import WeakKeyDictionary

import torch

from pipelines.runtime.embeddings import BundledEmbedding, Vectors, inserted, load_vectors
from pipelines.runtime.guards import Stage, check_finite
from pipelines.runtime.loading import Components
from pipelines.spec.embeddings import EmbeddingFile
from pipelines.spec.errors import NotANumber
from pipelines.spec.prompt import Chunk, ChunkRules, chunk, parse, schedule, weigh
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.schedulers import prompt_steps
from pipelines.spec.values import Emphasis

Embeddings = Mapping[str, EmbeddingFile | BundledEmbedding]
"""By name: files, and what came with LoRAs."""

CACHED_BYTES = 2**27
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

    def padded(self, length: int) -> "Conditioning":
        """Return it with its last vector repeated until it has that many."""
        missing = length - self.prompt_embeds.shape[1]
        if not missing:
            return self
        filling = self.prompt_embeds[:, -1:].expand(-1, missing, -1)
        return replace(self, prompt_embeds=torch.cat([self.prompt_embeds, filling], dim=1))

    @property
    def num_bytes(self) -> int:
        """The memory that it takes."""
        return sum(each.nbytes for each in (self.prompt_embeds, self.pooled_prompt_embeds) if each is not None)


@dataclass(frozen=True)
class Branch:
    """One part of a prompt joined by AND."""

    weight: float
    scheduled: tuple[tuple[int, Conditioning], ...]
    """The last step that each text is for, ascending."""

    @property
    def length(self) -> int:
        """How many vectors each text has."""
        return self.scheduled[0][1].prompt_embeds.shape[1]

    def padded(self, length: int) -> "Branch":
        """Return the branch for the company of a longer one: A1111 repeats each text's last vector."""
        if length == self.length:
            return self
        return Branch(self.weight, tuple((until, each.padded(length)) for until, each in self.scheduled))

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
        self._known: WeakKeyDictionary[Components, OrderedDict[_Key, tuple[Conditioning, ...]]] = WeakKeyDictionary()

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
        branches = [
            Branch(branch.weight, self._schedule(branch.text, request, components, reading))
            for branch in prompt.branches
        ]
        length = max(branch.length for branch in branches)
        return EncodedPrompt(tuple(branch.padded(length) for branch in branches))

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
        steps = prompt_steps(request.scheduler, request.num_inference_steps)
        clock = (steps, None) if reading.first_steps is None else (reading.first_steps, steps)
        parts = schedule(text, num_inference_steps=clock[0], hires_steps=clock[1])
        texts = tuple((part.text, part.times) for part in parts)
        as_zeros = is_negative and not text and components.zero_empty_negative
        device = str(components.text_encoders[0].device)
        key = _Key(texts, named, request.emphasis, request.clip_skip, as_zeros, device, reading.loras)
        encoded = known.pop(key, None) or _encode(key, components, reading.embeddings)
        known[key] = encoded
        while sum(each.num_bytes for texts in known.values() for each in texts) > CACHED_BYTES:
            known.popitem(last=False)
        return tuple((part.until_step, each) for part, each in zip(parts, encoded, strict=True))


@dataclass(frozen=True)
class _Key:
    """All that an encoding depends on beside the model."""

    texts: tuple[tuple[str, int], ...]
    """Those of one schedule, and how often A1111 encodes each."""
    embeddings: tuple[tuple[str, str], ...]
    """Name and SHA-256 of those that the request names."""
    emphasis: Emphasis
    clip_skip: int
    as_zeros: bool
    device: str
    """Where the encoders are: in reduced-memory mode they rest on the processor, which rounds differently."""
    loras: Worn


@torch.inference_mode()
def _encode(key: _Key, components: Components, embeddings: Embeddings) -> tuple[Conditioning, ...]:
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
    by_text = zip(*parts, strict=True)
    return tuple(_joined(each, text, key, components) for each, (text, _) in zip(by_text, key.texts, strict=True))


def _joined(
    parts: Sequence[tuple[torch.Tensor, torch.Tensor]], text: str, key: _Key, components: Components
) -> Conditioning:
    """Return what the encoders make of one text, as the U-Net is told."""
    embeds = torch.cat([embeds for embeds, _ in parts], dim=-1).to(components.device, components.precision.dtype)
    pooled = parts[-1][1] if len(parts) > 1 else None
    if pooled is not None:
        pooled = check_finite(pooled, Stage.TEXT_ENCODERS).to(components.device, components.precision.dtype)
    if not bool(torch.isfinite(embeds).all()):  # what the encoders say is finite, so the weights are to blame
        raise NotANumber(
            f"the weights in {text[:60]!r} are too large for {components.precision.dtype}: the encoded prompt "
            "overflows; take weights nearer to 1"
        )
    if key.as_zeros:
        embeds, pooled = torch.zeros_like(embeds), None if pooled is None else torch.zeros_like(pooled)
    return Conditioning(embeds, pooled)


def _encode_with(
    tokenizer: Any, encoder: Any, key: _Key, *, vectors: Vectors, is_normed: bool
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return for each text (1, 77 · chunks, width) of one encoder, and what it says of the first chunk as a whole.

    Float32 whatever it runs in: in half precision, weights and the mean would be off by up to 1/256. As in A1111, the
    texts of a schedule are one batch: the shorter ones are filled up with empty chunks, and emphasis restores one mean
    over all. They are encoded one by one, so that no text's bits depend on its company.

    Args:
        tokenizer: of the encoder.
        encoder: a CLIP text model.
        key: texts, emphasis, layer.
        vectors: of the embeddings for this encoder.
        is_normed: whether the final layer norm follows, as in Stable Diffusion 1.x.
    """
    rules = ChunkRules(
        tokenize=lambda text: tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids,
        comma_tokens=frozenset(tokenizer(",", add_special_tokens=False).input_ids),
        embeddings={name: len(each) for name, each in vectors.items()},
    )

    def read(part: Chunk) -> tuple[torch.Tensor, torch.Tensor]:
        with inserted(encoder, vectors, part.placements):
            hidden, whole = read_layer(
                encoder, _token_ids(part.token_ids, tokenizer), key.clip_skip, is_normed=is_normed
            )
        return check_finite(hidden, Stage.TEXT_ENCODERS).float(), whole

    chunks = [chunk(weigh(text), rules=rules) for text, _ in key.texts]
    times = [times for _, times in key.texts]
    encoded: list[list[torch.Tensor]] = []
    pooled: list[torch.Tensor] = []
    for alike in zip_longest(*chunks, fillvalue=_EMPTY):
        hidden, whole = zip(*map(read, alike), strict=True)
        weights = [_weights(part, like=each) for part, each in zip(alike, hidden, strict=True)]
        if all((each == 1).all() for each in weights):
            encoded.append(list(hidden))
        elif key.emphasis == "comfy":
            neutral, _ = read(_EMPTY)
            encoded.append([neutral + (each - neutral) * by for each, by in zip(hidden, weights, strict=True)])
        else:
            weighted = [each * by for each, by in zip(hidden, weights, strict=True)]
            scale = _mean(hidden, times) / _mean(weighted, times) if key.emphasis == "a1111" else 1.0
            encoded.append([each * scale for each in weighted])
        pooled = pooled or list(whole)
    return [(torch.cat(parts, dim=1), whole) for parts, whole in zip(zip(*encoded, strict=True), pooled, strict=True)]


_EMPTY = Chunk((), ())


def _weights(part: Chunk, *, like: torch.Tensor) -> torch.Tensor:
    """Return (77, 1): those of the tokens, and 1 for what surrounds them."""
    weights = torch.ones(like.shape[1], device=like.device, dtype=like.dtype)
    weights[1 : 1 + len(part.weights)] = torch.tensor(part.weights, device=like.device, dtype=like.dtype)
    return weights[:, None]


def _mean(texts: Sequence[torch.Tensor], times: Sequence[int]) -> torch.Tensor:
    """Return the mean over a batch in which each text stands so often."""
    return torch.cat([text for text, number in zip(texts, times, strict=True) for _ in range(number)]).mean()


def read_layer(
    encoder: Any, token_ids: torch.Tensor, clip_skip: int, *, is_normed: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (1, 77, width) of the layer `clip_skip` from the end, and the encoder's first output.

    Args:
        encoder: a CLIP text model.
        token_ids: (1, 77).
        clip_skip: 1 is the last layer, or the last but one of SDXL.
        is_normed: whether the final layer norm follows, as in Stable Diffusion 1.x.
    """
    output = encoder(token_ids.to(encoder.device), output_hidden_states=True)
    if is_normed:
        return encoder.final_layer_norm(output.hidden_states[-clip_skip]), output[0]
    return output.hidden_states[-max(clip_skip, _LEAST_SKIP_OF_SDXL)], output[0]


_LEAST_SKIP_OF_SDXL = 2
"""It was trained on the last layer but one (arXiv:2307.01952, section 2.1), which clip skip 1 means in A1111 too."""


def _token_ids(token_ids: Sequence[int], tokenizer: Any) -> torch.Tensor:
    """Return (1, 77): the tokens between start and end, padded as the encoder was trained."""
    room = tokenizer.model_max_length - 2 - len(token_ids)
    return torch.tensor(
        [[tokenizer.bos_token_id, *token_ids, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * room]]
    )
