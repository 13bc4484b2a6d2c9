"""The few lines that samplers share."""

import math

import torch

from pipelines.runtime.samplers.interface import SamplerOptions, StepNoise


def derivative(latents: torch.Tensor, sigma: float, denoised: torch.Tensor) -> torch.Tensor:
    """Return d latents / d sigma of the probability flow (arXiv:2206.00364, equation 3); it is the predicted noise."""
    return (latents - denoised) / sigma


def ancestral(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """Return the noise level to step down to, and that of the noise to add, to arrive at `sigma_next`."""
    up = min(sigma_next, eta * sigma_next * math.sqrt(sigma**2 - sigma_next**2) / sigma)
    return math.sqrt(sigma_next**2 - up**2), up


def exponential_step(latents: torch.Tensor, denoised: torch.Tensor, sigma: float, sigma_next: float) -> torch.Tensor:
    """Return latents moved straight towards `denoised`: DPM-Solver++ of first order, and Euler (arXiv:2211.01095)."""
    ratio = sigma_next / sigma
    return ratio * latents + (1 - ratio) * denoised


def churn(
    latents: torch.Tensor, sigma: float, *, num_steps: int, noise: StepNoise, options: SamplerOptions
) -> tuple[torch.Tensor, float]:
    """Return latents raised to a higher noise level, and that level (arXiv:2206.00364, Algorithm 2, lines 4 to 6).

    Noise is drawn on every step once s_churn is on, in and out of its range, as k-diffusion does.
    """
    if options.s_churn == 0:
        return latents, sigma
    fresh = noise.noise(latents, sigma, sigma)
    if not options.s_tmin <= sigma <= options.s_tmax:
        return latents, sigma
    raised = sigma * (1 + min(options.s_churn / num_steps, math.sqrt(2) - 1))
    return latents + fresh * options.s_noise * math.sqrt(raised**2 - sigma**2), raised


def at_last_scale(latents: torch.Tensor, sigma: float) -> torch.Tensor:
    """Return latents as a sampler leaves them that keeps their variance at 1 and stops at `sigma`, as A1111's DDIM."""
    return latents / math.sqrt(1 + sigma**2)
