"""Each row of the two tables does what its name says, whatever the model's own configuration holds."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler

from pipelines.runtime.noise import generator_for
from pipelines.runtime.scheduling import make_scheduler, set_timesteps, step_noise
from pipelines.spec.schedulers import NOISE_SCHEDULES, SCHEDULERS
from tests.pipelines.tiny_models import SCHEDULER_CONFIG

CPU = torch.device("cpu")
PAIRS = [
    (name, noise) for name, spec in SCHEDULERS.items() for noise in NOISE_SCHEDULES if noise in spec.noise_schedules
]


def build(scheduler: str, noise_schedule: str = "default", *, steps: int = 10, **config: Any) -> Any:
    made = make_scheduler({**SCHEDULER_CONFIG, **config}, scheduler=scheduler, noise_schedule=noise_schedule)
    set_timesteps(made, num_inference_steps=steps, strength=None, device=CPU)
    return made


def noise_levels(scheduler: Any) -> np.ndarray:
    """Return sigma = sqrt((1 - alpha) / alpha) at every step, from sigmas where there are any, else from timesteps."""
    if hasattr(scheduler, "sigmas"):
        levels = scheduler.sigmas[:-1].numpy()
        return levels[::2] if scheduler.order == 2 else levels
    alphas = scheduler.alphas_cumprod[scheduler.timesteps].numpy()
    return np.sqrt((1 - alphas) / alphas)


@pytest.mark.parametrize(("scheduler", "noise_schedule"), PAIRS)
def test_every_pair_makes_falling_noise_levels(scheduler: str, noise_schedule: str) -> None:
    made = build(scheduler, noise_schedule)

    levels = noise_levels(made)
    assert type(made).__name__ == SCHEDULERS[scheduler].class_name
    assert len(levels) == 10
    assert (np.diff(levels) < 0).all()


@pytest.mark.parametrize("scheduler", [name for name, spec in SCHEDULERS.items() if "karras" in spec.noise_schedules])
def test_karras_levels_follow_the_paper(scheduler: str) -> None:
    """arXiv:2206.00364, equation 5, with rho = 7: the seventh roots are evenly spaced."""
    roots = noise_levels(build(scheduler, "karras")) ** (1 / 7)

    np.testing.assert_allclose(np.diff(roots), np.diff(roots)[0], rtol=1e-3)
    assert not np.allclose(np.diff(noise_levels(build(scheduler)) ** (1 / 7)), np.diff(roots)[0], rtol=1e-2)


@pytest.mark.parametrize(
    "scheduler", [name for name, spec in SCHEDULERS.items() if "exponential" in spec.noise_schedules]
)
def test_exponential_levels_fall_by_one_factor(scheduler: str) -> None:
    logarithms = np.log(noise_levels(build(scheduler, "exponential")))

    np.testing.assert_allclose(np.diff(logarithms), np.diff(logarithms)[0], rtol=1e-3)
    assert not np.allclose(np.diff(np.log(noise_levels(build(scheduler)))), np.diff(logarithms)[0], rtol=1e-2)


@pytest.mark.parametrize(
    "scheduler", [name for name, spec in SCHEDULERS.items() if "sgm_uniform" in spec.noise_schedules]
)
def test_sgm_uniform_starts_at_the_last_training_step_and_is_even(scheduler: str) -> None:
    timesteps = build(scheduler, "sgm_uniform").timesteps.float().unique().flip(0)

    assert timesteps.tolist() == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_one_samplers_settings_in_a_models_file_do_not_leak_into_another(scheduler: str) -> None:
    foreign = {
        "use_karras_sigmas": True,
        "use_lu_lambdas": True,
        "algorithm_type": "sde-dpmsolver++",
        "solver_order": 3,
        "final_sigmas_type": "sigma_min",
        "sigma_max": 3.0,
        "thresholding": True,
        "timestep_type": "continuous",
        "original_inference_steps": 11,
        "_use_default_values": ["beta_start"],
        "_class_name": "EDMEulerScheduler",
    }
    clean, leaky = build(scheduler), build(scheduler, **foreign)

    assert leaky.timesteps.tolist() == clean.timesteps.tolist()
    assert dict(leaky.config) == dict(clean.config)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_what_a_model_was_trained_with_is_kept(scheduler: str) -> None:
    config = build(scheduler, prediction_type="v_prediction", beta_end=0.013, steps_offset=0).config

    assert (config.prediction_type, config.beta_end, config.steps_offset) == ("v_prediction", 0.013, 0)


def test_ddim_does_not_clip_latents_when_a_models_file_is_silent() -> None:
    silent = {key: value for key, value in SCHEDULER_CONFIG.items() if key != "clip_sample"}

    assert make_scheduler(silent, scheduler="ddim", noise_schedule="default").config.clip_sample is False


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(("strength", "remaining"), [(None, 10), (1.0, 10), (0.75, 7), (0.1, 1)])
def test_strength_leaves_the_last_part_of_the_schedule(scheduler: str, strength: float | None, remaining: int) -> None:
    made = build(scheduler)
    whole = made.timesteps.tolist()
    timesteps = set_timesteps(made, num_inference_steps=10, strength=strength, device=CPU)

    assert timesteps.tolist() == whole[len(whole) - len(timesteps) :]
    assert -(-len(timesteps) // made.order) == remaining


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_only_stochastic_schedulers_draw_and_only_from_the_pictures_generator(scheduler: str) -> None:
    def run(seed: int) -> tuple[torch.Tensor, bool]:
        made, generator = build(scheduler), generator_for(seed)
        before = generator.get_state()
        latents = torch.full((1, 4, 4, 4), 2.0)
        for timestep in made.timesteps:
            prediction = made.scale_model_input(latents, timestep) / 2
            latents = made.step(prediction, timestep, latents, **step_noise(made, generator), return_dict=False)[0]
        return latents, not torch.equal(before, generator.get_state())

    torch.manual_seed(0)
    first, drew = run(1)
    torch.manual_seed(1)
    again, _ = run(1)
    other, _ = run(2)

    assert torch.equal(first, again), "noise came from torch's global generator"
    assert drew is SCHEDULERS[scheduler].is_stochastic
    assert torch.equal(first, other) is not SCHEDULERS[scheduler].is_stochastic


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_table_knows_how_often_the_denoiser_runs(scheduler: str) -> None:
    assert build(scheduler).order == SCHEDULERS[scheduler].evaluations_per_step


def test_configurations_come_from_disk_as_json() -> None:
    """Euler's saved file, defaults spelled out, gives the levels that Euler itself gives."""
    saved = json.loads(
        EulerDiscreteScheduler(**{k: v for k, v in SCHEDULER_CONFIG.items() if "beta" in k}).to_json_string()
    )
    theirs = EulerDiscreteScheduler.from_config(saved)
    theirs.set_timesteps(10)
    made = make_scheduler(saved, scheduler="euler", noise_schedule="default")
    set_timesteps(made, num_inference_steps=10, strength=None, device=CPU)

    assert torch.equal(made.sigmas, theirs.sigmas)
