"""SA-Solver (arXiv:2309.05019): stochastic Adams steps, corrected with what the next step evaluates anyway."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch

from pipelines.runtime.samplers.interface import Denoise, OnStep, SamplerOptions, StepNoise

_NOISY_TIMESTEPS = (200, 800)
"""Between these the way is that of the SDE, outside of them that of the ODE: the authors' choice."""


def sa_solver(
    denoise: Denoise,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    noise: StepNoise,
    options: SamplerOptions,
    on_step: OnStep,
) -> torch.Tensor:
    """Algorithm 1 in data prediction, predictor and corrector of second order: diffusers' defaults.

    Divided by sqrt(alphas_cumprod), its equations need no alphas: half the log-SNR is -log sigma. The weights of second
    order are those of the authors' code, where the integrals fall out: a change over a step of length h counts for
    p·h/2, p being 1 + tau². Eta is the paper's tau.
    """
    eta = options.eta_or(1.0)
    model = options.timesteps()
    last: _Step | None = None
    num_steps = len(sigmas) - 1
    for index, (sigma, sigma_next) in enumerate(pairwise(sigmas.tolist())):
        denoised = denoise(latents, sigma)
        if last is not None:
            latents = last.straight + last.bend * (denoised - last.denoised)
        if sigma_next == 0:
            latents = denoised
        else:
            low, high = _NOISY_TIMESTEPS
            tau = eta if low <= float(model.sigma_to_t(sigma)) <= high else 0.0
            h, p = math.log(sigma / sigma_next), 1 + tau**2
            kept = math.exp(-p * h)
            up = sigma_next * math.sqrt(1 - math.exp(-2 * tau**2 * h))
            fresh = noise.noise(latents, sigma, sigma_next) * options.s_noise
            latents = straight = kept * latents + (1 - kept) * denoised + up * fresh
            if last is not None and index < num_steps - 1:
                latents = straight + p * h**2 / 2 * (denoised - last.denoised) / last.h
            last = _Step(h=h, bend=p * h / 2, straight=straight, denoised=denoised)
        on_step(index, denoised)
    return latents


@dataclass(frozen=True)
class _Step:
    """What the next step needs of the last one to correct it."""

    h: float
    """Its length in log sigma."""
    bend: float
    """How much the change of the predicted original counts for."""
    straight: torch.Tensor
    """Where it would lead if the predicted original did not change."""
    denoised: torch.Tensor
