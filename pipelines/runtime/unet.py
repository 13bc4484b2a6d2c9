"""diffusers' U-Net, whose rows do not depend on how many there are, and which asks a prompt once what all steps ask."""

import inspect
from functools import partial
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch.utils.weak import WeakIdKeyDictionary

REMEMBERED_BYTES = 2**20
"""What a layer's answers may hold: 140 MiB in all of Stable Diffusion XL, which a picture or two with prompts of usual
length stay below. The larger a batch, the smaller the share of its time that is spent here."""


class RowwiseUNet(UNet2DConditionModel):
    """A U-Net whose time is embedded once for all rows instead of once per row.

    The rows of a batch share their timestep. As a matrix of 2, 4 or 8 equal rows its embedding goes through other
    kernels, whose last bit differs, and a picture would depend on its neighbours; as one row it does not. On the
    processor nothing else in a U-Net of Stable Diffusion 1.x mixes or blocks by rows (see `runtime.batching`).
    """

    def get_time_embed(self, sample: torch.Tensor, timestep: Any) -> torch.Tensor | None:
        """Return (1, channels) for one timestep, which every layer broadcasts; one row each for a timestep per row."""
        is_shared = not isinstance(timestep, torch.Tensor) or timestep.ndim == 0
        embedded: torch.Tensor | None = super().get_time_embed(sample[:1] if is_shared else sample, timestep)
        return embedded


class AnnouncedAttention(AttnProcessor2_0):
    """diffusers' attention, which has its signature at hand.

    Each layer asks for the signature of its processor's `__call__` at every call. Working it out takes 20 microseconds,
    280 times in a picture of 20 steps of the pocket model: one hundredth of its time. What asks is given a twin that
    knows; what calls the processor calls diffusers' own method, unchanged.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        twin: Any = partial(super().__call__)
        twin.__signature__ = inspect.signature(super().__call__)
        self.__call__ = twin  # type: ignore[method-assign]


class RememberingLinear(torch.nn.Linear):
    """A linear layer that gives its latest answers again to the same tensors, as long as somebody keeps those.

    What a U-Net's cross-attention makes of a prompt (keys and values) is the same at every step. Neither the tensor nor
    the layer's weight may change in between. Hooks, such as LoRAs whose weight changes with the steps, are called every
    time behind it and must not change what they are given.
    """

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self._answers: Any = WeakIdKeyDictionary()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return (…, out_features) for (…, in_features)."""
        if torch.is_grad_enabled():
            return super().forward(input)
        known: torch.Tensor | None = self._answers.get(input)
        if known is not None:
            return known
        answer = super().forward(input)
        if answer.nbytes + sum(each.nbytes for each in self._answers.values()) > REMEMBERED_BYTES:
            self._answers.clear()
        if answer.nbytes <= REMEMBERED_BYTES:
            self._answers[input] = answer
        return answer


def remember_prompts(unet: UNet2DConditionModel) -> None:
    """Let the layers that see prompts alone remember them; those of few bits work otherwise, and stay as they are."""
    for path, attention in list(unet.named_modules()):
        if path.endswith(".attn2"):
            for name in ("to_k", "to_v"):
                layer = getattr(attention, name)
                if type(layer) is torch.nn.Linear:
                    setattr(attention, name, RememberingLinear(layer))
