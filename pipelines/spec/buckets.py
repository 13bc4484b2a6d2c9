"""Which pictures share a batch: aspect buckets, and the order of batches, which follows from seed and epoch alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from pipelines.spec.dataset import Example

MOST_STRETCHED = 4.0
"""No bucket is longer than so many times its other side; what a longer picture has beyond that is cut off."""

Size = tuple[int, int]
"""Width and height in pixels."""


def bucket_sizes(resolution: int, *, step: int) -> tuple[Size, ...]:
    """Return the sizes of about resolution² pixels, and never more, whose sides are multiples of `step`."""
    area = max(resolution, step) ** 2
    sizes = set()
    width = step
    while width * step <= area:
        height = area // width // step * step
        if max(width, height) <= MOST_STRETCHED * min(width, height):
            sizes |= {(width, height), (height, width)}
        width += step
    return tuple(sorted(sizes))


def bucket_of(width: int, height: int, sizes: Sequence[Size]) -> Size:
    """Return the size of the nearest shape; of several, the largest."""
    ratio = math.log(width / height)
    return min(sizes, key=lambda size: (round(abs(ratio - math.log(size[0] / size[1])), 9), -size[0] * size[1], size))


@dataclass(frozen=True)
class BatchPlan:
    """Batches of pictures of one size each, without end.

    Every epoch shows every picture once, in an order of its own. Batch n depends on the arguments and n alone, so a
    training that is taken up again sees what it would have seen.
    """

    sizes: tuple[Size, ...]
    """The bucket of each example."""
    batch_size: int
    seed: int

    @classmethod
    def make(
        cls, examples: Sequence[Example], *, resolution: int, step: int, buckets: bool, batch_size: int, seed: int
    ) -> "BatchPlan":
        """Sort examples into buckets; without buckets all are squares of the resolution."""
        square = (max(resolution // step, 1) * step,) * 2
        sizes = bucket_sizes(resolution, step=step) if buckets else (square,)
        return cls(tuple(bucket_of(each.width, each.height, sizes) for each in examples), batch_size, seed)

    @property
    def batches_per_epoch(self) -> int:
        """How many batches show every picture once."""
        return sum(-(-count // self.batch_size) for count in self.counts().values())

    def counts(self) -> dict[Size, int]:
        """Return how many pictures each bucket has."""
        return {size: self.sizes.count(size) for size in sorted(set(self.sizes))}

    def batch(self, number: int) -> tuple[int, ...]:
        """Return the indexes of the examples of batch `number`, from 0."""
        epoch, index = divmod(number, self.batches_per_epoch)
        return _epoch(self, epoch)[index]


@lru_cache(maxsize=2)
def _epoch(plan: BatchPlan, epoch: int) -> tuple[tuple[int, ...], ...]:
    random = Random(f"{plan.seed}/{epoch}")
    members: dict[Size, list[int]] = {}
    for index, size in enumerate(plan.sizes):
        members.setdefault(size, []).append(index)
    batches = []
    for _, indexes in sorted(members.items()):
        random.shuffle(indexes)
        batches += [
            tuple(indexes[start : start + plan.batch_size]) for start in range(0, len(indexes), plan.batch_size)
        ]
    random.shuffle(batches)
    return tuple(batches)
