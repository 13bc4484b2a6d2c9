"""From the tables of `pipelines.spec.schedulers` to a fresh diffusers scheduler, once per picture."""

import inspect
from collections.abc import Mapping
from typing import Any

import diffusers
import torch

from pipelines.spec.schedulers import NOISE_SCHEDULES, SCHEDULERS

MODEL_FACTS = frozenset(
    {
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "trained_betas",
        "prediction_type",
        "rescale_betas_zero_snr",
        "timestep_spacing",
        "steps_offset",
        "clip_sample",
        "set_alpha_to_one",
    }
)
"""What a model's scheduler_config.json says about its training. Everything else in that file belongs to one sampler
(`use_karras_sigmas`, `algorithm_type`, `final_sigmas_type`, …) and would leak into another."""


def make_scheduler(model_config: Mapping[str, Any], *, scheduler: str, noise_schedule: str) -> Any:
    """Return a new scheduler. Schedulers hold state: one is never used for two pictures.

    Args:
        model_config: the model's scheduler_config.json.
        scheduler: a name of `SCHEDULERS`.
        noise_schedule: a name of `NOISE_SCHEDULES`.
    """
    spec = SCHEDULERS[scheduler]
    scheduler_class = getattr(diffusers, spec.class_name)
    understood = inspect.signature(scheduler_class.__init__).parameters
    facts = {key: value for key, value in model_config.items() if key in MODEL_FACTS and key in understood}
    return scheduler_class(**{**facts, **spec.config, **NOISE_SCHEDULES[noise_schedule].config})


def set_timesteps(
    scheduler: Any, *, num_inference_steps: int, strength: float | None, device: torch.device
) -> torch.Tensor:
    """Prepare a scheduler and return the timesteps to run.

    With a strength, the first part of the schedule is skipped: int(num_inference_steps * strength) steps remain, as in
    diffusers' image-to-image pipelines. A second-order scheduler lists each step twice, hence `order`.
    """
    scheduler.set_timesteps(num_inference_steps, device=device)
    skipped = 0 if strength is None else num_inference_steps - int(num_inference_steps * strength)
    start = skipped * scheduler.order
    if hasattr(scheduler, "set_begin_index"):  # DDIM keeps no index: it goes by the timestep alone.
        scheduler.set_begin_index(start)
    timesteps: torch.Tensor = scheduler.timesteps[start:]
    return timesteps


def step_noise(scheduler: Any, generator: torch.Generator) -> dict[str, torch.Generator]:
    """Return the keyword that makes a stochastic scheduler draw from the picture's own generator."""
    return {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
