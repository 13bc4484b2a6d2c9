"""Writes reference.npz: what k-diffusion 0.1.1.post1 computes, and for what it lacks, formulas of the papers.

Run in an environment of its own, from the root of the repository; nothing of the studio is imported.

    python -m venv kdiff && kdiff/bin/pip install k-diffusion==0.1.1.post1 torch torchvision 'setuptools<81'
    PYTHONPATH=. kdiff/bin/python tests/pipelines/runtime/samplers/make_reference.py

All is computed in float64. Samplers that k-diffusion lacks are written in the papers' own terms: latents of unit
variance, alphas_cumprod, predicted noise, whole timesteps. UniPC is compared with diffusers in the test instead.
"""

from collections.abc import Callable
from itertools import pairwise

import k_diffusion.external
import k_diffusion.sampling as k
import numpy as np
import torch
from scipy import stats

from tests.pipelines.runtime.samplers.analytic import (
    ALPHAS_CUMPROD,
    REFERENCE,
    RUNS,
    SHAPE,
    STEPS,
    CountedNoise,
    denoise,
    key,
    thinned,
    unit_noise,
)

SIGMAS = ((1 - ALPHAS_CUMPROD) / ALPHAS_CUMPROD).sqrt()
SIGMA_MIN, SIGMA_MAX = float(SIGMAS[0]), float(SIGMAS[-1])
K_SAMPLERS = {
    "euler": (k.sample_euler, {}),
    "euler_a": (k.sample_euler_ancestral, {}),
    "heun": (k.sample_heun, {}),
    "lms": (k.sample_lms, {}),
    "dpm2": (k.sample_dpm_2, {}),
    "dpm2_a": (k.sample_dpm_2_ancestral, {}),
    "dpmpp_2s_a": (k.sample_dpmpp_2s_ancestral, {}),
    "dpmpp_sde": (k.sample_dpmpp_sde, {}),
    "dpmpp_2m": (k.sample_dpmpp_2m, {}),
    "dpmpp_2m_sde": (k.sample_dpmpp_2m_sde, {}),
    "dpmpp_2m_sde_heun": (k.sample_dpmpp_2m_sde, {"solver_type": "heun"}),
    "dpmpp_3m_sde": (k.sample_dpmpp_3m_sde, {}),
}
DRAWS_ITSELF = {"euler", "heun", "dpm2"}
TAKES_NO_NOISE = {"lms", "dpmpp_2m"}


def main() -> None:
    torch.set_default_dtype(torch.float64)
    data = schedules() | brownian()
    for name, options, num_steps in RUNS:
        # The values that float32 holds, so that both sides walk down the very same levels.
        sigmas = k.get_sigmas_karras(num_steps, SIGMA_MIN, SIGMA_MAX).float().double()
        seen: list[torch.Tensor] = []
        result = run(name, options, sigmas, seen)
        data[f"result {key(name, options, num_steps)}"] = result.numpy().astype(np.float32)
        data[f"seen {key(name, options, num_steps)}"] = torch.stack(seen).numpy().astype(np.float32)
    np.savez_compressed(REFERENCE, **data)


def run(name: str, options: dict[str, float], sigmas: torch.Tensor, seen: list[torch.Tensor]) -> torch.Tensor:
    latents = unit_noise(0) * sigmas[0]
    counted = CountedNoise()
    if name in K_SAMPLERS:
        return by_k_diffusion(name, options, latents, sigmas, counted, seen)
    if name in {"dpm_fast", "dpm_adaptive"}:
        return by_dpm_solver(name, options, latents, sigmas, counted, seen)
    if name == "lcm":
        return lcm(latents, sigmas, counted, seen)
    if name == "restart":
        return restart(latents, sigmas, counted, seen)
    if name == "ddpm":
        return ddpm(unit_noise(0), sigmas, counted, seen)
    timesteps = (np.arange(0, 1000, 1000 // (len(sigmas) - 1)) + 1)[::-1]
    if name == "ddim":
        return ddim(unit_noise(0), timesteps, options.get("eta", 0.0), counted, seen)
    return plms(unit_noise(0), timesteps, seen)


def model(latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    return denoise(latents, float(sigma.flatten()[0]))


def by_k_diffusion(
    name: str,
    options: dict[str, float],
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    counted: CountedNoise,
    seen: list[torch.Tensor],
) -> torch.Tensor:
    sampler, arguments = K_SAMPLERS[name]
    if name in DRAWS_ITSELF:
        torch.randn_like = lambda x: counted.noise(x, 0, 0)
    elif name not in TAKES_NO_NOISE:
        arguments = arguments | {"noise_sampler": lambda sigma, sigma_next: counted.noise(latents, 0, 0)}
    callback = watch(seen)
    return sampler(model, latents, sigmas, callback=callback, disable=True, **arguments, **options)


def by_dpm_solver(
    name: str,
    options: dict[str, float],
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    counted: CountedNoise,
    seen: list[torch.Tensor],
) -> torch.Tensor:
    start = latents[:1] if name == "dpm_adaptive" else latents
    arguments = {"eta": 1.0} | options | {"noise_sampler": lambda sigma, sigma_next: counted.noise(start, 0, 0)}
    arguments |= {"sigma_min": float(sigmas[-2]), "sigma_max": float(sigmas[0]), "callback": watch(seen)}
    if name == "dpm_fast":
        return k.sample_dpm_fast(model, start, n=len(sigmas) - 1, disable=True, **arguments)
    return k.sample_dpm_adaptive(model, start, disable=True, **arguments)


def watch(seen: list[torch.Tensor]) -> Callable[[dict[str, torch.Tensor]], None]:
    """Return a callback for k-diffusion that keeps a part of every predicted original."""
    return lambda info: seen.append(thinned(info["denoised"]))


def lcm(latents: torch.Tensor, sigmas: torch.Tensor, counted: CountedNoise, seen: list[torch.Tensor]) -> torch.Tensor:
    """arXiv:2310.04378, Algorithm 3, with the boundary weights of 0 and 1."""
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        latents = denoise(latents, sigma)
        seen.append(thinned(latents))
        if sigma_next:
            latents = latents + sigma_next * counted.noise(latents, 0, 0)
    return latents


def restart(
    latents: torch.Tensor, sigmas: torch.Tensor, counted: CountedNoise, seen: list[torch.Tensor]
) -> torch.Tensor:
    """arXiv:2306.14878, Algorithm 1, with the interval [0.1, 2]; how many steps go there is A1111's rule."""
    levels, walk = sigmas, None
    num_steps = len(sigmas) - 1
    again, times = (9, 1) if num_steps < 36 else (num_steps // 4, 2)
    if num_steps >= 20:
        levels = k.get_sigmas_karras(num_steps - again * times, float(sigmas[-2]), float(sigmas[0]))
        low, high = ((levels - level).abs().argmin() for level in (0.1, 2.0))
        walk = k.get_sigmas_karras(again + 1, float(levels[low]), float(levels[high]))[:-1]

    def heun(x: torch.Tensor, path: torch.Tensor) -> torch.Tensor:
        torch.randn_like = torch.zeros_like
        return k.sample_heun(model, x, path, callback=watch(seen), disable=True)

    if walk is None:
        return heun(latents, levels)
    latents = heun(latents, levels[: low + 1])
    for _ in range(times):
        noise = counted.noise(latents, 0, 0)
        latents = heun(latents + noise * (walk[0] ** 2 - levels[low] ** 2).sqrt(), walk)
    return heun(latents, levels[low:])


def predicted_noise(latents: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return the noise in latents of unit variance: what a U-Net predicts."""
    sigma = ((1 - alpha) / alpha) ** 0.5
    original = denoise(latents / alpha**0.5, sigma)
    return (latents - alpha**0.5 * original) / (1 - alpha) ** 0.5


def ddim(
    latents: torch.Tensor, timesteps: np.ndarray, eta: float, counted: CountedNoise, seen: list[torch.Tensor]
) -> torch.Tensor:
    """arXiv:2010.02502, equations 12 and 16."""
    for timestep, timestep_next in pairwise(timesteps):
        alpha, alpha_next = float(ALPHAS_CUMPROD[timestep]), float(ALPHAS_CUMPROD[timestep_next])
        noise = predicted_noise(latents, alpha)
        original = (latents - (1 - alpha) ** 0.5 * noise) / alpha**0.5
        seen.append(thinned(original))
        spread = eta * ((1 - alpha_next) / (1 - alpha)) ** 0.5 * (1 - alpha / alpha_next) ** 0.5
        latents = alpha_next**0.5 * original + (1 - alpha_next - spread**2) ** 0.5 * noise
        latents = latents + spread * counted.noise(latents, 0, 0)
    return latents


def ddpm(latents: torch.Tensor, sigmas: torch.Tensor, counted: CountedNoise, seen: list[torch.Tensor]) -> torch.Tensor:
    """arXiv:2006.11239, Algorithm 2, with the variance of equation 7, on the levels of `sigmas`."""
    alphas_cumprod = (1 / (1 + sigmas**2)).tolist()
    latents = latents * float(sigmas[0]) * alphas_cumprod[0] ** 0.5
    for alpha_bar, alpha_bar_next in pairwise(alphas_cumprod):
        alpha = alpha_bar / alpha_bar_next
        noise = predicted_noise(latents, alpha_bar)
        seen.append(thinned((latents - (1 - alpha_bar) ** 0.5 * noise) / alpha_bar**0.5))
        latents = (latents - (1 - alpha) / (1 - alpha_bar) ** 0.5 * noise) / alpha**0.5
        if alpha_bar_next < 1:
            variance = (1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha)
            latents = latents + variance**0.5 * counted.noise(latents, 0, 0)
    return latents


def plms(latents: torch.Tensor, timesteps: np.ndarray, seen: list[torch.Tensor]) -> torch.Tensor:
    """arXiv:2202.09778, equations 11 (the transfer), 12 (Adams-Bashforth) and 21 (the first step)."""

    def transfer(noise: torch.Tensor, alpha: float, alpha_next: float) -> torch.Tensor:
        divisor = alpha**0.5 * (((1 - alpha_next) * alpha) ** 0.5 + ((1 - alpha) * alpha_next) ** 0.5)
        return (alpha_next / alpha) ** 0.5 * latents - (alpha_next - alpha) / divisor * noise

    past: list[torch.Tensor] = []
    for timestep, timestep_next in pairwise(timesteps):
        alpha, alpha_next = float(ALPHAS_CUMPROD[timestep]), float(ALPHAS_CUMPROD[timestep_next])
        past.append(predicted_noise(latents, alpha))
        seen.append(thinned((latents - (1 - alpha) ** 0.5 * past[-1]) / alpha**0.5))
        if len(past) == 1:
            following = predicted_noise(transfer(past[0], alpha, alpha_next), alpha_next)
            noise = (past[0] + following) / 2
        elif len(past) == 2:
            noise = (3 * past[-1] - past[-2]) / 2
        elif len(past) == 3:
            noise = (23 * past[-1] - 16 * past[-2] + 5 * past[-3]) / 12
        else:
            noise = (55 * past[-1] - 59 * past[-2] + 37 * past[-3] - 9 * past[-4]) / 24
        latents = transfer(noise, alpha, alpha_next)
    return latents


def schedules() -> dict[str, np.ndarray]:
    """Return noise levels. karras, exponential, polyexponential and default are k-diffusion's own."""
    table = k_diffusion.external.DiscreteSchedule(SIGMAS, quantize=False)
    data: dict[str, np.ndarray] = {}
    for n in (1, 2, *STEPS, 30):
        data[f"uniform {n}"] = table.get_sigmas(n).numpy()
        data[f"karras {n}"] = k.get_sigmas_karras(n, SIGMA_MIN, SIGMA_MAX).numpy()
        data[f"karras-overridden {n}"] = k.get_sigmas_karras(n, 0.1, 10.0, rho=5.0).numpy()
        data[f"exponential {n}"] = k.get_sigmas_exponential(n, SIGMA_MIN, SIGMA_MAX).numpy()
        data[f"polyexponential {n}"] = k.get_sigmas_polyexponential(n, SIGMA_MIN, SIGMA_MAX).numpy()
        data[f"polyexponential-overridden {n}"] = k.get_sigmas_polyexponential(n, 0.1, 10.0, rho=2.0).numpy()
        for name, levels in written_out(table, n).items():
            data[f"{name} {n}"] = np.array(levels)
    sigmas = torch.tensor([0.01, 0.03, 0.5, 1.0, 7.7, 14.0, 15.0])
    data["sigma_to_t"] = np.stack([sigmas.numpy(), table.sigma_to_t(sigmas).numpy()])
    return data


def written_out(table: k_diffusion.external.DiscreteSchedule, n: int) -> dict[str, list[float]]:
    """Return what k-diffusion lacks, level by level, from words: "every so many timesteps", "quantiles of", …"""
    sigmas = SIGMAS.tolist()
    whole = np.linspace(999, 0, n + 1)
    levels = {
        # Stability AI's generative-models: n parts of the timesteps, each entered at its top.
        "sgm_uniform": [float(table.t_to_sigma(torch.tensor(t))) for t in whole[:-1]] + [0.0],
        "normal": [float(table.t_to_sigma(torch.tensor(t))) for t in np.linspace(999, 0, n)] + [0.0],
        # arXiv:2407.12173, figure 1, with diffusers' _convert_to_beta: quantiles between sigma_min and sigma_max.
        "beta": [
            SIGMA_MIN + float(stats.beta.ppf(1 - part, 0.6, 0.6)) * (SIGMA_MAX - SIGMA_MIN)
            for part in np.linspace(0, 1, n)
        ]
        + [0.0],
        # arXiv:2404.14507, equation 20.
        "kl_optimal": [
            float(np.tan(i / n * np.arctan(SIGMA_MIN) + (1 - i / n) * np.arctan(SIGMA_MAX))) for i in range(n + 1)
        ],
        "simple": [sigmas[999 - int(i * 1000 / n)] for i in range(n)] + [0.0],
        "ddim_uniform": [sigmas[t] for t in reversed(range(1, 1000, 1000 // n))] + [0.0],
        # Stability AI's ADD, arXiv:2311.17042: the last timestep of each part.
        "turbo": [sigmas[round(i * 1000 / n - 1)] for i in range(n, 0, -1)] + [0.0],
    }
    # The authors' notebook, https://research.nvidia.com/labs/toronto-ai/AlignYourSteps/howto.html.
    for name, known in {
        "align_your_steps": [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029],
        "align_your_steps-sdxl": [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029],
    }.items():
        if n > 1:
            rising = np.interp(np.linspace(0, 1, n), np.linspace(0, 1, 11), np.log(known[::-1]))
            levels[name] = [*np.exp(rising)[::-1].tolist(), 0.0]
    return levels


def brownian() -> dict[str, np.ndarray]:
    """Return k-diffusion's own noise for two seeds, on the levels of a schedule and between them, in float32."""
    sigmas = k.get_sigmas_karras(10, SIGMA_MIN, SIGMA_MAX).float()
    latents = torch.zeros(SHAPE, dtype=torch.float32)
    sampler = k.BrownianTreeNoiseSampler(latents, sigmas[-2], sigmas[0], seed=[3, 1234567890123])
    steps = [(0, 1), (1, 2), (4, 5), (8, 9), (2, 6)]
    drawn = [sampler(sigmas[i], sigmas[j]).numpy() for i, j in steps]
    return {
        "brownian-levels": np.array([[float(sigmas[i]) for i in step] for step in steps]),
        "brownian": np.stack(drawn),
    }


if __name__ == "__main__":
    main()
