"""A picture in overlapping tiles: which there are, and the one picture that is blended from what became of each.

Nothing here knows what happens to a tile: an upscale model sees it, or a U-Net (MultiDiffusion, arXiv:2302.08113).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch


@dataclass(frozen=True)
class Tile:
    """A part of a picture; `bottom` and `right` are the first that do not belong to it."""

    top: int
    left: int
    bottom: int
    right: int

    def cut(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return its part of (batch, channels, height, width)."""
        return tensor[:, :, self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True)
class Tiles:
    """All tiles of a picture, row by row. Each has the same sides."""

    each: tuple[Tile, ...]
    overlap: int
    """How much neighbours share at least."""

    @classmethod
    def cover(cls, height: int, width: int, *, size: int | None, overlap: int = 0) -> Self:
        """Return squares of `size` that cover height × width; the whole side where that is shorter or size is None."""
        rows, columns = (_stretches(side, size or side, overlap) for side in (height, width))
        return cls(tuple(Tile(top, left, bottom, right) for top, bottom in rows for left, right in columns), overlap)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a tile."""
        return self.each[0].bottom, self.each[0].right

    def blend(self, make: Callable[[Tile], torch.Tensor], *, like: torch.Tensor, scale: int = 1) -> torch.Tensor:
        """Return what `make` makes of all tiles as one picture; what it makes of a single tile, bit for bit.

        Where tiles overlap, one fades into the next linearly, so that no seam shows. The rows of a batch do not mix.

        Args:
            make: returns (batch, channels, height · scale, width · scale) for a tile.
            like: (batch, channels, …), of the dtype and on the device of what it makes.
            scale: how many times larger what it makes is.
        """
        if len(self.each) == 1:
            return make(self.each[0])
        height, width = self.each[-1].bottom * scale, self.each[-1].right * scale
        total, shares = like.new_zeros(*like.shape[:2], height, width), like.new_zeros(1, 1, height, width)
        rows, columns = (_ramps(side * scale, self.overlap * scale, like) for side in self.size)
        share = rows[:, None] * columns
        for tile in self.each:
            place = Tile(*(side * scale for side in (tile.top, tile.left, tile.bottom, tile.right)))
            place.cut(total).add_(make(tile) * share)
            place.cut(shares).add_(share)
        return total / shares


def _stretches(length: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """Return start and end of stretches of one size that cover a length; neighbours share at least `overlap`."""
    if length <= size:
        return [(0, length)]
    count = -(-(length - overlap) // (size - overlap))
    starts = (index * (length - size) // (count - 1) for index in range(count))
    return [(start, start + size) for start in starts]


def _ramps(size: int, length: int, like: torch.Tensor) -> torch.Tensor:
    """Return (size,) shares: rising over `length` from the start, falling to the end, never 0."""
    distance = torch.arange(1, size + 1, dtype=like.dtype, device=like.device)
    return torch.minimum(distance, distance.flip(0)).clamp(max=length + 1) / (length + 1)
