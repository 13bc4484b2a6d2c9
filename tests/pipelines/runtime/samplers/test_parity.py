"""Every sampler, step by step, against k-diffusion, the paper's formulas (make_reference.py) or diffusers."""

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler

from pipelines.runtime.samplers import SAMPLERS
from pipelines.runtime.samplers.interface import SamplerOptions
from pipelines.runtime.sigmas import ModelSigmas, make_sigmas
from pipelines.spec.schedulers import SCHEDULERS
from tests.pipelines.runtime.samplers.analytic import (
    ALPHAS_CUMPROD,
    REFERENCE,
    RUNS,
    CountedNoise,
    denoise,
    key,
    thinned,
    unit_noise,
)
from tests.pipelines.runtime.samplers.step_noise import NoNoise

MODEL = ModelSigmas.from_alphas_cumprod(ALPHAS_CUMPROD)
DATA = dict(np.load(REFERENCE))

TOLERANCE = 2e-5
"""The reference is float64, ours float32. Reached: 5e-6 by DPM fast, 2e-6 and below by all others.

DPM adaptive is compared in float64: without noise its first errors are all rounding, and the step lengths follow them
(k-diffusion in float32 is 1.4e-3 away from itself in float64). Reached: 6e-8.
"""


@pytest.mark.parametrize(("name", "options", "num_steps"), RUNS)
def test_a_sampler_walks_the_way_of_the_reference(name: str, options: dict[str, float], num_steps: int) -> None:
    spec = SCHEDULERS[name]
    schedule = "ddim_timesteps" if name in {"ddim", "plms"} else "karras"
    sigmas = make_sigmas(schedule, MODEL, num_steps)
    scale = (1 + sigmas[0] ** 2).sqrt() if spec.starts_at_unit_variance else sigmas[0]
    start = (unit_noise(0) * float(scale)).to(torch.float64 if name == "dpm_adaptive" else torch.float32)
    seen: list[torch.Tensor] = []

    result = SAMPLERS[name](
        denoise,
        start[:1] if spec.one_image_at_a_time else start,
        sigmas,
        noise=CountedNoise(),
        options=SamplerOptions(**options),
        on_step=lambda _, denoised: seen.append(thinned(denoised)),
    )

    stored = key(name, options, num_steps)
    np.testing.assert_allclose(torch.stack(seen), DATA[f"seen {stored}"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(result, DATA[f"result {stored}"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("num_steps", [3, 10, 20])
def test_unipc_is_that_of_diffusers(num_steps: int) -> None:
    """On levels that end above 0, as A1111 runs it: at 0, diffusers' bh1 is not a number."""
    sigmas = make_sigmas("kl_optimal", MODEL, num_steps)
    start = (unit_noise(0) * float(sigmas[0])).float()
    scheduler = UniPCMultistepScheduler(
        solver_order=3, solver_type="bh1", predict_x0=True, lower_order_final=True, prediction_type="sample"
    )
    scheduler.set_timesteps(num_steps)
    scheduler.sigmas = sigmas
    scheduler.timesteps = torch.arange(num_steps, 0, -1)
    latents = start / (1 + sigmas[0] ** 2).sqrt()
    for index, timestep in enumerate(scheduler.timesteps):
        sigma = float(sigmas[index])
        original = denoise(latents * (1 + sigma**2) ** 0.5, sigma)
        latents = scheduler.step(original, timestep, latents, return_dict=False)[0]

    result = SAMPLERS["unipc"](
        denoise, start, sigmas, noise=NoNoise(), options=SamplerOptions(), on_step=lambda *_: None
    )

    np.testing.assert_allclose(result, latents, rtol=0, atol=TOLERANCE)


def test_every_sampler_is_compared() -> None:
    assert {name for name, _, _ in RUNS} | {"unipc"} == set(SAMPLERS)
