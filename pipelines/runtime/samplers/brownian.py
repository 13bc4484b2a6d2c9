"""Step noise of the SDE samplers: one Brownian path per image, so that more steps refine the image, not change it."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

Draw = Callable[[int, tuple[int, ...]], torch.Tensor]
"""Returns standard normal noise of a shape from a seed of its own."""

_DIGITS = 6
"""To how many decimals torchsde tells noise levels apart."""
_POOL_SIZE = 24
"""Of the entropy from which torchsde spawns seeds, in words."""


class BrownianNoise:
    """The increments of Brownian motion over the noise level, as k-diffusion's BrownianTreeNoiseSampler scales them.

    Drawn in float32 from a tree per image, whose seed is the image's own: alone or in a batch, an image gets the same
    noise, and the same noise between two levels however many levels lie between them.
    """

    def __init__(
        self, seeds: Sequence[int], shape: tuple[int, ...], *, sigma_min: float, sigma_max: float, draw: Draw
    ) -> None:
        """Plant the trees.

        Args:
            seeds: one per image.
            shape: (channels, height, width) of the latents.
            sigma_min: the last positive noise level. In A1111 that of the whole schedule, for image to image too.
            sigma_max: the first noise level, likewise.
            draw: called once for each node that is visited.
        """
        self._span = round(sigma_min, _DIGITS), round(sigma_max, _DIGITS)
        self._trees = [BrownianTree(seed, shape, *self._span, draw=draw) for seed in seeds]

    def noise(self, latents_like: torch.Tensor, sigma: float, sigma_next: float) -> torch.Tensor:
        """Return the increment from `sigma` down to `sigma_next`, of variance 1; 0 where six decimals are the same.

        Raises:
            ValueError: a noise level is outside of the interval, or the batch is not that of the seeds.
        """
        low, high = round(sigma_next, _DIGITS), round(sigma, _DIGITS)
        if sigma_next >= sigma or not self._span[0] <= low <= high <= self._span[1]:
            raise ValueError(f"a step from {sigma} to {sigma_next} does not lie between {self._span}")
        if len(self._trees) != len(latents_like):
            raise ValueError(f"noise for {len(self._trees)} images cannot be given to {len(latents_like)}")
        if low == high:
            return torch.zeros_like(latents_like)
        increment = torch.stack([tree.increment(low, high) for tree in self._trees])
        scaled: torch.Tensor = -increment / math.sqrt(sigma - sigma_next)
        return scaled.to(latents_like.device)


class _Node(NamedTuple):
    """One of the intervals that halving makes."""

    start: float
    end: float
    gain: torch.Tensor
    """Of the path from start to end."""
    place: int = 0
    depth: int = 0


class BrownianTree:
    """A Brownian path that is halved and halved again where it is looked at: number for number torchsde's BrownianTree.

    That one draws from torch alone; this one draws from what it is given.
    """

    def __init__(self, seed: int, shape: tuple[int, ...], start: float, end: float, *, draw: Draw) -> None:
        self._seed = seed
        self._shape = shape
        self._draw = draw
        self._whole = _Node(start, end, self._noise() * math.sqrt(end - start))
        self._gains: dict[tuple[int, int], torch.Tensor] = {}
        """Of the lower halves of the nodes that the last look passed; the next look is near it."""

    def increment(self, low: float, high: float) -> torch.Tensor:
        """Return what the path gains from one level to a higher one, both of six decimals and inside of the tree."""
        gains: dict[tuple[int, int], torch.Tensor] = {}
        first, *others = self._parts(low, high, self._whole, gains)
        self._gains = gains
        return sum(others, start=first)

    def _parts(
        self, low: float, high: float, node: _Node, gains: dict[tuple[int, int], torch.Tensor]
    ) -> Iterator[torch.Tensor]:
        """Return, in order, the gains of the largest nodes of which the part of [low, high] in a node consists."""
        start, end, gain, place, depth = node
        if low <= start and end <= high:
            yield gain
            return
        middle = round(0.5 * (end + start), _DIGITS)
        lower = self._gains.get((place, depth))
        if lower is None:
            before, after, share = middle - start, end - middle, 1 / (end - start)
            lower = before * gain * share + math.sqrt(before * after * share) * self._noise(place, depth)
        gains[place, depth] = lower
        if low < middle:
            yield from self._parts(low, high, _Node(start, middle, lower, 2 * place, depth + 1), gains)
        if middle < high:
            yield from self._parts(low, high, _Node(middle, end, gain - lower, 2 * place + 1, depth + 1), gains)

    def _noise(self, *node: int) -> torch.Tensor:
        """Return the noise of a node, or without one that of the whole path."""
        spawned = np.random.SeedSequence(self._seed, spawn_key=node, pool_size=_POOL_SIZE)
        return self._draw(int(spawned.generate_state(1)[0]), self._shape)
