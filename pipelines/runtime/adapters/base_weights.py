"""Proof that nothing has changed the base model: torch's count of writes to each weight, and a sample of them."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

SAMPLES = 4
"""Of each tensor, spread over it: whoever merges a LoRA into a weight changes all of it."""

Writes = tuple[tuple[int, int], ...]
"""Where each weight lies, and how often it was written to in place."""


class BaseWeights:
    """What the weights of some modules were when this was made.

    Args:
        modules: of the base model.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = tuple(modules)
        self._samples = self._read()

    def writes(self) -> Writes:
        """Return what differs after any write in place, and after any exchange of a weight for another."""
        return tuple((weight.data_ptr(), _version(weight)) for module in self._modules for weight in _weights(module))

    def are_unchanged(self, *, since: Writes) -> bool:
        """Whether nothing was written since `writes` was called, and every sample has the bits it had at first.

        The first sees any single number that torch is asked to write, the second also what is written past torch.
        """
        return self.writes() == since and torch.equal(self._read(), self._samples)

    @torch.inference_mode()
    def _read(self) -> Tensor:
        """Return the samples of all weights as bytes, on the processor, in one order wherever the modules are."""
        samples: dict[tuple[int, torch.dtype], list[Tensor]] = {}
        for number, module in enumerate(self._modules):
            for weight in _weights(module):
                spread = weight.flatten()[:: max(1, weight.numel() // SAMPLES)]
                samples.setdefault((number, weight.dtype), []).append(spread)
        return torch.cat([torch.cat(each).cpu().contiguous().view(torch.uint8) for each in samples.values()])


def _weights(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _version(weight: Tensor) -> int:
    return 0 if weight.is_inference() else weight._version
