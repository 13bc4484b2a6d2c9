"""Noise levels: which of them a model was trained on, and the descending list of them that a sampler walks down.

A noise level (sigma) is the standard deviation of the noise on latents of unit scale, as in k-diffusion. The numbers
are those of A1111 1.10 and Forge; formulas are written from papers and from k-diffusion (MIT). No model is known here.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import torch
from scipy import special

from pipelines.spec.schedulers import RHO, SPANNED

Levels = npt.NDArray[np.float64]

LEAST_ALPHA_CUMPROD = 4.8973451890853435e-08
"""What A1111 puts at the end of a zero-terminal-SNR model (arXiv:2305.08891): sigma 4518.8 instead of infinity."""


@dataclass(frozen=True, eq=False)
class ModelSigmas:
    """The noise levels that a model was trained on, and the map between them and its timesteps. Both arrays ascend."""

    timesteps: Levels
    """(levels,), float64; 0 … 999 for Stable Diffusion."""
    sigmas: Levels
    """(levels,), float64; 0.029 … 14.6 for Stable Diffusion."""

    @classmethod
    def from_alphas_cumprod(cls, alphas_cumprod: torch.Tensor) -> "ModelSigmas":
        """Return the table of a model, from the (levels,) products of 1 - beta that every diffusers scheduler holds.

        A terminal signal-to-noise ratio of zero is replaced by `LEAST_ALPHA_CUMPROD`.
        """
        alphas = np.maximum(alphas_cumprod.double().cpu().numpy(), LEAST_ALPHA_CUMPROD)
        return cls(np.arange(len(alphas), dtype=np.float64), np.sqrt((1 - alphas) / alphas))

    def every(self, stride: int) -> "ModelSigmas":
        """Return the table of a model that knows the last of every `stride` timesteps only."""
        return ModelSigmas(self.timesteps[stride - 1 :: stride], self.sigmas[stride - 1 :: stride])

    @property
    def sigma_min(self) -> float:
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        return float(self.sigmas[-1])

    @cached_property
    def _log_sigmas(self) -> Levels:
        return np.log(self.sigmas)

    def sigma_to_t(self, sigma: float | Levels) -> Levels:
        """Return timesteps, not rounded; log-linear between levels, the first or last timestep outside of them."""
        return np.asarray(np.interp(np.log(sigma), self._log_sigmas, self.timesteps))

    def t_to_sigma(self, timestep: float | Levels) -> Levels:
        """Return noise levels for timesteps, which need not be whole: the inverse of `sigma_to_t`."""
        return np.exp(np.interp(timestep, self.timesteps, self._log_sigmas))


@dataclass(frozen=True)
class Span:
    """What a noise schedule is told beside the table."""

    sigma_min: float
    sigma_max: float
    rho: float
    is_sdxl: bool


@dataclass(frozen=True)
class NoiseSchedule:
    """One row of the noise schedule table."""

    levels: Callable[[ModelSigmas, int, Span], Levels]
    """The table, the number of steps and the span -> noise levels, float64, descending."""
    ends_at_zero: bool = True
    """Whether a last step to noise level 0 follows."""
    min_steps: int = 1


def make_sigmas(
    noise_schedule: str,
    model_sigmas: ModelSigmas,
    num_inference_steps: int,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    rho: float | None = None,
    is_sdxl: bool = False,
) -> torch.Tensor:
    """Return the noise levels to walk down: (num_inference_steps + 1,), float32, strictly descending, the last 0.

    Three schedules differ because A1111's do: `kl_optimal` ends at sigma_min instead of 0; `ddim_uniform` has more
    steps than asked for where the number does not divide 1000 (31 for 30); `ddim_timesteps` has one step fewer.

    Args:
        noise_schedule: a name of `NOISE_SCHEDULES`.
        model_sigmas: the table of the model.
        num_inference_steps: how many steps.
        sigma_min: the last noise level before 0; the model's own if None.
        sigma_max: the first noise level; the model's own if None.
        rho: the curvature of `karras` (7 if None) and `polyexponential` (1 if None).
        is_sdxl: which of its two tables `align_your_steps` reads.

    Raises:
        ValueError: the schedule is unknown, does not take an argument that was given, or cannot make so many steps.
    """
    if noise_schedule not in NOISE_SCHEDULES:
        raise ValueError(f"{noise_schedule!r} is not a noise schedule; choose one of {', '.join(NOISE_SCHEDULES)}")
    row = NOISE_SCHEDULES[noise_schedule]
    if num_inference_steps < row.min_steps:
        raise ValueError(f"{noise_schedule} needs at least {row.min_steps} steps, got {num_inference_steps}")
    if noise_schedule not in SPANNED and (sigma_min is not None or sigma_max is not None):
        raise ValueError(f"{noise_schedule} takes its noise levels from the model: leave sigma_min and sigma_max out")
    if noise_schedule not in RHO and rho is not None:
        raise ValueError(f"{noise_schedule} has no rho: leave it out, or choose karras or polyexponential")
    if rho is not None and rho <= 0:
        raise ValueError(f"rho must be above 0, got {rho}")
    span = Span(
        sigma_min=model_sigmas.sigma_min if sigma_min is None else sigma_min,
        sigma_max=model_sigmas.sigma_max if sigma_max is None else sigma_max,
        rho=RHO.get(noise_schedule, 1.0) if rho is None else rho,
        is_sdxl=is_sdxl,
    )
    if not 0 < span.sigma_min < span.sigma_max:
        raise ValueError(f"sigma_min must be between 0 and sigma_max, got {span.sigma_min} and {span.sigma_max}")
    levels = torch.from_numpy(row.levels(model_sigmas, num_inference_steps, span)).float()
    if (levels.diff() >= 0).any():
        known = len(model_sigmas.sigmas)
        raise ValueError(f"{noise_schedule} cannot tell {num_inference_steps} steps apart: the model knows {known}")
    return torch.cat([levels, levels.new_zeros(1)]) if row.ends_at_zero else levels


def discard_next_to_last(sigmas: torch.Tensor) -> torch.Tensor:
    """Return sigmas without the last positive one: A1111's rule for some samplers (`Sampler.discards_next_to_last`).

    Such a sampler is given the schedule of one step more, so that the number of steps stays what was asked for.
    """
    return torch.cat([sigmas[:-2], sigmas[-1:]])


def _uniform(model: ModelSigmas, n: int, _: Span) -> Levels:
    """k-diffusion's DiscreteSchedule.get_sigmas: timesteps evenly from last to first."""
    return model.t_to_sigma(np.linspace(model.timesteps[-1], model.timesteps[0], n))


def _karras(_: ModelSigmas, n: int, span: Span) -> Levels:
    """arXiv:2206.00364, equation 5."""
    top, bottom = span.sigma_max ** (1 / span.rho), span.sigma_min ** (1 / span.rho)
    return np.asarray((top + np.linspace(0, 1, n) * (bottom - top)) ** span.rho)


def _exponential(_: ModelSigmas, n: int, span: Span) -> Levels:
    return np.exp(np.linspace(math.log(span.sigma_max), math.log(span.sigma_min), n))


def _polyexponential(_: ModelSigmas, n: int, span: Span) -> Levels:
    """As k-diffusion: a polynomial of degree rho in the logarithm."""
    ramp = np.linspace(1, 0, n) ** span.rho
    return np.asarray(np.exp(math.log(span.sigma_min) + ramp * math.log(span.sigma_max / span.sigma_min)))


def _normal(model: ModelSigmas, n: int, span: Span) -> Levels:
    first, last = model.sigma_to_t(np.array([span.sigma_max, span.sigma_min])).tolist()
    return model.t_to_sigma(np.linspace(first, last, n))


def _sgm_uniform(model: ModelSigmas, n: int, span: Span) -> Levels:
    """As `normal` with one step more, the last of which is left out."""
    return _normal(model, n + 1, span)[:-1]


def _beta(_: ModelSigmas, n: int, span: Span) -> Levels:
    """arXiv:2407.12173: quantiles of the beta distribution (0.6, 0.6), in sigma as in A1111 and diffusers."""
    quantiles = special.betaincinv(0.6, 0.6, np.linspace(1, 0, n))
    return np.asarray(span.sigma_min + quantiles * (span.sigma_max - span.sigma_min))


def _kl_optimal(_: ModelSigmas, n: int, span: Span) -> Levels:
    """arXiv:2404.14507, theorem 3.1: evenly in the arc tangent, n + 1 levels, as in the paper and in A1111."""
    return np.tan(np.linspace(math.atan(span.sigma_max), math.atan(span.sigma_min), n + 1))


_ALIGN_YOUR_STEPS_SD1 = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
_ALIGN_YOUR_STEPS_SDXL = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)


def _align_your_steps(_: ModelSigmas, n: int, span: Span) -> Levels:
    """arXiv:2404.14507: the authors' tables, log-linear between their entries."""
    table = _ALIGN_YOUR_STEPS_SDXL if span.is_sdxl else _ALIGN_YOUR_STEPS_SD1
    return np.exp(np.interp(np.linspace(0, 1, n), np.linspace(0, 1, len(table)), np.log(table)))


def _simple(model: ModelSigmas, n: int, _: Span) -> Levels:
    stride = len(model.sigmas) / n
    return np.asarray(model.sigmas[::-1][(np.arange(n) * stride).astype(int)])


def _ddim_uniform(model: ModelSigmas, n: int, _: Span) -> Levels:
    """Every (levels // n)-th level from the second on, however many that makes."""
    return model.sigmas[1 :: max(len(model.sigmas) // n, 1)][::-1].copy()


def _turbo(model: ModelSigmas, n: int, _: Span) -> Levels:
    """The last timestep of each of n equal parts (arXiv:2311.17042); Forge rounds halves to even."""
    last = len(model.sigmas) - 1
    index = np.arange(n, 0, -1) * (len(model.sigmas) / n) - 1
    return np.asarray(model.sigmas[np.clip(np.rint(index).astype(int), 0, last)])


def _unipc_timesteps(model: ModelSigmas, n: int, span: Span) -> Levels:
    """The UniPC authors' time_uniform: evenly from the last to the first timestep, log alpha linear between levels.

    A1111 asks for as many steps as DDIM has timesteps: 31 for 30.
    """
    num_steps = len(_ddim_uniform(model, n, span))
    log_alphas = -0.5 * np.log1p(model.sigmas**2)
    timesteps = np.linspace(model.timesteps[-1], model.timesteps[0], num_steps + 1)
    return np.asarray(np.sqrt(np.expm1(-2 * np.interp(timesteps, model.timesteps, log_alphas))))


NOISE_SCHEDULES: Mapping[str, NoiseSchedule] = MappingProxyType(
    {
        "uniform": NoiseSchedule(_uniform),
        "karras": NoiseSchedule(_karras),
        "exponential": NoiseSchedule(_exponential),
        "polyexponential": NoiseSchedule(_polyexponential),
        "sgm_uniform": NoiseSchedule(_sgm_uniform),
        "kl_optimal": NoiseSchedule(_kl_optimal, ends_at_zero=False),
        "align_your_steps": NoiseSchedule(_align_your_steps),
        "simple": NoiseSchedule(_simple),
        "normal": NoiseSchedule(_normal),
        "ddim_uniform": NoiseSchedule(_ddim_uniform),
        "beta": NoiseSchedule(_beta),
        "turbo": NoiseSchedule(_turbo),
        "ddim_timesteps": NoiseSchedule(_ddim_uniform, ends_at_zero=False, min_steps=2),
        "unipc_timesteps": NoiseSchedule(_unipc_timesteps, ends_at_zero=False),
    }
)
"""A function for every row of `pipelines.spec.schedulers.NOISE_SCHEDULES`."""
