"""UniPC (arXiv:2302.04867): a multistep predictor, corrected with the evaluation that the next step needs anyway."""

import math

import numpy as np
import torch

from pipelines.runtime.samplers.interface import Denoise, OnStep, SamplerOptions, StepNoise
from pipelines.runtime.samplers.steps import at_last_scale

_ORDER = 3


def unipc(
    denoise: Denoise,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    noise: StepNoise,
    options: SamplerOptions,
    on_step: OnStep,
) -> torch.Tensor:
    """UniPC-3 with B(h) = h, in data prediction, of lower order at both ends: A1111's defaults.

    Divided by sqrt(alphas_cumprod), the paper's equations 3 and 9 need no alphas. On the schedule `unipc_timesteps`,
    from noise of sqrt(1 + sigma²), this is text to image in A1111. One difference is left: between whole timesteps
    `ModelSigmas.sigma_to_t` is linear in log sigma and UniPC's authors are in log alpha, at most 0.003 timesteps apart.
    """
    levels = sigmas.tolist()
    num_steps = len(levels) - 1
    history = [(levels[0], denoise(latents, levels[0]))]
    for index in range(num_steps):
        sigma_next = levels[index + 1]
        is_last = index == num_steps - 1
        order = min(_ORDER, index + 1, num_steps - index)
        if is_last:
            latents = _step(latents, history, sigma_next, order=order)
            on_step(index, history[0][1])
        else:
            guess = _step(latents, history, sigma_next, order=order)
            denoised = denoise(guess, sigma_next)
            latents = _step(latents, history, sigma_next, order=order, denoised_next=denoised)
            on_step(index, history[0][1])
            history = [(sigma_next, denoised), *history[: _ORDER - 1]]
    return at_last_scale(latents, levels[-1])


def _step(
    latents: torch.Tensor,
    history: list[tuple[float, torch.Tensor]],
    sigma_next: float,
    *,
    order: int,
    denoised_next: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return latents at `sigma_next`: predicted, or corrected where its predicted original is known.

    Args:
        latents: at the noise level of `history[0]`.
        history: noise levels and predicted originals, the latest first.
        sigma_next: where to go.
        order: how many of the history to use.
        denoised_next: at the prediction for `sigma_next`.
    """
    sigma, denoised = history[0]
    ratio = sigma_next / sigma
    result = ratio * latents + (1 - ratio) * denoised
    if sigma_next == 0:
        return result
    h = math.log(sigma / sigma_next)
    places = [math.log(sigma / past) / h for past, _ in history[1:order]]
    changes = [(original - denoised) / place for place, (_, original) in zip(places, history[1:order], strict=True)]
    if denoised_next is not None:
        places.append(1.0)
        changes.append(denoised_next - denoised)
    for weight, change in zip(_weights(places, h), changes, strict=True):
        result = result + h * weight * change
    return result


def _weights(places: list[float], h: float) -> list[float]:
    """Return the solution of the paper's equation 5: one weight per change, at places relative to the step.

    A single change takes 1/2, as the paper recommends and the authors' code does.
    """
    if len(places) < 2:
        return [0.5] * len(places)
    powers = np.array([[place**power for place in places] for power in range(len(places))])
    phi = math.expm1(-h) / -h - 1
    factorial = 1.0
    goals = []
    for power in range(1, len(places) + 1):
        goals.append(phi * factorial / -h)
        factorial *= power + 1
        phi = phi / -h - 1 / factorial
    return [float(weight) for weight in np.linalg.solve(powers, np.array(goals))]
