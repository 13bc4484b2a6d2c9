"""Two evaluations a step: Heun, DPM2, DPM2 a, and Restart, which is Heun that goes back up."""

import math
from itertools import pairwise

import numpy as np
import torch

from pipelines.runtime.samplers.interface import Denoise, OnStep, SamplerOptions, StepNoise
from pipelines.runtime.samplers.steps import ancestral, churn, derivative


def heun(
    denoise: Denoise,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    noise: StepNoise,
    options: SamplerOptions,
    on_step: OnStep,
) -> torch.Tensor:
    """arXiv:2206.00364, Algorithm 2. The step to 0 is Euler."""
    for index, (sigma, sigma_next) in enumerate(pairwise(sigmas.tolist())):
        latents, raised = churn(latents, sigma, num_steps=len(sigmas) - 1, noise=noise, options=options)
        latents, denoised = _heun_step(denoise, latents, raised, sigma_next)
        on_step(index, denoised)
    return latents


def dpm2(
    denoise: Denoise,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    noise: StepNoise,
    options: SamplerOptions,
    on_step: OnStep,
) -> torch.Tensor:
    """k-diffusion's sample_dpm_2: the slope halfway in the logarithm (arXiv:2206.00927), with Karras' churn."""
    for index, (sigma, sigma_next) in enumerate(pairwise(sigmas.tolist())):
        latents, raised = churn(latents, sigma, num_steps=len(sigmas) - 1, noise=noise, options=options)
        latents, denoised = _midpoint_step(denoise, latents, raised, sigma_next)
        on_step(index, denoised)
    return latents


def dpm2_a(
    denoise: Denoise,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    noise: StepNoise,
    options: SamplerOptions,
    on_step: OnStep,
) -> torch.Tensor:
    """k-diffusion's sample_dpm_2_ancestral: DPM2 to less than the next noise level, then fresh noise up to it."""
    eta = options.eta_or(1.0)
    for index, (sigma, sigma_next) in enumerate(pairwise(sigmas.tolist())):
        down, up = ancestral(sigma, sigma_next, eta)
        latents, denoised = _midpoint_step(denoise, latents, sigma, down)
        if down > 0:
            latents = latents + noise.noise(latents, sigma, sigma_next) * options.s_noise * up
        on_step(index, denoised)
    return latents


def restart(
    denoise: Denoise,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    noise: StepNoise,
    options: SamplerOptions,
    on_step: OnStep,
) -> torch.Tensor:
    """arXiv:2306.14878: Heun; from 20 steps on, the way from noise level 2 to 0.1 is walked again with fresh noise."""
    last = math.inf
    for index, (sigma, sigma_next) in enumerate(_with_restarts(sigmas)):
        if sigma > last:
            fresh = noise.noise(latents, last, sigma)
            latents = latents + fresh * options.s_noise * math.sqrt(sigma**2 - last**2)
        latents, denoised = _heun_step(denoise, latents, sigma, sigma_next)
        on_step(index, denoised)
        last = sigma_next
    return latents


def _heun_step(
    denoise: Denoise, latents: torch.Tensor, sigma: float, sigma_next: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the next latents and the first predicted original."""
    denoised = denoise(latents, sigma)
    slope = derivative(latents, sigma, denoised)
    guess = latents + slope * (sigma_next - sigma)
    if sigma_next == 0:
        return guess, denoised
    slope_next = derivative(guess, sigma_next, denoise(guess, sigma_next))
    return latents + (slope + slope_next) / 2 * (sigma_next - sigma), denoised


def _midpoint_step(
    denoise: Denoise, latents: torch.Tensor, sigma: float, sigma_next: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the next latents and the first predicted original."""
    denoised = denoise(latents, sigma)
    slope = derivative(latents, sigma, denoised)
    if sigma_next == 0:
        return latents + slope * (sigma_next - sigma), denoised
    middle = math.sqrt(sigma * sigma_next)
    halfway = latents + slope * (middle - sigma)
    slope = derivative(halfway, middle, denoise(halfway, middle))
    return latents + slope * (sigma_next - sigma), denoised


_RESTART_FROM, _RESTART_TO = 0.1, 2.0


def _with_restarts(sigmas: torch.Tensor) -> list[tuple[float, float]]:
    """Return the steps, as many as were asked for: 9 of them walk again from 20 on, two halves of them from 36 on."""
    num_steps = len(sigmas) - 1
    if num_steps < 20:
        return list(pairwise(sigmas.tolist()))
    again, times = (9, 1) if num_steps < 36 else (num_steps // 4, 2)
    levels = _karras(num_steps - again * times, sigma_max=float(sigmas[0]), sigma_min=float(sigmas[-2]))
    bottom = int(np.argmin(np.abs(levels - _RESTART_FROM)))
    top = int(np.argmin(np.abs(levels - _RESTART_TO)))
    steps = list(pairwise(levels.tolist()))
    if top >= bottom:
        return steps
    walk = list(pairwise(_karras(again + 1, sigma_max=levels[top], sigma_min=levels[bottom])[:-1].tolist()))
    return [*steps[:bottom], *(walk * times), *steps[bottom:]]


def _karras(num_levels: int, *, sigma_max: float, sigma_min: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """arXiv:2206.00364, equation 5, at rho 7, and 0."""
    ramp = np.linspace(0, 1, num_levels)
    levels = (sigma_max ** (1 / 7) + ramp * (sigma_min ** (1 / 7) - sigma_max ** (1 / 7))) ** 7
    return np.append(levels, 0.0)
