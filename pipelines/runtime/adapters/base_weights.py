"""Proof that nothing has changed the base model: a sample of every weight, read before and after."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

SAMPLES = 4
"""Of each tensor, spread over it: whoever merges a LoRA into a weight changes all of it."""


class BaseWeights:
    """What the weights of some modules were when this was made.

    Args:
        modules: of the base model.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = tuple(modules)
        self._samples = self._read()

    def are_unchanged(self) -> bool:
        """Whether every sample has the bits it had."""
        return torch.equal(self._read(), self._samples)

    @torch.inference_mode()
    def _read(self) -> Tensor:
        """Return the samples of all weights as bytes, on the processor."""
        samples: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for module in self._modules:
            for weight in (*module.parameters(), *module.buffers()):
                spread = weight.flatten()[:: max(1, weight.numel() // SAMPLES)]
                samples.setdefault((weight.device, weight.dtype), []).append(spread)
        stacked = [torch.cat(each).cpu().contiguous().view(torch.uint8) for each in samples.values()]
        return torch.cat(stacked)
