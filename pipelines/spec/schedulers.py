"""Two tables: schedulers and noise schedules. A name here is what requests, metadata and the browser say.

A scheduler is a diffusers class and the configuration that makes it that sampler; a noise schedule adds how noise
levels are spaced. A combination that diffusers cannot do is refused by name, never replaced.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class SchedulerSpec:
    """One row of the scheduler table."""

    label: str
    """What A1111 calls it."""
    class_name: str
    """The class in `diffusers`."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Overrides of the model's own scheduler configuration."""
    noise_schedules: frozenset[str] = frozenset({"default", "karras", "exponential", "sgm_uniform"})
    evaluations_per_step: int = 1
    """How often the denoiser runs per step; 2 for second-order samplers."""
    max_steps: int | None = None
    """The most steps it can do, where the class has a limit of its own."""
    is_stochastic: bool = False
    """Whether it draws noise at each step."""


@dataclass(frozen=True)
class NoiseScheduleSpec:
    """One row of the noise schedule table."""

    label: str
    config: Mapping[str, Any]


_SPACING_ONLY = frozenset({"default", "sgm_uniform"})

SCHEDULERS: Mapping[str, SchedulerSpec] = MappingProxyType(
    {
        "euler": SchedulerSpec("Euler", "EulerDiscreteScheduler"),
        "euler_a": SchedulerSpec(
            "Euler a", "EulerAncestralDiscreteScheduler", noise_schedules=_SPACING_ONLY, is_stochastic=True
        ),
        "dpmpp_2m": SchedulerSpec(
            "DPM++ 2M", "DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}
        ),
        "dpmpp_2m_sde": SchedulerSpec(
            "DPM++ 2M SDE",
            "DPMSolverMultistepScheduler",
            {"algorithm_type": "sde-dpmsolver++", "solver_order": 2},
            is_stochastic=True,
        ),
        # Latents are not bounded by 1 as pixels are, but the class clips by default.
        "ddim": SchedulerSpec("DDIM", "DDIMScheduler", {"clip_sample": False}, noise_schedules=_SPACING_ONLY),
        "unipc": SchedulerSpec("UniPC", "UniPCMultistepScheduler"),
        "heun": SchedulerSpec("Heun", "HeunDiscreteScheduler", evaluations_per_step=2),
        "lcm": SchedulerSpec(
            "LCM", "LCMScheduler", noise_schedules=frozenset({"default"}), max_steps=50, is_stochastic=True
        ),
    }
)

NOISE_SCHEDULES: Mapping[str, NoiseScheduleSpec] = MappingProxyType(
    {
        "default": NoiseScheduleSpec("Automatic", {}),
        "karras": NoiseScheduleSpec("Karras", {"use_karras_sigmas": True}),
        "exponential": NoiseScheduleSpec("Exponential", {"use_exponential_sigmas": True}),
        "sgm_uniform": NoiseScheduleSpec("SGM Uniform", {"timestep_spacing": "trailing"}),
    }
)


def canonical_scheduler(name: str) -> str:
    """Return the table's name for a name or an A1111 label, in any letter case.

    Raises:
        ValueError: for a name that is in neither.
    """
    return _canonical(name, SCHEDULERS)


def canonical_noise_schedule(name: str) -> str:
    """Return the table's name for a name or an A1111 label, in any letter case.

    Raises:
        ValueError: for a name that is in neither.
    """
    return _canonical(name, NOISE_SCHEDULES)


def _canonical(name: str, table: Mapping[str, SchedulerSpec] | Mapping[str, NoiseScheduleSpec]) -> str:
    wanted = name.strip().lower()
    for key, row in table.items():
        if wanted in {key, row.label.lower()}:
            return key
    raise ValueError(f"{name!r} is not known; choose one of {', '.join(table)}")
