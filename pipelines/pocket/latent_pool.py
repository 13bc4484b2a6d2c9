"""Scenes with their latents: encoded once by the frozen encoder, drawn many times, growing while training runs."""

from functools import partial
from random import Random

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from pipelines.pocket.parallel import Workers
from pipelines.pocket.scenes import Scene, render, training_scene
from pipelines.pocket.vae_training import to_pixels

_CAPACITY = 100_000
_CHUNK = 16


class LatentPool:
    """A growing set of (scene, latent) pairs of one picture size; scenes are renewable from their number alone."""

    def __init__(self, vae: AutoencoderKL, *, width: int = 128, height: int = 128, seed: int = 0) -> None:
        """Start empty; scene number n of this pool is drawn from a seed that only n and `seed` decide."""
        self._vae = vae
        self._width, self._height, self._seed = width, height, seed
        self._scenes: list[Scene] = []
        self._portraits: list[int] = []
        self._latents: list[Tensor] = []

    def __len__(self) -> int:
        """Return how many pairs there are."""
        return len(self._scenes)

    def grow(self, workers: Workers, count: int) -> None:
        """Draw and encode `count` more scenes, unless the pool is full."""
        first, last = len(self), min(len(self) + count, _CAPACITY)
        chunk = min(_CHUNK, max(1, count // workers.count))
        for scenes, latents in workers.run(
            [partial(self._encoded, range(start, min(start + chunk, last))) for start in range(first, last, chunk)]
        ):
            self._add(scenes)
            self._latents += list(latents)

    def sample(self, random: Random, count: int, *, portraits: int = 0) -> tuple[list[Scene], Tensor]:
        """Draw pairs with replacement: scenes and (count, 4, height/8, width/8) float32 latents.

        `portraits` of them are portraits if there are any; the rest are of any kind.
        """
        chosen = random.choices(self._portraits, k=portraits) if self._portraits else []
        chosen += random.choices(range(len(self)), k=count - len(chosen))
        return [self._scenes[i] for i in chosen], torch.stack([self._latents[i] for i in chosen]).float()

    def state_dict(self) -> Tensor:
        """Return the latents; the scenes are renewed from their numbers."""
        return torch.stack(self._latents)

    def load_state_dict(self, latents: Tensor) -> None:
        """Restore the pool."""
        self._latents = list(latents)
        self._scenes, self._portraits = [], []
        self._add([self._scene(number) for number in range(len(latents))])

    def _add(self, scenes: list[Scene]) -> None:
        first = len(self._scenes)
        self._portraits += [first + index for index, scene in enumerate(scenes) if scene.is_portrait]
        self._scenes += scenes

    def _scene(self, number: int) -> Scene:
        return training_scene(Random(self._seed * 10_000_019 + number))

    @torch.no_grad()
    def _encoded(self, numbers: range) -> tuple[list[Scene], Tensor]:
        scenes = [self._scene(number) for number in numbers]
        pixels = to_pixels([render(scene, width=self._width, height=self._height) for scene in scenes])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            latents = self._vae.encode(pixels).latent_dist.mode()
        return scenes, latents.half()
