"""DPM-Solver++ (arXiv:2211.01095) as k-diffusion writes it: the singlestep 2S a and SDE, the multistep 2M."""

import math
from itertools import pairwise

import torch

from pipelines.runtime.samplers.interface import Denoise, OnStep, SamplerOptions, StepNoise
from pipelines.runtime.samplers.steps import ancestral, exponential_step


def dpmpp_2s_a(
    denoise: Denoise,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    noise: StepNoise,
    options: SamplerOptions,
    on_step: OnStep,
) -> torch.Tensor:
    """DPM-Solver++(2S), Algorithm 1 at r = 1/2, to less than the next noise level, then fresh noise up to it."""
    eta = options.eta_or(1.0)
    for index, (sigma, sigma_next) in enumerate(pairwise(sigmas.tolist())):
        down, up = ancestral(sigma, sigma_next, eta)
        denoised = target = denoise(latents, sigma)
        if down > 0:
            middle = math.sqrt(sigma * down)
            target = denoise(exponential_step(latents, denoised, sigma, middle), middle)
        latents = exponential_step(latents, target, sigma, down)
        if sigma_next > 0:
            latents = latents + noise.noise(latents, sigma, sigma_next) * options.s_noise * up
        on_step(index, denoised)
    return latents


def dpmpp_sde(
    denoise: Denoise,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    noise: StepNoise,
    options: SamplerOptions,
    on_step: OnStep,
) -> torch.Tensor:
    """k-diffusion's sample_dpmpp_sde at r = 1/2: 2S with fresh noise at the middle of the step and at its end."""
    eta = options.eta_or(1.0)
    for index, (sigma, sigma_next) in enumerate(pairwise(sigmas.tolist())):
        denoised = target = denoise(latents, sigma)
        if sigma_next > 0:
            middle = math.sqrt(sigma * sigma_next)
            down, up = ancestral(sigma, middle, eta)
            halfway = exponential_step(latents, denoised, sigma, down)
            halfway = halfway + noise.noise(latents, sigma, middle) * options.s_noise * up
            target = denoise(halfway, middle)
        down, up = ancestral(sigma, sigma_next, eta)
        latents = exponential_step(latents, target, sigma, down)
        if sigma_next > 0:
            latents = latents + noise.noise(latents, sigma, sigma_next) * options.s_noise * up
        on_step(index, denoised)
    return latents


def dpmpp_2m(
    denoise: Denoise,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    noise: StepNoise,
    options: SamplerOptions,
    on_step: OnStep,
) -> torch.Tensor:
    """DPM-Solver++(2M), Algorithm 2: the predicted original is carried on along its last change."""
    previous: tuple[float, torch.Tensor] | None = None
    for index, (sigma, sigma_next) in enumerate(pairwise(sigmas.tolist())):
        denoised = target = denoise(latents, sigma)
        if previous is not None and sigma_next > 0:
            sigma_before, denoised_before = previous
            ratio = math.log(sigma_before / sigma) / math.log(sigma / sigma_next)
            target = denoised + (denoised - denoised_before) / (2 * ratio)
        latents = exponential_step(latents, target, sigma, sigma_next)
        previous = sigma, denoised
        on_step(index, denoised)
    return latents
