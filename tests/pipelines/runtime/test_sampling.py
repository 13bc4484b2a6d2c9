"""Which noise levels a scheduler walks down: what its row of the table says of them."""

import numpy as np
import pytest
import torch

from pipelines.runtime.loading import Components, ModelCache
from pipelines.runtime.sampling import count_steps, noise_levels
from pipelines.spec.model import Model
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import resolve
from pipelines.spec.schedulers import SCHEDULERS

STEPS = 5
PAPER = {
    "sd1": [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029, 0],
    "sdxl": [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029, 0],
}
"""arXiv:2404.14507, of 10 steps; the last step to 0 is A1111's."""


@pytest.fixture(scope="module")
def loaded(sd1: Model, sdxl: Model) -> dict[str, tuple[Model, Components]]:
    cache = ModelCache(torch.device("cpu"), dtype=torch.float32, max_bytes=10**9)
    return {model.name: (model, cache.get(model)) for model in (sd1, sdxl)}


def levels(loaded: tuple[Model, Components], scheduler: str, *, steps: int = STEPS, **fields: str) -> list[float]:
    model, components = loaded
    asked = GenerationRequest.parse({"scheduler": scheduler, "num_inference_steps": steps, **fields})
    return noise_levels(resolve(asked, model)[0], components).tolist()


@pytest.mark.parametrize("scheduler", [name for name, row in SCHEDULERS.items() if not row.ignores_schedule])
def test_karras_ends_where_the_table_says(loaded: dict[str, tuple[Model, Components]], scheduler: str) -> None:
    """arXiv:2206.00364, equation 5, between the levels that the scheduler knows."""
    row, table = SCHEDULERS[scheduler], loaded["sd1"][1].sigmas.sigmas
    last = {1: table[0], 20: table[19]}[row.timestep_stride]
    number = {False: STEPS, True: STEPS + 1}[row.discards_next_to_last]
    whole = np.linspace(table[999] ** (1 / 7), last ** (1 / 7), number) ** 7

    walked = levels(loaded["sd1"], scheduler, noise_schedule="karras")

    np.testing.assert_allclose(walked, [*whole[:STEPS], 0], rtol=1e-6)


def test_which_rows_leave_out_a_level_or_skip_timesteps() -> None:
    """As sd_samplers_kdiffusion.py and sd_samplers_lcm.py of A1111 say."""
    assert {name for name, row in SCHEDULERS.items() if row.discards_next_to_last} == {"dpm2", "dpm2_a", "dpmpp_3m_sde"}
    assert {name for name, row in SCHEDULERS.items() if row.timestep_stride == 20} == {"lcm", "tcd"}


@pytest.mark.parametrize("name", PAPER)
def test_align_your_steps_has_a_table_for_each_family(loaded: dict[str, tuple[Model, Components]], name: str) -> None:
    walked = levels(loaded[name], "euler", steps=11, noise_schedule="align_your_steps")

    np.testing.assert_allclose(walked, PAPER[name], rtol=1e-6)


@pytest.mark.parametrize("steps", [20, 30, 70])
@pytest.mark.parametrize("strength", [0.3, 0.6, 1.0])
def test_a_schedule_is_entered_as_far_from_its_front_as_in_a1111(
    loaded: dict[str, tuple[Model, Components]], steps: int, strength: float
) -> None:
    """ddim_uniform has 31 levels for 30 steps, and 72 for 70: A1111 enters at sigmas[steps - t_enc - 1:]."""
    model, components = loaded["sd1"]
    asked = GenerationRequest.parse(
        {
            **{"init_image": "0" * 64, "strength": strength, "num_inference_steps": steps},
            **{"scheduler": "euler", "noise_schedule": "ddim_uniform"},
        }
    )
    request = resolve(asked, model)[0]
    whole = noise_levels(request, components).tolist()
    entered = steps - int(min(strength, 0.999) * steps) - 1

    assert count_steps(request, components) == len(whole[entered:]) - 1
