"""What tests and make_reference.py share: a denoiser that is known exactly, latents and noise without a random seed."""

import json
from pathlib import Path

import torch

CENTRES = (-1.1, 0.2, 1.4)
SPREAD = 0.3
SHAPE = (2, 4, 4, 4)
REFERENCE = Path(__file__).with_name("reference.npz")

# Stable Diffusion's training schedule.
ALPHAS_CUMPROD = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)

CHURN = {"s_churn": 5.0, "s_tmin": 0.1, "s_tmax": 5.0, "s_noise": 1.01}
PLAIN = (
    *("euler", "euler_a", "heun", "lms", "dpm2", "dpm2_a", "dpmpp_2s_a", "dpmpp_sde", "dpmpp_2m", "dpmpp_2m_sde"),
    *("dpmpp_2m_sde_heun", "dpmpp_3m_sde", "dpm_fast", "dpm_adaptive", "restart", "lcm", "ddim", "plms", "ddpm"),
)
CASES = [
    *((name, {}) for name in PLAIN),
    ("euler", CHURN),
    ("heun", CHURN),
    ("dpm2", CHURN),
    ("euler_a", {"eta": 0.5, "s_noise": 1.02}),
    ("dpm2_a", {"eta": 0.5, "s_noise": 1.02}),
    ("dpmpp_2s_a", {"eta": 0.5, "s_noise": 1.02}),
    ("dpmpp_sde", {"eta": 0.5, "s_noise": 1.02}),
    ("dpmpp_2m_sde", {"eta": 0.0}),
    ("dpmpp_3m_sde", {"eta": 0.5, "s_noise": 1.02}),
    ("dpm_fast", {"eta": 0.0}),
    ("dpm_adaptive", {"eta": 0.0}),
    ("ddim", {"eta": 0.7}),
]
STEPS = (10, 20)
RUNS = [
    *((name, options, num_steps) for num_steps in STEPS for name, options in CASES),
    ("dpm_fast", {}, 12),  # a multiple of 3 ends in steps of second and first order
    ("restart", {}, 40),  # from 36 steps on the way back is walked twice
]


def key(name: str, options: dict[str, float], num_steps: int) -> str:
    return f"{name} {json.dumps(options)} {num_steps}"


def denoise(latents: torch.Tensor, sigma: float) -> torch.Tensor:
    """Return the posterior mean where every number is drawn from the same mixture of three normal distributions."""
    variance = sigma**2 + SPREAD**2
    centres = torch.tensor(CENTRES, dtype=latents.dtype).reshape(-1, 1, 1, 1, 1)
    weights = torch.softmax(-((latents - centres) ** 2) / (2 * variance), dim=0)
    return (weights * (centres * sigma**2 + latents * SPREAD**2) / variance).sum(0)


def unit_noise(call: int, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    """Return numbers of variance about 1 that differ from call to call: float64."""
    place = torch.arange(torch.Size(shape).numel(), dtype=torch.float64).reshape(shape)
    return 2**0.5 * torch.cos(2.3 * place + 1.7 * call + 0.4)


class CountedNoise:
    """Step noise that is the same function of the call in k-diffusion and here."""

    def __init__(self) -> None:
        self.calls = 0

    def noise(self, latents_like: torch.Tensor, sigma: float, sigma_next: float) -> torch.Tensor:
        self.calls += 1
        return unit_noise(self.calls, tuple(latents_like.shape)).to(latents_like)


def thinned(latents: torch.Tensor) -> torch.Tensor:
    """Return every eighth number: what is stored of each step."""
    return latents.flatten()[::8]
