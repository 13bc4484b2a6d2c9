"""DPM-Solver (arXiv:2206.00927) in noise prediction: DPM fast and DPM adaptive. Both stop above 0."""

import math
from collections.abc import Callable

import torch

from pipelines.runtime.samplers.interface import Denoise, OnStep, SamplerOptions, StepNoise
from pipelines.runtime.samplers.steps import ancestral, derivative


def dpm_fast(
    denoise: Denoise,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    noise: StepNoise,
    options: SamplerOptions,
    on_step: OnStep,
) -> torch.Tensor:
    """k-diffusion's sample_dpm_fast: as many evaluations as `sigmas` has steps, in steps of third order.

    Of `sigmas` only the first, the last positive one and the number are used.
    """
    eta = options.eta_or(1.0)
    sigma_max, sigma_min = _ends(sigmas)
    orders = _orders(len(sigmas) - 1)
    time_step = math.log(sigma_max / sigma_min) / len(orders)
    for index, order in enumerate(orders):
        sigma = sigma_max * math.exp(-time_step * index)
        sigma_next = sigma_max * math.exp(-time_step * (index + 1))
        down, up = _down_and_up(sigma, sigma_next, eta=eta, sigma_min=sigma_min)
        denoised = denoise(latents, sigma)
        eps = _Eps(denoise, latents, sigma, down, denoised=denoised)
        latents = eps.step(order)
        latents = latents + up * options.s_noise * noise.noise(latents, sigma, sigma_next)
        on_step(index, denoised)
    return latents


def dpm_adaptive(
    denoise: Denoise,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    noise: StepNoise,
    options: SamplerOptions,
    on_step: OnStep,
) -> torch.Tensor:
    """k-diffusion's sample_dpm_adaptive: a third-order step is kept if a second-order one comes near enough.

    Of `sigmas` only the first and the last positive one are used. The length of a step depends on the image, so images
    are given one by one: in a batch, each would depend on the others.

    Raises:
        ValueError: `latents` holds more than one image.
    """
    if len(latents) != 1:
        raise ValueError(f"dpm_adaptive chooses its steps for one image; got {len(latents)}, give them one by one")
    eta = options.eta_or(1.0)
    sigma, sigma_min = _ends(sigmas)
    time, end = -math.log(sigma), -math.log(sigma_min)
    control = _StepControl(order=1.5 if eta else 3)
    low_before = latents
    index = 0
    while time < end - _TIME_TOLERANCE:
        time_next = min(end, time + control.length)
        sigma, sigma_next = math.exp(-time), math.exp(-time_next)
        down, up = _down_and_up(sigma, sigma_next, eta=eta, sigma_min=sigma_min)
        denoised = denoise(latents, sigma)
        eps = _Eps(denoise, latents, sigma, down, denoised=denoised)
        low, high = eps.second_order(1 / 3), eps.third_order()
        error = _error(low, high, low_before)
        if math.isnan(error):  # No step would ever be kept; whoever called sees what came of it.
            return high
        if control.accept(error):
            low_before = low
            latents = high + up * options.s_noise * noise.noise(latents, sigma, sigma_next)
            time = time_next
        on_step(index, denoised)
        index += 1
    return latents


_TIME_TOLERANCE = 1e-5
_ABSOLUTE_TOLERANCE, _RELATIVE_TOLERANCE = 0.0078, 0.05


def _ends(sigmas: torch.Tensor) -> tuple[float, float]:
    """Return the first and the last positive noise level."""
    positive = sigmas[sigmas > 0].tolist()
    if len(positive) < 2:
        raise ValueError("dpm_fast and dpm_adaptive need at least 2 steps: they stop at the last noise level above 0")
    return positive[0], positive[-1]


def _orders(evaluations: int) -> list[int]:
    """Return orders that add up to `evaluations`; the last are lower where 3 does not divide it."""
    thirds, rest = divmod(evaluations, 3)
    return [3] * (thirds - 1) + [2, 1] if rest == 0 else [3] * thirds + [rest]


def _down_and_up(sigma: float, sigma_next: float, *, eta: float, sigma_min: float) -> tuple[float, float]:
    """Return `ancestral`, but never below sigma_min."""
    down = max(sigma_min, ancestral(sigma, sigma_next, eta)[0]) if eta else sigma_next
    return down, math.sqrt(max(sigma_next**2 - down**2, 0.0))


def _error(low: torch.Tensor, high: torch.Tensor, low_before: torch.Tensor) -> float:
    """Return the root mean square of the difference, relative to what is tolerated; 1 is as much as is tolerated."""
    tolerated = (_RELATIVE_TOLERANCE * torch.maximum(low.abs(), low_before.abs())).clamp(min=_ABSOLUTE_TOLERANCE)
    return float(((low - high) / tolerated).square().mean().sqrt())


class _Eps:
    """One step from sigma to sigma_next: evaluations of the noise on the way, each made once (Algorithms 4 and 5)."""

    def __init__(
        self, denoise: Denoise, latents: torch.Tensor, sigma: float, sigma_next: float, *, denoised: torch.Tensor
    ) -> None:
        self._denoise = denoise
        self._latents = latents
        self._sigma = sigma
        self._h = math.log(sigma / sigma_next)
        self._eps = derivative(latents, sigma, denoised)
        self._eps_at: dict[float, torch.Tensor] = {}

    def step(self, order: int) -> torch.Tensor:
        steps: dict[int, Callable[[], torch.Tensor]] = {1: self.first_order, 2: self.second_order, 3: self.third_order}
        return steps[order]()

    def first_order(self) -> torch.Tensor:
        return self._first_order_to(1.0)

    def second_order(self, r: float = 1 / 2) -> torch.Tensor:
        weight = self._sigma_at(1.0) * math.expm1(self._h) / (2 * r)
        return self._first_order_to(1.0) - weight * (self._eps_halfway(r) - self._eps)

    def third_order(self) -> torch.Tensor:
        r_1, r_2 = 1 / 3, 2 / 3
        h = self._h
        change = self._eps_halfway(r_1) - self._eps
        weight = self._sigma_at(r_2) * (r_2 / r_1) * (math.expm1(r_2 * h) / (r_2 * h) - 1)
        sigma = self._sigma_at(r_2)
        guess = self._first_order_to(r_2) - weight * change
        eps = derivative(guess, sigma, self._denoise(guess, sigma))
        weight = self._sigma_at(1.0) / r_2 * (math.expm1(h) / h - 1)
        return self._first_order_to(1.0) - weight * (eps - self._eps)

    def _sigma_at(self, r: float) -> float:
        """Return the noise level at a part `r` of the step, which is even in log sigma."""
        return self._sigma * math.exp(-r * self._h)

    def _first_order_to(self, r: float) -> torch.Tensor:
        return self._latents - self._sigma_at(r) * math.expm1(r * self._h) * self._eps

    def _eps_halfway(self, r: float) -> torch.Tensor:
        """Return the noise predicted at a part `r` of the step."""
        if r not in self._eps_at:
            sigma = self._sigma_at(r)
            guess = self._first_order_to(r)
            self._eps_at[r] = derivative(guess, sigma, self._denoise(guess, sigma))
        return self._eps_at[r]


class _StepControl:
    """k-diffusion's PID controller with its defaults, of which only the integral part is left."""

    def __init__(self, *, order: float) -> None:
        self.length = 0.05
        """Of the next step, in log sigma."""
        self._order = order

    def accept(self, error: float) -> bool:
        """Change the length after a step of that error; return whether the step is kept."""
        factor = (1 / (error + 1e-8)) ** (1 / self._order)
        factor = 1 + math.atan(factor - 1)
        self.length *= factor
        return factor >= 0.81
