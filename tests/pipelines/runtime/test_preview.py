"""Previews show true colours, and the picture behind the noise."""

import numpy as np
import pytest
import torch

from pipelines.runtime.loading import Components, ModelCache
from pipelines.runtime.noise import generator_for
from pipelines.runtime.preview import predicted_original
from pipelines.runtime.scheduling import make_scheduler, set_timesteps
from pipelines.spec.model import Model
from pipelines.spec.schedulers import SCHEDULERS
from tests.pipelines.tiny_models import SCHEDULER_CONFIG

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def components(sd1: Model) -> Components:
    return ModelCache(CPU, dtype=torch.float32, max_bytes=10**9).get(sd1)


def test_the_preview_is_one_pixel_per_latent(components: Components) -> None:
    preview = components.preview.draw(torch.randn((1, 4, 12, 20), generator=generator_for(3)).numpy())

    assert (preview.mode, preview.size) == ("RGB", (20, 12))


def test_latents_that_are_not_numbers_can_still_be_shown(components: Components) -> None:
    assert components.preview.draw(torch.full((1, 4, 8, 8), torch.nan).numpy()).size == (8, 8)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("noise_schedule", ["default", "karras"])
def test_a_perfect_prediction_shows_the_original(scheduler: str, prediction_type: str, noise_schedule: str) -> None:
    """Noise a known picture with the scheduler itself, answer truthfully, and get the picture back."""
    if noise_schedule not in SCHEDULERS[scheduler].noise_schedules:
        noise_schedule = "default"
    if scheduler == "heun" and prediction_type == "sample":
        prediction_type = "epsilon"  # the class does not know the other
    config = {**SCHEDULER_CONFIG, "prediction_type": prediction_type}
    made = make_scheduler(config, scheduler=scheduler, noise_schedule=noise_schedule)
    timestep = set_timesteps(made, num_inference_steps=10, strength=0.5, device=CPU)[:1]
    original, noise = torch.randn((2, 1, 4, 8, 8), generator=generator_for(5))
    scaled = made.scale_model_input(made.add_noise(original, noise, timestep), timestep[0])
    signal, level = torch.linalg.lstsq(torch.stack([original.flatten(), noise.flatten()], 1), scaled.flatten()).solution
    assert level > 0.1, "too little noise to prove anything"
    truth = {"epsilon": noise, "v_prediction": signal * noise - level * original, "sample": original}

    shown = predicted_original(made, scaled=scaled, prediction=truth[prediction_type], timestep=timestep[0])

    # Some schedulers round a noise level between two training steps to the nearest of them.
    assert np.abs(shown - original.numpy()).mean() < 0.03
