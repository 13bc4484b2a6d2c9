"""One evaluation a step, nothing remembered: Euler, Euler a, and their like in other words: DDIM, DDPM, LCM, TCD."""

import math
from dataclasses import replace
from itertools import pairwise

import torch

from pipelines.runtime.samplers.interface import Denoise, OnStep, SamplerOptions, StepNoise
from pipelines.runtime.samplers.steps import ancestral, at_last_scale, churn, derivative, exponential_step


def euler(
    denoise: Denoise,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    noise: StepNoise,
    options: SamplerOptions,
    on_step: OnStep,
) -> torch.Tensor:
    """arXiv:2206.00364, Algorithm 2 without its second half."""
    for index, (sigma, sigma_next) in enumerate(pairwise(sigmas.tolist())):
        latents, raised = churn(latents, sigma, num_steps=len(sigmas) - 1, noise=noise, options=options)
        denoised = denoise(latents, raised)
        latents = latents + derivative(latents, raised, denoised) * (sigma_next - raised)
        on_step(index, denoised)
    return latents


def euler_a(
    denoise: Denoise,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    noise: StepNoise,
    options: SamplerOptions,
    on_step: OnStep,
) -> torch.Tensor:
    """Euler down to less than the next noise level, then fresh noise up to it."""
    eta = options.eta_or(1.0)
    for index, (sigma, sigma_next) in enumerate(pairwise(sigmas.tolist())):
        denoised = denoise(latents, sigma)
        down, up = ancestral(sigma, sigma_next, eta)
        latents = exponential_step(latents, denoised, sigma, down)
        if sigma_next > 0:
            latents = latents + noise.noise(latents, sigma, sigma_next) * options.s_noise * up
        on_step(index, denoised)
    return latents


def ddim(
    denoise: Denoise,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    noise: StepNoise,
    options: SamplerOptions,
    on_step: OnStep,
) -> torch.Tensor:
    """arXiv:2010.02502. Divided by sqrt(alphas_cumprod), its equation 12 is an Euler step with eta, term by term.

    On the schedule `ddim_timesteps`, from noise of sqrt(1 + sigma²), this is text to image in A1111, which stops at the
    schedule's last level and leaves the result at its scale. Image to image in A1111 noises the image for one timestep
    and denoises it from another; that is not repeated here.
    """
    result = euler_a(
        denoise,
        latents,
        sigmas,
        noise=noise,
        options=replace(options, eta=options.eta_or(0.0), s_noise=1.0),
        on_step=on_step,
    )
    return at_last_scale(result, float(sigmas[-1]))


def ddpm(
    denoise: Denoise,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    noise: StepNoise,
    options: SamplerOptions,
    on_step: OnStep,
) -> torch.Tensor:
    """arXiv:2006.11239, Algorithm 2, with its posterior variance: divided by sqrt(alphas_cumprod), Euler a at eta 1."""
    return euler_a(denoise, latents, sigmas, noise=noise, options=SamplerOptions(eta=1.0), on_step=on_step)


def lcm(
    denoise: Denoise,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    noise: StepNoise,
    options: SamplerOptions,
    on_step: OnStep,
) -> torch.Tensor:
    """arXiv:2310.04378, Algorithm 3: jump to the predicted original, then back up to the next noise level.

    A1111 runs it on the table `ModelSigmas.every(20)` and multiplies the predicted original by the consistency
    model's boundary weights, which differ from (0, 1) by less than 1e-5 on that table; that is left to `denoise`.
    """
    for index, (sigma, sigma_next) in enumerate(pairwise(sigmas.tolist())):
        denoised = denoise(latents, sigma)
        latents = denoised
        if sigma_next > 0:
            latents = denoised + sigma_next * noise.noise(denoised, sigma, sigma_next)
        on_step(index, denoised)
    return latents


def tcd(
    denoise: Denoise,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    noise: StepNoise,
    options: SamplerOptions,
    on_step: OnStep,
) -> torch.Tensor:
    """arXiv:2402.19159, Algorithm 4: straight to a part 1 - eta of the next timestep, then fresh noise up to it.

    Eta is the paper's gamma: 0 is Euler, 1 is LCM. That timestep is a whole one, as in the authors' code and diffusers.
    """
    eta = options.eta_or(0.3)
    model = options.timesteps()
    for index, (sigma, sigma_next) in enumerate(pairwise(sigmas.tolist())):
        denoised = denoise(latents, sigma)
        if sigma_next > 0:
            timestep = math.floor((1 - eta) * float(model.sigma_to_t(sigma_next)) + _ROUNDING)
            down = min(sigma_next, float(model.t_to_sigma(timestep))) if eta else sigma_next
            up = math.sqrt(sigma_next**2 - down**2)
            latents = exponential_step(latents, denoised, sigma, down)
            latents = latents + noise.noise(latents, sigma, sigma_next) * options.s_noise * up
        else:
            latents = denoised
        on_step(index, denoised)
    return latents


_ROUNDING = 1e-3
"""Of a timestep: what the way through float32 noise levels and back may lose of it."""
