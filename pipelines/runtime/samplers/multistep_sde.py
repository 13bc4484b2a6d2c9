"""The multistep SDE samplers of k-diffusion: DPM++ 2M SDE, its Heun variant, and 3M SDE (arXiv:2211.01095)."""

import math
from itertools import pairwise

import torch

from pipelines.runtime.samplers.interface import Denoise, OnStep, SamplerOptions, StepNoise


def dpmpp_2m_sde(
    denoise: Denoise,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    noise: StepNoise,
    options: SamplerOptions,
    on_step: OnStep,
) -> torch.Tensor:
    """k-diffusion's sample_dpmpp_2m_sde with the solver type midpoint."""
    return _second_order(denoise, latents, sigmas, noise=noise, options=options, on_step=on_step, is_heun=False)


def dpmpp_2m_sde_heun(
    denoise: Denoise,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    noise: StepNoise,
    options: SamplerOptions,
    on_step: OnStep,
) -> torch.Tensor:
    """k-diffusion's sample_dpmpp_2m_sde with the solver type heun."""
    return _second_order(denoise, latents, sigmas, noise=noise, options=options, on_step=on_step, is_heun=True)


def dpmpp_3m_sde(
    denoise: Denoise,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    noise: StepNoise,
    options: SamplerOptions,
    on_step: OnStep,
) -> torch.Tensor:
    """k-diffusion's sample_dpmpp_3m_sde: first order on the first step, second on the second, then third."""
    eta = options.eta_or(1.0)
    history: list[tuple[torch.Tensor, float]] = []
    """Predicted originals and the length of the step taken from each, the latest first."""
    for index, (sigma, sigma_next) in enumerate(pairwise(sigmas.tolist())):
        denoised = denoise(latents, sigma)
        if sigma_next == 0:
            latents = denoised
        else:
            h = math.log(sigma / sigma_next)
            latents = _sde_step(latents, denoised, h=h, eta=eta)
            phi_2 = _phi_2(h * (1 + eta))
            if len(history) == 1:
                (denoised_1, h_1), *_ = history
                latents = latents + phi_2 * (denoised - denoised_1) * (h / h_1)
            elif len(history) == 2:
                (denoised_1, h_1), (denoised_2, h_2) = history
                r_0, r_1 = h_1 / h, h_2 / h
                slope_0 = (denoised - denoised_1) / r_0
                slope_1 = (denoised_1 - denoised_2) / r_1
                bend = (slope_0 - slope_1) / (r_0 + r_1)
                phi_3 = phi_2 / (h * (1 + eta)) - 0.5
                latents = latents + phi_2 * (slope_0 + bend * r_0) - phi_3 * bend
            latents = _with_noise(latents, sigma, sigma_next, eta=eta, noise=noise, options=options)
            history = [(denoised, h), *history[:1]]
        on_step(index, denoised)
    return latents


def _second_order(
    denoise: Denoise,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    noise: StepNoise,
    options: SamplerOptions,
    on_step: OnStep,
    is_heun: bool,
) -> torch.Tensor:
    eta = options.eta_or(1.0)
    previous: tuple[torch.Tensor, float] | None = None
    for index, (sigma, sigma_next) in enumerate(pairwise(sigmas.tolist())):
        denoised = denoise(latents, sigma)
        if sigma_next == 0:
            latents = denoised
        else:
            h = math.log(sigma / sigma_next)
            latents = _sde_step(latents, denoised, h=h, eta=eta)
            if previous is not None:
                denoised_before, h_before = previous
                weight = _phi_2(h * (1 + eta)) if is_heun else -0.5 * math.expm1(-h * (1 + eta))
                latents = latents + weight * (denoised - denoised_before) * (h / h_before)
            latents = _with_noise(latents, sigma, sigma_next, eta=eta, noise=noise, options=options)
            previous = denoised, h
        on_step(index, denoised)
    return latents


def _sde_step(latents: torch.Tensor, denoised: torch.Tensor, *, h: float, eta: float) -> torch.Tensor:
    """Return latents a step of -log sigma `h` further, without noise: first order."""
    return math.exp(-h * (1 + eta)) * latents - math.expm1(-h * (1 + eta)) * denoised


def _with_noise(
    latents: torch.Tensor,
    sigma: float,
    sigma_next: float,
    *,
    eta: float,
    noise: StepNoise,
    options: SamplerOptions,
) -> torch.Tensor:
    if eta == 0:
        return latents
    up = sigma_next * math.sqrt(1 - (sigma_next / sigma) ** (2 * eta))
    return latents + noise.noise(latents, sigma, sigma_next) * options.s_noise * up


def _phi_2(h: float) -> float:
    """The weight of a slope in an exponential integrator."""
    return math.expm1(-h) / h + 1
