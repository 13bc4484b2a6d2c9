"""Deltas in another precision or on another device: the same change, made of other tensors."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from pipelines.runtime.adapters.deltas import Delta

Holder = TypeVar("Holder")


def settled(delta: Delta, device: torch.device, dtype: torch.dtype) -> Delta:
    """Return a delta whose tensors are where a layer computes, in the precision it computes in."""
    return with_tensors(delta, lambda tensor: tensor.to(device, dtype).contiguous())


def moved(delta: Delta, device: torch.device) -> Delta:
    """Return a settled delta that is on the device: itself, if it is there."""
    if delta.tensors()[0].device == device:
        return delta
    return with_tensors(delta, lambda tensor: tensor.to(device))


def with_tensors(holder: Holder, change: Callable[[Tensor], Tensor]) -> Holder:
    """Return the same with each of its tensors changed."""
    own: Holder = _changed(holder, change)
    return own


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    match value:
        case Tensor():
            return change(value)
        case tuple():
            return tuple(_changed(each, change) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: _changed(getattr(value, each.name), change) for each in fields(value)})
    return value
