"""What every sampler is given. A sampler knows noise levels and latents; no model, no prompt, no random seed."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from pipelines.runtime.sigmas import ModelSigmas


class Denoise(Protocol):
    """The model, under guidance."""

    def __call__(self, latents: torch.Tensor, sigma: float) -> torch.Tensor:
        """Return the predicted original of (batch, channels, height, width) latents, float32, at a sigma above 0."""


class StepNoise(Protocol):
    """Where a stochastic sampler gets its noise. Each image has its own: it is the same alone and in a batch."""

    def noise(self, latents_like: torch.Tensor, sigma: float, sigma_next: float) -> torch.Tensor:
        """Return standard normal noise like `latents_like` for the step from `sigma` down to `sigma_next`."""


OnStep = Callable[[int, torch.Tensor], None]
"""Called after each step with its index and the last predicted original; what it raises ends the work."""


@dataclass(frozen=True)
class SamplerOptions:
    """What A1111 calls sampler parameters. A sampler reads those it has; defaults as in k-diffusion and A1111."""

    eta: float | None = None
    """How much of each step's noise is fresh. None: 0 for `ddim`, 0.3 for `tcd`, 1 for every other that has it."""
    s_churn: float = 0.0
    """Noise added before each step of Euler, Heun and DPM2 (arXiv:2206.00364, Algorithm 2)."""
    s_tmin: float = 0.0
    """The lowest noise level at which `s_churn` acts."""
    s_tmax: float = math.inf
    """The highest."""
    s_noise: float = 1.0
    """The scale of all noise that is added; above 1 makes up for detail that the model loses."""
    model_sigmas: ModelSigmas | None = None
    """The noise levels of the model: `tcd` and `sa_solver` reckon in its timesteps too."""

    def eta_or(self, default: float) -> float:
        """Return eta, or a sampler's own default."""
        return default if self.eta is None else self.eta

    def timesteps(self) -> ModelSigmas:
        """Return the map between noise levels and timesteps.

        Raises:
            ValueError: it was not given.
        """
        if self.model_sigmas is None:
            raise ValueError("this sampler reckons in timesteps: give it model_sigmas")
        return self.model_sigmas


class Sample(Protocol):
    """A sampler."""

    def __call__(
        self,
        denoise: Denoise,
        latents: torch.Tensor,
        sigmas: torch.Tensor,
        *,
        noise: StepNoise,
        options: SamplerOptions,
        on_step: OnStep,
    ) -> torch.Tensor:
        """Return latents at the last noise level.

        Args:
            denoise: the model.
            latents: (batch, channels, height, width), float32, at the noise level `sigmas[0]`.
            sigmas: (steps + 1,), float32, strictly descending, the last usually 0; the tail of a schedule for image
                to image.
            noise: the source that the sampler's row of `SAMPLERS` names.
            options: see there.
            on_step: called after each step.
        """
