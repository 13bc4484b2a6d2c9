"""What holds for every row of the sampler table: each image alone, repeatable, from one step up, from any start."""

import pytest
import torch

from pipelines.runtime.samplers import SAMPLERS
from pipelines.runtime.samplers.brownian import BrownianNoise
from pipelines.runtime.samplers.interface import Denoise, OnStep, SamplerOptions, StepNoise
from pipelines.runtime.sigmas import NOISE_SCHEDULES, ModelSigmas, make_sigmas
from pipelines.spec.schedulers import SCHEDULERS
from tests.pipelines.runtime.samplers.analytic import ALPHAS_CUMPROD, denoise
from tests.pipelines.runtime.samplers.step_noise import AncestralNoise, NoNoise, on_the_processor

MODEL = ModelSigmas.from_alphas_cumprod(ALPHAS_CUMPROD)
SEEDS = (5, 6, 7)
IMAGE = (4, 5, 3)
NAMES = list(SAMPLERS)
TAKE_NO_NOISE = {"euler", "heun", "lms", "dpm2", "dpmpp_2m", "plms", "unipc", "deis"}
OPTIONS = SamplerOptions(model_sigmas=MODEL)


def one_by_one(latents: torch.Tensor, sigma: float) -> torch.Tensor:
    """Denoise each image in memory of its own: vectors and their remainders are not rounded alike."""
    return torch.cat([denoise(image.clone(), sigma) for image in latents.split(1)])


def paint(
    name: str,
    seeds: tuple[int, ...],
    sigmas: torch.Tensor,
    *,
    options: SamplerOptions | None = None,
    on_step: OnStep = lambda *_: None,
    denoiser: Denoise = one_by_one,
) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    latents = torch.stack([torch.randn(IMAGE, generator=generator) for generator in generators]) * float(sigmas[0])
    positive = sigmas[sigmas > 0]
    noise: StepNoise = AncestralNoise(generators)
    if SCHEDULERS[name].has_brownian_noise:
        noise = BrownianNoise(
            seeds, IMAGE, sigma_min=float(positive[-1]), sigma_max=float(sigmas[0]), draw=on_the_processor
        )
    elif name in TAKE_NO_NOISE and (options is None or not options.s_churn):
        noise = NoNoise()
    return SAMPLERS[name](denoiser, latents, sigmas, noise=noise, options=options or OPTIONS, on_step=on_step)


@pytest.mark.parametrize("name", [name for name in NAMES if not SCHEDULERS[name].one_image_at_a_time])
def test_an_image_is_the_same_alone_and_in_a_batch(name: str) -> None:
    sigmas = make_sigmas("karras", MODEL, 21)

    together = paint(name, SEEDS, sigmas)

    for place, seed in enumerate(SEEDS):
        assert torch.equal(paint(name, (seed,), sigmas)[0], together[place])


@pytest.mark.parametrize("name", ["euler", "heun", "dpm2"])
def test_an_image_is_the_same_alone_and_in_a_batch_when_churned(name: str) -> None:
    sigmas = make_sigmas("karras", MODEL, 10)
    options = SamplerOptions(s_churn=4.0)

    together = paint(name, SEEDS, sigmas, options=options)

    assert torch.equal(paint(name, SEEDS[1:2], sigmas, options=options)[0], together[1])
    assert not torch.equal(paint(name, SEEDS, sigmas), together)


def test_dpm_adaptive_refuses_a_batch() -> None:
    with pytest.raises(ValueError, match="one by one"):
        paint("dpm_adaptive", SEEDS, make_sigmas("karras", MODEL, 10))


def test_dpm_adaptive_ends_when_the_model_fails() -> None:
    def broken(latents: torch.Tensor, sigma: float) -> torch.Tensor:
        return torch.full_like(latents, torch.nan)

    result = paint("dpm_adaptive", (5,), make_sigmas("karras", MODEL, 10), denoiser=broken)

    assert result.isnan().all()


@pytest.mark.parametrize("name", NAMES)
def test_the_same_arguments_give_the_same_image(name: str) -> None:
    sigmas = make_sigmas("karras", MODEL, 10)

    assert torch.equal(paint(name, (5,), sigmas), paint(name, (5,), sigmas))
    assert not torch.equal(paint(name, (5,), sigmas), paint(name, (6,), sigmas))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 20])
@pytest.mark.parametrize("schedule", ["karras", "kl_optimal", "ddim_timesteps"])
def test_any_number_of_steps_ends_in_an_image(name: str, num_steps: int, schedule: str) -> None:
    """`kl_optimal` and `ddim_timesteps` end above 0. Few steps overshoot; 20 end among the centres of the mixture."""
    if num_steps < NOISE_SCHEDULES[schedule].min_steps:
        return
    sigmas = make_sigmas(schedule, MODEL, num_steps)
    if (sigmas > 0).sum() < 2 and name in {"dpm_fast", "dpm_adaptive"}:
        with pytest.raises(ValueError, match="at least 2 steps"):
            paint(name, (5,), sigmas)
        return

    result = paint(name, (5,), sigmas)

    assert torch.isfinite(result).all()
    assert result.abs().max() < (3 if num_steps == 20 and schedule == "karras" else 3 * MODEL.sigma_max)


@pytest.mark.parametrize("name", NAMES)
def test_the_tail_of_a_schedule_keeps_what_is_there(name: str) -> None:
    """Image to image: a noisy image entered low comes out near the image it was."""
    sigmas = make_sigmas("karras", MODEL, 20)[-6:]
    image = torch.full((1, *IMAGE), 1.4)
    noise = AncestralNoise([torch.Generator().manual_seed(1)])
    brownian = BrownianNoise((1,), IMAGE, sigma_min=float(sigmas[-2]), sigma_max=MODEL.sigma_max, draw=on_the_processor)
    start = image + noise.noise(image, 0, 0) * float(sigmas[0])

    result = SAMPLERS[name](
        denoise,
        start,
        sigmas,
        noise=brownian if SCHEDULERS[name].has_brownian_noise else noise,
        options=OPTIONS,
        on_step=lambda *_: None,
    )

    assert (result - image).abs().mean() < 0.35


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_steps", [2, 3, 4, 9, 20, 40])
def test_a_sampler_costs_what_its_row_says(name: str, num_steps: int) -> None:
    evaluated: list[float] = []
    told: list[int] = []

    def counting(latents: torch.Tensor, sigma: float) -> torch.Tensor:
        evaluated.append(sigma)
        return denoise(latents, sigma)

    paint(
        name,
        (5,),
        make_sigmas("karras", MODEL, num_steps),
        denoiser=counting,
        on_step=lambda index, _: told.append(index),
    )

    spec = SCHEDULERS[name]
    assert told == list(range(len(told)))
    assert spec.evaluations(num_steps) in {len(evaluated), None}
    assert spec.steps(num_steps) in {len(told), None}
    assert all(sigma > 0 for sigma in evaluated)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_names_what_exists(name: str) -> None:
    spec = SCHEDULERS[name]

    assert SAMPLERS[name].__name__ == name  # type: ignore[attr-defined]
    assert [other.label for other in SCHEDULERS.values()].count(spec.label) == 1
    assert make_sigmas(spec.noise_schedule, MODEL.every(spec.timestep_stride), 10).isfinite().all()


def test_the_table_holds_what_a1111_and_diffusers_offer() -> None:
    assert SAMPLERS.keys() == SCHEDULERS.keys()
    assert {spec.label for spec in SCHEDULERS.values()} == {
        *("DPM++ 2M", "DPM++ SDE", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 2S a", "DPM++ 3M SDE", "Euler a"),
        *("Euler", "LMS", "Heun", "DPM2", "DPM2 a", "DPM fast", "DPM adaptive", "Restart", "DDIM", "PLMS", "UniPC"),
        *("LCM", "DDPM", "DEIS", "TCD", "SA-Solver"),
    }
    assert {name for name, spec in SCHEDULERS.items() if spec.discards_next_to_last} == {
        "dpm2",
        "dpm2_a",
        "dpmpp_3m_sde",
    }


@pytest.mark.parametrize("name", ["tcd", "sa_solver"])
def test_a_sampler_that_reckons_in_timesteps_says_so(name: str) -> None:
    with pytest.raises(ValueError, match="model_sigmas"):
        paint(name, (5,), make_sigmas("karras", MODEL, 4), options=SamplerOptions())
