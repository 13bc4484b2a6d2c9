"""Proof that nothing has changed the base model: torch's count of writes to each weight, and a sample of them."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.runtime.adapters.layers import is_made_of_others

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
        # what each layer holds by name, once and for all: to walk through the modules takes longer than to read
        self._held = tuple(tuple(_holders(module)) for module in modules)
        self._samples = self._read()

    def writes(self) -> Writes:
        """Return what differs after any write in place, and after any exchange of a weight for another."""
        return tuple(
            (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
            for holders in self._held
            for weight in _weights(holders)
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
        for holders in self._held:
            weights = _weights(holders)
            shapes, strides = zip(*map(_spread, map(Tensor.numel, weights)), strict=True)
            samples: dict[torch.dtype, list[Tensor]] = {}
            for sample in map(torch.as_strided, weights, shapes, strides):
                samples.setdefault(sample.dtype, []).append(sample)
            read += (torch.cat(each).cpu().view(torch.uint8) for each in samples.values())
        return torch.cat(read)


@cache
def _spread(size: int) -> tuple[tuple[int], tuple[int]]:
    """Return shape and stride of the samples of a tensor of some size."""
    taken = min(size, SAMPLES)
    return (taken,), (size // max(taken, 1),)


def _weights(holders: Iterable[Mapping[str, Tensor | None]]) -> list[Tensor]:
    return [plain for held in holders for weight in held.values() if weight is not None for plain in _plain(weight)]


def _plain(weight: Any) -> Iterable[Tensor]:
    """Return the tensors that a weight is made of: a quantized one of torchao is integers and their scales."""
    if not is_made_of_others(weight):
        return (weight,)
    names, _ = weight.__tensor_flatten__()
    return [plain for name in names for plain in _plain(getattr(weight, name))]


def _holders(module: nn.Module) -> Iterator[Mapping[str, Tensor | None]]:
    """Return the dictionaries in which layers hold their weights: what a name in them stands for may be exchanged."""
    for layer in module.modules():
        yield from (held for held in (layer._parameters, layer._buffers) if held)
