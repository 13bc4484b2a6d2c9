"""From a prompt to what the denoiser is conditioned on: the plain 77-token CLIP encoding of stock diffusers."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from pipelines.runtime.loading import Components

CACHED_PROMPTS = 32
"""Per loaded model. One prompt is 0.2 MB for Stable Diffusion 1.x and 0.6 MB for XL, in float32."""


@dataclass(frozen=True)
class Conditioning:
    """One encoded text."""

    prompt_embeds: torch.Tensor
    """(1, 77, width), in the dtype and on the device of the U-Net."""
    pooled_prompt_embeds: torch.Tensor | None
    """(1, width) for SDXL, else None."""


class PromptEncoder:
    """Encodes prompts, and remembers the latest: further pictures of the same prompt make no encoder call."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Components, OrderedDict[tuple[str, bool], Conditioning]] = WeakKeyDictionary()

    def encode(self, text: str, *, components: Components, negative: bool = False) -> Conditioning:
        """Return the conditioning of a text; `negative` matters where an empty negative prompt means zeros."""
        known = self._known.setdefault(components, OrderedDict())
        as_zeros = negative and not text and components.zero_empty_negative
        if (text, as_zeros) not in known:
            known[text, as_zeros] = _encode(text, components, as_zeros=as_zeros)
            if len(known) > CACHED_PROMPTS:
                known.popitem(last=False)
        known.move_to_end((text, as_zeros))
        return known[text, as_zeros]


@torch.inference_mode()
def _encode(text: str, components: Components, *, as_zeros: bool) -> Conditioning:
    encoded = _encode_xl(text, components) if len(components.text_encoders) == 2 else _encode_sd1(text, components)
    tensors = [None if each is None else each.to(components.device, components.precision.dtype) for each in encoded]
    embeds, pooled = [None if each is None else torch.zeros_like(each) for each in tensors] if as_zeros else tensors
    assert embeds is not None
    return Conditioning(embeds, pooled)


def _encode_sd1(text: str, components: Components) -> tuple[torch.Tensor, None]:
    """Return the last hidden state after the final layer norm."""
    encoder = components.text_encoders[0]
    return encoder(_token_ids(text, components.tokenizers[0]).to(encoder.device))[0], None


def _encode_xl(text: str, components: Components) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both encoders' last hidden state but one, side by side, and the second encoder's pooled projection."""
    outputs = [
        encoder(_token_ids(text, tokenizer).to(encoder.device), output_hidden_states=True)
        for tokenizer, encoder in zip(components.tokenizers, components.text_encoders, strict=True)
    ]
    return torch.cat([output.hidden_states[-2] for output in outputs], dim=-1), outputs[-1][0]


def _token_ids(text: str, tokenizer: Any) -> torch.Tensor:
    """Return (1, 77) token ids; what is beyond 75 tokens is cut."""
    ids: torch.Tensor = tokenizer(
        text, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids
    return ids
