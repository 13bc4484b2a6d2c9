"""A delta of one layer in a file, taken apart for the layers that a model has instead: each gets its rows of it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipelines.runtime.adapters.deltas import Bias, Decomposed, Delta, Dense, DenseDelta, LowRank, Scaled

Rows = tuple[slice, ...]
"""Which rows of what a file has belong to a layer, and in which order: one slice after the other."""


def pick(tensor: Tensor, rows: Rows) -> Tensor:
    """Return the rows of a tensor."""
    return tensor[rows[0]] if len(rows) == 1 else torch.cat([tensor[each] for each in rows])


@dataclass(frozen=True)
class RowsOf:
    """Some rows of a full ΔW."""

    dense: Dense
    rows: Rows

    def weight(self) -> Tensor:
        return pick(self.dense.weight(), self.rows)

    def tensors(self) -> tuple[Tensor, ...]:
        return self.dense.tensors()


def rows_of(delta: Delta, rows: Rows) -> Delta:
    """Return what a delta adds to some of the outputs of its layer, for a layer that has only these."""
    match delta:
        case LowRank():
            return replace(delta, up=pick(delta.up, rows))
        case DenseDelta():
            return DenseDelta(RowsOf(delta.dense, rows))
        case Bias():
            return Bias(pick(delta.diff, rows))
        case Scaled() if delta.is_on_outputs:
            return replace(delta, scale=pick(delta.scale, rows))
        case Decomposed():
            excess = pick(delta.excess, rows) if delta.is_on_outputs else delta.excess
            return replace(delta, inner=rows_of(delta.inner, rows), excess=excess)
        case Scaled():
            return delta
    raise TypeError(f"{type(delta).__name__} has no rows")
