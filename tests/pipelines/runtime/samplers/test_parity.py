"""Every sampler, step by step, against k-diffusion, the paper's formulas (make_reference.py) or diffusers."""

import numpy as np
import pytest
import torch
from diffusers import DEISMultistepScheduler, SASolverScheduler, TCDScheduler, UniPCMultistepScheduler
from diffusers.schedulers import scheduling_sasolver, scheduling_tcd

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


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # theirs: numpy's log of a tensor
@pytest.mark.parametrize("num_steps", [1, 2, 3, 10, 14, 15, 20])
def test_deis_is_that_of_diffusers(num_steps: int) -> None:
    """On levels that end above 0, as diffusers': at 0, its coefficients are not numbers."""
    sigmas = make_sigmas("kl_optimal", MODEL, num_steps)
    scheduler = DEISMultistepScheduler(prediction_type="sample")
    scheduler.set_timesteps(num_steps)
    scheduler.sigmas = sigmas

    result, theirs = both("deis", scheduler, torch.arange(num_steps, 0, -1), sigmas)

    np.testing.assert_allclose(result, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("eta", [None, 0.0, 0.5, 1.0])
@pytest.mark.parametrize("num_steps", [1, 2, 4, 8, 50])
def test_tcd_is_that_of_diffusers(num_steps: int, eta: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the levels of diffusers' timesteps, to timestep 0, where it ends."""
    scheduler = TCDScheduler(prediction_type="sample")
    scheduler.set_timesteps(num_steps)
    levels = MODEL.t_to_sigma(np.array([*scheduler.timesteps.tolist(), 0]))
    options = {} if eta is None else {"eta": eta}

    result, theirs = both(
        "tcd", scheduler, scheduler.timesteps, torch.from_numpy(levels).float(), monkeypatch=monkeypatch, **options
    )

    np.testing.assert_allclose(result, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("eta", [None, 0.0, 0.5])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 10, 20])
def test_sa_solver_is_that_of_diffusers(num_steps: int, eta: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    sigmas = make_sigmas("kl_optimal", MODEL, num_steps)
    tau = None if eta is None else lambda timestep: eta if 200 <= timestep <= 800 else 0
    scheduler = SASolverScheduler(prediction_type="sample", tau_func=tau)
    scheduler.set_timesteps(num_steps)
    scheduler.sigmas = sigmas
    timesteps = torch.from_numpy(MODEL.sigma_to_t(sigmas[:-1].double().numpy()))
    options = {} if eta is None else {"eta": eta}

    result, theirs = both("sa_solver", scheduler, timesteps, sigmas, monkeypatch=monkeypatch, **options)

    np.testing.assert_allclose(result, theirs, rtol=0, atol=TOLERANCE)


def both(
    name: str,
    scheduler: DEISMultistepScheduler | TCDScheduler | SASolverScheduler,
    timesteps: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    monkeypatch: pytest.MonkeyPatch | None = None,
    **options: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return latents as our sampler and as a diffusers scheduler leaves them, from the same noise at every step."""
    start = (unit_noise(0) * float(sigmas[0])).float()
    if monkeypatch is not None:  # diffusers draws its noise itself
        counted = CountedNoise()
        for module in (scheduling_tcd, scheduling_sasolver):
            monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: counted.noise(start, 0, 0))
    scheduler.timesteps = timesteps
    scheduler.set_begin_index(0)
    theirs = start / (1 + sigmas[0] ** 2).sqrt()
    for timestep, sigma in zip(timesteps, sigmas.tolist(), strict=False):
        original = denoise(theirs * (1 + sigma**2) ** 0.5, sigma)
        arguments = options if isinstance(scheduler, TCDScheduler) else {}
        theirs = scheduler.step(original, timestep, theirs, return_dict=False, **arguments)[0]
    ours = SAMPLERS[name](
        denoise,
        start,
        sigmas,
        noise=NoNoise() if monkeypatch is None else CountedNoise(),
        options=SamplerOptions(**options, model_sigmas=MODEL),
        on_step=lambda *_: None,
    )
    return ours, theirs * (1 + sigmas[-1] ** 2).sqrt()


def test_every_sampler_is_compared() -> None:
    assert {name for name, _, _ in RUNS} | {"unipc", "deis", "tcd", "sa_solver"} == set(SAMPLERS)
