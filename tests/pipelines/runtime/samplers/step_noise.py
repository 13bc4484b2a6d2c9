"""Step noise for tests: from one generator per image, and none at all."""

from collections.abc import Sequence

import torch


def on_the_processor(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Return what a generator of that seed draws first."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class NoNoise:
    """For samplers that take no noise. To ask it for some is a mistake."""

    def noise(self, latents_like: torch.Tensor, sigma: float, sigma_next: float) -> torch.Tensor:
        """Refuse.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(f"noise was asked for at sigma {sigma}, but this sampler was said to take none")


class AncestralNoise:
    """Draws from one generator per image, on the processor and in float32, so that a seed means the same everywhere.

    In A1111 it is the generator that drew the image's initial noise, and goes on from there.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self._generators = tuple(generators)

    def noise(self, latents_like: torch.Tensor, sigma: float, sigma_next: float) -> torch.Tensor:
        """Return the next noise of every image, (batch, channels, height, width).

        Raises:
            ValueError: the batch has another number of images than there are generators.
        """
        shape = latents_like.shape[1:]
        images = [torch.randn(shape, generator=generator, dtype=torch.float32) for generator in self._generators]
        if len(images) != len(latents_like):
            raise ValueError(f"noise for {len(images)} images cannot be given to {len(latents_like)}")
        return torch.stack(images).to(latents_like.device)
