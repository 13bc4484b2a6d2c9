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
        # those that own weights: to walk through all others each time would take longer than to read
        self._owners = tuple(tuple(each for each in module.modules() if _has_weights(each)) for module in modules)
        self._samples = self._read()

    def writes(self) -> Writes:
        """Return what differs after any write in place, and after any exchange of a weight for another."""
        return tuple(
            (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
            for owners in self._owners
            for weight in _weights(owners)
        )

    def are_unchanged(self, *, since: Writes) -> bool:
        """Whether nothing was written since `writes` was called, and every sample has the bits it had at first.

        The first sees any single number that torch is asked to write, the second also what is written past its count:
        PEFT merges so.
        """
        return self.writes() == since and torch.equal(self._read(), self._samples)

    @torch.inference_mode()
    def _read(self) -> Tensor:
        """Return the samples of all weights as bytes, on the processor, in one order wherever the modules are."""
        read: list[Tensor] = []
        for owners in self._owners:
            samples: dict[torch.dtype, list[Tensor]] = {}
            for weight in _weights(owners):
                size = weight.numel()
                taken = min(size, SAMPLES)
                spread = weight.as_strided((taken,), (size // max(taken, 1),))
                samples.setdefault(weight.dtype, []).append(spread)
            read += (torch.cat(each).cpu().view(torch.uint8) for each in samples.values())
        return torch.cat(read)


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None or bool(tuple(module.buffers(recurse=False)))


def _weights(owners: Iterable[nn.Module]) -> Iterator[Tensor]:
    """Return the weights as they are: modules hold them by name, and what a name stands for may be exchanged."""
    for owner in owners:
        for held in (owner._parameters, owner._buffers):
            yield from (weight for weight in held.values() if weight is not None)
