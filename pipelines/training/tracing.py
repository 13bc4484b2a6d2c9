"""What models take: bytes at the peak and floating-point operations. On tensors without content nothing is computed."""

import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import flop_registry

_ATEN = torch.ops.aten
_FORMULAS: Mapping[Any, Any] = MappingProxyType(
    {
        **flop_registry,
        _ATEN._scaled_dot_product_flash_attention_for_cpu: flop_registry[_ATEN._scaled_dot_product_flash_attention],
        _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
            _ATEN._scaled_dot_product_flash_attention_backward
        ],
    }
)
"""Operation -> how many floating-point operations it is; torch leaves out attention on a processor."""


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's mode carries no types
    """Within it everything is counted, the way back too.

    Args:
        modules: whose weights are there already, and do not count.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        weights = (tensor for module in modules for tensor in (*module.parameters(), *module.buffers()))
        self._weights = [tensor.untyped_storage() for tensor in weights]
        self._known = {storage._cdata for storage in self._weights}
        self._live = 0
        self.peak_bytes = 0
        """The most that was held at once. Convolutions count with a copy of all that they touch: their kernels want
        another layout."""
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operation, and count it."""
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        operation = func.overloadpacket
        if operation in _FORMULAS:
            self.flops += _FORMULAS[operation](*args, **kwargs, out_val=output)
        made = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        for tensor in made:
            self._see(tensor.untyped_storage())
        copied = (*args[:2], *made) if operation is _ATEN.convolution else ()
        self.peak_bytes = max(self.peak_bytes, self._live + sum(tensor.nbytes for tensor in copied))
        return output

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, num_bytes = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self._live += num_bytes
            weakref.finalize(storage, self._forget, key, num_bytes).atexit = False

    def _forget(self, key: int, num_bytes: int) -> None:
        self._known.discard(key)
        self._live -= num_bytes


class FusedAttention(TorchFunctionMode):
    """Attention without the matrix of all pairs, as every device computes it; without content torch takes another."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one function, or its twin."""
        if func is functional.scaled_dot_product_attention:
            return _ATEN._scaled_dot_product_flash_attention_for_cpu(*args, **(kwargs or {}))[0]
        return func(*args, **(kwargs or {}))


def checkpoint_fused(module: nn.Module, *args: Any) -> Any:
    """Checkpoint a part of a model so that FusedAttention holds when it is computed again, too."""
    return checkpoint(module.__call__, *args, use_reentrant=False, context_fn=_again)


def _again() -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
    return nullcontext(), FusedAttention()
