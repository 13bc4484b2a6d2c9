"""Step noise of the SDE samplers: one Brownian path per image, so that more steps refine the image, not change it."""

import math
from collections.abc import Sequence

import torch
from torchsde import BrownianTree

_DIGITS = 6
"""To how many decimals torchsde tells noise levels apart; it warns of one that rounding puts outside its interval."""


class BrownianNoise:
    """The increments of Brownian motion over the noise level, as k-diffusion's BrownianTreeNoiseSampler scales them.

    Drawn on the processor in float32 from a tree per image, whose seed is the image's own: alone or in a batch, an
    image gets the same noise, and the same noise between two levels however many levels lie between them.
    """

    def __init__(self, seeds: Sequence[int], shape: tuple[int, ...], *, sigma_min: float, sigma_max: float) -> None:
        """Plant the trees.

        Args:
            seeds: one per image.
            shape: (channels, height, width) of the latents.
            sigma_min: the last positive noise level. In A1111 that of the whole schedule, for image to image too.
            sigma_max: the first noise level, likewise.
        """
        start, end = round(sigma_min, _DIGITS), round(sigma_max, _DIGITS)
        self._trees = [BrownianTree(start, torch.zeros(shape), end, entropy=seed) for seed in seeds]
        self._span = start, end

    def noise(self, latents_like: torch.Tensor, sigma: float, sigma_next: float) -> torch.Tensor:
        """Return the increment from `sigma` down to `sigma_next`, of variance 1; the two must differ.

        Raises:
            ValueError: a noise level is outside of the interval, or the batch is not that of the seeds.
        """
        low, high = round(sigma_next, _DIGITS), round(sigma, _DIGITS)
        if not self._span[0] <= low < high <= self._span[1]:
            raise ValueError(f"a step from {sigma} to {sigma_next} does not lie between {self._span}")
        if len(self._trees) != len(latents_like):
            raise ValueError(f"noise for {len(self._trees)} images cannot be given to {len(latents_like)}")
        increment = torch.stack([tree(low, high) for tree in self._trees])
        scaled: torch.Tensor = -increment / math.sqrt(sigma - sigma_next)
        return scaled.to(latents_like.device)
