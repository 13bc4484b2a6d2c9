"""Captions: how they vary from sight to sight, and what the text encoders make of them."""

from collections import OrderedDict
from collections.abc import Sequence
from random import Random
from typing import Any

import torch
from torch import Tensor

from pipelines.runtime.conditioning import Conditioning, read_layer
from pipelines.runtime.loading import Components
from pipelines.spec.training import TrainingRequest

CACHED_CAPTIONS = 4096
"""Of a frozen text encoder; one is 0.2 MB for Stable Diffusion 1.x and 0.6 MB for XL, in float32."""


def vary(caption: str, request: TrainingRequest, random: Random) -> str | None:
    """Return the caption for one sight of a picture; None where it is dropped."""
    dropped = random.random() < request.caption_dropout
    parts = [part.strip() for part in caption.split(",")]
    if request.shuffle_captions:
        rest = parts[request.keep_tokens :]
        random.shuffle(rest)
        caption = ", ".join([*parts[: request.keep_tokens], *rest])
    return None if dropped else request.triggered(caption)


class CaptionEncoder:
    """Encodes captions as they stand: no weights, no scheduling, and nothing behind the encoder's 75 tokens.

    Args:
        components: the loaded model.
        clip_skip: which layer is read, counted from the end.
        is_trained: whether gradients flow, and nothing may be kept.
    """

    def __init__(self, components: Components, *, clip_skip: int, is_trained: bool) -> None:
        self._components, self._clip_skip, self._is_trained = components, clip_skip, is_trained
        self._known: OrderedDict[str | None, Conditioning] = OrderedDict()

    def encode(self, captions: Sequence[str | None]) -> tuple[Tensor, Tensor | None]:
        """Return (batch, 77, width) embeddings and, for SDXL, (batch, width) pooled ones, on the model's device.

        Args:
            captions: None is what stands for no caption at all: zeros where the model was made so, else the empty text.
        """
        if self._is_trained:
            encoded = [self._encode(caption) for caption in captions]
        else:
            encoded = [self._remembered(caption) for caption in captions]
        device = self._components.device
        pooled = [each.pooled_prompt_embeds.to(device) for each in encoded if each.pooled_prompt_embeds is not None]
        embeds = torch.cat([each.prompt_embeds.to(device) for each in encoded])
        return embeds, torch.cat(pooled) if pooled else None

    def _remembered(self, caption: str | None) -> Conditioning:
        if caption not in self._known:
            with torch.no_grad():
                made = self._encode(caption)
            pooled = made.pooled_prompt_embeds
            self._known[caption] = Conditioning(made.prompt_embeds.cpu(), None if pooled is None else pooled.cpu())
            while len(self._known) > CACHED_CAPTIONS:
                self._known.popitem(last=False)
        self._known.move_to_end(caption)
        return self._known[caption]

    def _encode(self, caption: str | None) -> Conditioning:
        encoders, tokenizers = self._components.text_encoders, self._components.tokenizers
        outputs = [
            self._read(tokenizer, encoder, caption or "")
            for tokenizer, encoder in zip(tokenizers, encoders, strict=True)
        ]
        embeds = torch.cat([hidden for hidden, _ in outputs], dim=-1)
        pooled = outputs[-1][1] if len(outputs) > 1 else None
        if caption is None and self._components.zero_empty_negative:
            embeds, pooled = torch.zeros_like(embeds), None if pooled is None else torch.zeros_like(pooled)
        return Conditioning(embeds, pooled)

    def _read(self, tokenizer: Any, encoder: Any, caption: str) -> tuple[Tensor, Tensor]:
        token_ids = tokenizer(
            caption, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
        ).input_ids
        return read_layer(encoder, token_ids, self._clip_skip, is_normed=len(self._components.text_encoders) == 1)
