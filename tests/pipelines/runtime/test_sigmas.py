"""Noise schedules against k-diffusion's and against formulas written out, and what they refuse."""

import numpy as np
import pytest
import torch

from pipelines.runtime.sigmas import NOISE_SCHEDULES, ModelSigmas, discard_next_to_last, make_sigmas
from pipelines.spec.schedulers import SCHEDULERS, SPANNED
from tests.pipelines.runtime.samplers.analytic import ALPHAS_CUMPROD, REFERENCE

MODEL = ModelSigmas.from_alphas_cumprod(ALPHAS_CUMPROD)
ARGUMENTS = {
    "karras-overridden": {"sigma_min": 0.1, "sigma_max": 10.0, "rho": 5.0},
    "polyexponential-overridden": {"sigma_min": 0.1, "sigma_max": 10.0, "rho": 2.0},
    "align_your_steps-sdxl": {"is_sdxl": True},
}
DATA = dict(np.load(REFERENCE))
STORED = [name for name in DATA if name.split()[0].split("-")[0] in NOISE_SCHEDULES]


@pytest.mark.parametrize("stored", STORED)
def test_a_schedule_has_the_numbers_of_the_reference(stored: str) -> None:
    name, num_steps = stored.split()

    sigmas = make_sigmas(name.split("-")[0], MODEL, int(num_steps), **ARGUMENTS.get(name, {}))

    assert sigmas.dtype == torch.float32
    np.testing.assert_allclose(sigmas, DATA[stored], rtol=1e-6, atol=1e-7)  # float32 holds 6e-8; reached: 2e-7


def test_every_schedule_that_can_be_chosen_is_in_the_reference() -> None:
    stored = {name.split()[0].split("-")[0] for name in STORED}

    assert stored == set(SCHEDULERS["euler"].noise_schedules)


@pytest.mark.parametrize("name", NOISE_SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 50, 999])
def test_a_schedule_descends_to_its_end(name: str, num_steps: int) -> None:
    if num_steps < NOISE_SCHEDULES[name].min_steps:
        with pytest.raises(ValueError, match="needs at least"):
            make_sigmas(name, MODEL, num_steps)
        return

    sigmas = make_sigmas(name, MODEL, num_steps)

    assert torch.isfinite(sigmas).all()
    assert (sigmas.diff() < 0).all()
    assert (float(sigmas[-1]) == 0) == NOISE_SCHEDULES[name].ends_at_zero


@pytest.mark.parametrize("name", sorted(SPANNED))
def test_a_span_is_kept_where_it_is_taken(name: str) -> None:
    sigmas = make_sigmas(name, MODEL, 10, sigma_min=0.1, sigma_max=10.0)

    positive = sigmas[sigmas > 0]
    assert float(positive[0]) == pytest.approx(10.0, rel=1e-5)
    assert float(positive[-1]) >= 0.1 * (1 - 1e-5)


def test_timesteps_and_sigmas_are_each_other_s_inverse() -> None:
    sigmas, timesteps = DATA["sigma_to_t"]

    found = MODEL.sigma_to_t(sigmas)

    np.testing.assert_allclose(found, timesteps, atol=1e-9)
    np.testing.assert_allclose(MODEL.t_to_sigma(found), sigmas.clip(MODEL.sigma_min, MODEL.sigma_max), rtol=1e-12)


def test_a_consistency_model_knows_every_twentieth_timestep() -> None:
    model = MODEL.every(20)

    timesteps = model.sigma_to_t(make_sigmas("uniform", model, 50)[:-1].double().numpy())

    np.testing.assert_allclose(timesteps, np.arange(999, 0, -20), atol=1e-4)


def test_a_terminal_signal_of_zero_becomes_a_finite_level() -> None:
    alphas_cumprod = ALPHAS_CUMPROD.clone()
    alphas_cumprod[-1] = 0

    sigmas = make_sigmas("karras", ModelSigmas.from_alphas_cumprod(alphas_cumprod), 10)

    assert float(sigmas[0]) == pytest.approx(4518.77, rel=1e-4)


def test_unipc_runs_from_the_last_timestep_to_the_first() -> None:
    sigmas = make_sigmas("unipc_timesteps", MODEL, 20)

    assert len(sigmas) == 21
    assert float(sigmas[0]) == pytest.approx(MODEL.sigma_max, rel=1e-6)
    assert float(sigmas[-1]) == pytest.approx(MODEL.sigma_min, rel=1e-6)
    evenly = np.linspace(999, 0, 21)
    np.testing.assert_allclose(MODEL.sigma_to_t(sigmas.double().numpy()), evenly, atol=0.003)


def test_the_next_to_last_level_is_discarded() -> None:
    assert discard_next_to_last(torch.tensor([9.0, 4.0, 1.0, 0.0])).tolist() == [9.0, 4.0, 0.0]


@pytest.mark.parametrize(
    ("name", "num_steps", "arguments", "says"),
    [
        ("fancy", 10, {}, "not a noise schedule"),
        ("karras", 0, {}, "at least 1"),
        ("uniform", 10, {"sigma_max": 10.0}, "leave sigma_min"),
        ("exponential", 10, {"rho": 2.0}, "has no rho"),
        ("karras", 10, {"rho": 0.0}, "above 0"),
        ("karras", 10, {"sigma_min": 20.0}, "between 0 and sigma_max"),
        ("turbo", 1500, {}, "cannot tell 1500 steps apart"),
    ],
)
def test_what_cannot_be_done_is_refused(name: str, num_steps: int, arguments: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make_sigmas(name, MODEL, num_steps, **arguments)


def test_the_exponential_schedule_keeps_to_its_formula_between_other_ends() -> None:
    """k-diffusion's get_sigmas_exponential: evenly in the logarithm."""
    sigmas = make_sigmas("exponential", MODEL, 7, sigma_min=0.1, sigma_max=10.0)

    expected = np.append(np.exp(np.linspace(np.log(10.0), np.log(0.1), 7)), 0)
    np.testing.assert_allclose(sigmas, expected, rtol=1e-6)
