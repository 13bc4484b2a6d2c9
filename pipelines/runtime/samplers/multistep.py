"""Linear multistep samplers: LMS, PLMS and DEIS. They look back at the slopes of steps before."""

import math
from itertools import pairwise

import numpy as np
import torch

from pipelines.runtime.samplers.interface import Denoise, OnStep, SamplerOptions, StepNoise
from pipelines.runtime.samplers.steps import at_last_scale, derivative

_ORDER = 4


def lms(
    denoise: Denoise,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    noise: StepNoise,
    options: SamplerOptions,
    on_step: OnStep,
) -> torch.Tensor:
    """k-diffusion's sample_lms: Adams-Bashforth of fourth order for uneven steps."""
    levels = sigmas.tolist()
    slopes: list[torch.Tensor] = []
    for index, sigma in enumerate(levels[:-1]):
        denoised = denoise(latents, sigma)
        slopes = [derivative(latents, sigma, denoised), *slopes[: _ORDER - 1]]
        known = levels[index::-1][:_ORDER]
        for place, slope in enumerate(slopes):
            latents = latents + _weight(known, place, start=sigma, end=levels[index + 1]) * slope
        on_step(index, denoised)
    return latents


def plms(
    denoise: Denoise,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    noise: StepNoise,
    options: SamplerOptions,
    on_step: OnStep,
) -> torch.Tensor:
    """arXiv:2202.09778, F-PNDM's multistep part after one Heun step: the weights are those of even steps.

    Divided by sqrt(alphas_cumprod), its equation 11 is an Euler step. On the schedule `ddim_timesteps`, from noise of
    sqrt(1 + sigma²), this is text to image in A1111; of image to image, see `ddim`. A first step to 0 is Euler.
    """
    slopes: list[torch.Tensor] = []
    for index, (sigma, sigma_next) in enumerate(pairwise(sigmas.tolist())):
        denoised = denoise(latents, sigma)
        slopes = [derivative(latents, sigma, denoised), *slopes[: _ORDER - 1]]
        slope = slopes[0]
        if index > 0:
            latest, *before = _PLMS_WEIGHTS[len(slopes)]
            slope = latest * slopes[0]
            for weight, past in zip(before, slopes[1:], strict=True):
                slope = slope + weight * past
        elif sigma_next > 0:
            guess = latents + slope * (sigma_next - sigma)
            slope = (slope + derivative(guess, sigma_next, denoise(guess, sigma_next))) / 2
        latents = latents + slope * (sigma_next - sigma)
        on_step(index, denoised)
    return at_last_scale(latents, float(sigmas[-1]))


def deis(
    denoise: Denoise,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    noise: StepNoise,
    options: SamplerOptions,
    on_step: OnStep,
) -> torch.Tensor:
    """arXiv:2204.13902, rho-AB-DEIS of second order with a slope linear in log sigma: diffusers' "logrho".

    Divided by sqrt(alphas_cumprod), its equation 15 is the integral of that line from sigma to the next. The last step
    is of first order if it goes to 0, where a logarithm has no end, and in less than 15 steps, as in diffusers.
    """
    num_steps = len(sigmas) - 1
    before: tuple[float, torch.Tensor] | None = None
    for index, (sigma, sigma_next) in enumerate(pairwise(sigmas.tolist())):
        denoised = denoise(latents, sigma)
        slope = derivative(latents, sigma, denoised)
        latents = latents + (sigma_next - sigma) * slope
        is_last_of_few = index == num_steps - 1 and num_steps < _FEW_STEPS
        if before is not None and sigma_next > 0 and not is_last_of_few:
            sigma_before, slope_before = before
            bend = sigma - sigma_next * (1 + math.log(sigma / sigma_next))
            latents = latents + bend / math.log(sigma_before / sigma) * (slope_before - slope)
        before = sigma, slope
        on_step(index, denoised)
    return latents


_FEW_STEPS = 15

_PLMS_WEIGHTS = {
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}
"""Adams-Bashforth for even steps, the latest slope first."""


def _weight(known: list[float], place: int, *, start: float, end: float) -> float:
    """Return the integral from start to end of the polynomial that is 1 at known[place] and 0 at the other levels.

    Gauss-Legendre quadrature at two points is exact up to the third degree.
    """
    points, weights = np.polynomial.legendre.leggauss(2)
    sigma = (start + end) / 2 + (end - start) / 2 * points
    others = np.array([level for i, level in enumerate(known) if i != place])
    basis = np.prod((sigma[:, None] - others) / (known[place] - others), axis=1)
    return float((end - start) / 2 * weights @ basis)
