"""Two tables: schedulers and noise schedules. A name here is what requests, metadata and the browser say.

A scheduler (sampler in A1111) walks down noise levels; a noise schedule says which levels. Names and rules are those of
A1111 1.10 and Forge. The functions themselves stand in `pipelines.runtime.samplers` and `pipelines.runtime.sigmas`.
What A1111 has and this table lacks is refused by name, never replaced by something near.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType

NOISE_SCHEDULES: Mapping[str, str] = MappingProxyType(
    {
        "uniform": "Uniform",
        "karras": "Karras",
        "exponential": "Exponential",
        "polyexponential": "Polyexponential",
        "sgm_uniform": "SGM Uniform",
        "kl_optimal": "KL Optimal",
        "align_your_steps": "Align Your Steps",
        "simple": "Simple",
        "normal": "Normal",
        "ddim_uniform": "DDIM",
        "beta": "Beta",
        "turbo": "Turbo",
        "ddim_timesteps": "Automatic",
        "unipc_timesteps": "Automatic",
    }
)
"""Name -> what A1111 calls it. The last two belong to ddim, plms and unipc, which know no other, and to no one else."""

SPANNED = frozenset({"karras", "exponential", "polyexponential", "sgm_uniform", "kl_optimal", "normal", "beta"})
"""The noise schedules whose first and last level can be chosen (sigma_max, sigma_min)."""

RHO: Mapping[str, float] = MappingProxyType({"karras": 7.0, "polyexponential": 1.0})
"""The noise schedules that have a rho, and the one they take by default."""

AUTOMATIC = frozenset({"automatic", "default"})
"""Words for the schedule that each scheduler has of its own, A1111's and an older one of ours: an empty field."""

_OWN = frozenset({"ddim_timesteps", "unipc_timesteps"})


_CHURN = frozenset({"s_churn", "s_tmin", "s_tmax", "s_noise"})
_FRESH = frozenset({"eta", "s_noise"})
_ETA = frozenset({"eta"})
_SCALED = frozenset({"s_noise"})


def _one(num_steps: int) -> int:
    return num_steps


def _two_but_one_at_the_end(num_steps: int) -> int:
    return 2 * num_steps - 1


def _two_at_the_start(num_steps: int) -> int:
    return num_steps + (num_steps > 1)


def _unknown(_: int) -> None:
    return None


def _thirds(num_steps: int) -> int:
    return 2 if num_steps == 3 else num_steps // 3 + 1


@dataclass(frozen=True)
class SchedulerSpec:
    """One row of the scheduler table."""

    label: str
    """What A1111 calls it; DDPM and DEIS are Forge's, TCD and SA-Solver the papers'."""
    noise_schedule: str = "uniform"
    """Its own noise schedule: what A1111's Automatic means."""
    eta: float = 0.0
    """Its own measure of fresh noise at each step: 1 for ancestral and SDE schedulers."""
    takes: frozenset[str] = frozenset()
    """Which fields of a request about its noise it heeds: eta, s_churn, s_tmin, s_tmax, s_noise."""
    has_brownian_noise: bool = False
    """Whether its noise is one Brownian path per picture, so that more steps refine the picture."""
    evaluations: Callable[[int], int | None] = _one
    """How often the denoiser runs in so many steps; None if only the picture decides."""
    steps: Callable[[int], int | None] = _one
    """How many steps are told of, likewise."""
    ignores_schedule: bool = False
    """Whether it knows no noise schedule but its own."""
    discards_next_to_last: bool = False
    """Whether the schedule is made one step longer and its last positive level left out."""
    starts_at_unit_variance: bool = False
    """Whether pure noise starts at sqrt(1 + sigma²) instead of sigma."""
    timestep_stride: int = 1
    """Its noise levels are those of every so many training timesteps (arXiv:2310.04378: 20 for LCM and TCD)."""
    min_steps: int = 1
    max_steps: int | None = None
    one_image_at_a_time: bool = False
    """Whether its step size follows from the picture, so that a batch would tie pictures together."""

    def draws(self, *, eta: float, s_churn: float) -> bool:
        """Whether its steps draw on from the generators of the pictures, which is where ENSD acts."""
        if self.has_brownian_noise:
            return False
        if self.takes == _CHURN:
            return s_churn > 0
        return eta > 0 or self.takes == _SCALED

    @property
    def is_second_order(self) -> bool:
        """Whether each of its steps runs the denoiser twice."""
        return self.evaluations is _two_but_one_at_the_end

    @property
    def noise_schedules(self) -> tuple[str, ...]:
        """The noise schedules it can be combined with; its own among them."""
        if self.ignores_schedule:
            return (self.noise_schedule,)
        return tuple(name for name in NOISE_SCHEDULES if name not in _OWN)


SCHEDULERS: Mapping[str, SchedulerSpec] = MappingProxyType(
    {
        "euler": SchedulerSpec("Euler", takes=_CHURN),
        "euler_a": SchedulerSpec("Euler a", eta=1.0, takes=_FRESH),
        "heun": SchedulerSpec("Heun", takes=_CHURN, evaluations=_two_but_one_at_the_end),
        "lms": SchedulerSpec("LMS"),
        "dpm2": SchedulerSpec(
            "DPM2", "karras", takes=_CHURN, evaluations=_two_but_one_at_the_end, discards_next_to_last=True
        ),
        "dpm2_a": SchedulerSpec(
            "DPM2 a", "karras", eta=1.0, takes=_FRESH, evaluations=_two_but_one_at_the_end, discards_next_to_last=True
        ),
        "dpmpp_2s_a": SchedulerSpec("DPM++ 2S a", "karras", eta=1.0, takes=_FRESH, evaluations=_two_but_one_at_the_end),
        "dpmpp_sde": SchedulerSpec(
            "DPM++ SDE", "karras", eta=1.0, takes=_FRESH, has_brownian_noise=True, evaluations=_two_but_one_at_the_end
        ),
        "dpmpp_2m": SchedulerSpec("DPM++ 2M", "karras"),
        "dpmpp_2m_sde": SchedulerSpec("DPM++ 2M SDE", "exponential", eta=1.0, takes=_FRESH, has_brownian_noise=True),
        "dpmpp_2m_sde_heun": SchedulerSpec(
            "DPM++ 2M SDE Heun", "exponential", eta=1.0, takes=_FRESH, has_brownian_noise=True
        ),
        "dpmpp_3m_sde": SchedulerSpec(
            "DPM++ 3M SDE", "exponential", eta=1.0, takes=_FRESH, has_brownian_noise=True, discards_next_to_last=True
        ),
        "dpm_fast": SchedulerSpec("DPM fast", eta=1.0, takes=_FRESH, steps=_thirds, ignores_schedule=True, min_steps=2),
        "dpm_adaptive": SchedulerSpec(
            "DPM adaptive",
            eta=1.0,
            takes=_FRESH,
            evaluations=_unknown,
            steps=_unknown,
            ignores_schedule=True,
            min_steps=2,
            one_image_at_a_time=True,
        ),
        "restart": SchedulerSpec("Restart", "karras", takes=_SCALED, evaluations=_two_but_one_at_the_end),
        "lcm": SchedulerSpec("LCM", eta=1.0, timestep_stride=20, max_steps=50),
        "ddim": SchedulerSpec(
            "DDIM", "ddim_timesteps", takes=_ETA, ignores_schedule=True, starts_at_unit_variance=True, min_steps=2
        ),
        "plms": SchedulerSpec(
            "PLMS",
            "ddim_timesteps",
            evaluations=_two_at_the_start,
            ignores_schedule=True,
            starts_at_unit_variance=True,
            min_steps=2,
        ),
        "unipc": SchedulerSpec("UniPC", "unipc_timesteps", ignores_schedule=True, starts_at_unit_variance=True),
        "ddpm": SchedulerSpec("DDPM", eta=1.0),
        "deis": SchedulerSpec("DEIS", "sgm_uniform"),
        "tcd": SchedulerSpec("TCD", "sgm_uniform", eta=0.3, takes=_FRESH, timestep_stride=20, max_steps=50),
        "sa_solver": SchedulerSpec("SA-Solver", "sgm_uniform", eta=1.0, takes=_FRESH),
    }
)


def ignored(options: Mapping[str, float | None], *schedulers: str) -> tuple[str, ...]:
    """Return which of a request's fields about noise say something that none of its schedulers heeds.

    Args:
        options: eta, s_churn, s_tmin, s_tmax and s_noise, or some of them.
        schedulers: of each pass.
    """
    silent = {"eta": SCHEDULERS[schedulers[0]].eta, "s_churn": 0, "s_tmin": 0, "s_noise": 1}
    heeded = frozenset().union(*(SCHEDULERS[name].takes for name in schedulers))
    return tuple(
        field for field, value in options.items() if value not in {None, silent.get(field)} and field not in heeded
    )


def told_steps(scheduler: str, num_inference_steps: int) -> int:
    """Return how many steps a scheduler tells of; those asked for, if only the picture decides."""
    return SCHEDULERS[scheduler].steps(num_inference_steps) or num_inference_steps


def prompt_steps(scheduler: str, num_inference_steps: int) -> int:
    """Return over how many steps prompts are scheduled: A1111 counts two for each one of a second-order scheduler."""
    return num_inference_steps * (2 if SCHEDULERS[scheduler].is_second_order else 1)


def canonical_scheduler(name: str) -> str:
    """Return the table's name for a name or an A1111 label, however it is spaced, and with k-diffusion's "k_" or not.

    Raises:
        ValueError: for a name that is in neither; one with a noise schedule at its end, as A1111 wrote them before 1.9,
            is told apart.
    """
    scheduler, noise_schedule = parted_scheduler(name)
    if noise_schedule is not None:
        sampler, schedule = SCHEDULERS[scheduler].label, NOISE_SCHEDULES[noise_schedule]
        raise ValueError(f"{name!r} names two things; give {sampler}, and {schedule} as the noise schedule")
    return scheduler


def parted_scheduler(name: str) -> tuple[str, str | None]:
    """Return the table's names for a sampler's name or A1111 label, and for a noise schedule at its end.

    Raises:
        ValueError: for a name that is in no table.
    """
    labels = {key: row.label for key, row in SCHEDULERS.items()}
    bare = name.strip().lower().removeprefix("k_")
    if (found := _find(bare, labels)) is not None:
        return found, None
    for key, label in NOISE_SCHEDULES.items():
        scheduler = _find(bare.removesuffix(f" {label.lower()}"), labels)
        if scheduler is not None:
            return scheduler, key
    raise ValueError(_not_known(name, labels))


def canonical_noise_schedule(name: str) -> str | None:
    """Return the table's name for a name or an A1111 label, however it is spaced; None for A1111's Automatic.

    Raises:
        ValueError: for a name that is in neither.
    """
    if name.strip().lower() in AUTOMATIC:
        return None
    if (found := _find(name, NOISE_SCHEDULES)) is None:
        raise ValueError(_not_known(name, NOISE_SCHEDULES))
    return found


def _find(name: str, labels: Mapping[str, str]) -> str | None:
    wanted = _plain(name)
    return next((key for key, label in labels.items() if wanted in {_plain(key), _plain(label)}), None)


def _not_known(name: str, labels: Mapping[str, str]) -> str:
    plain = {_plain(each): key for key, label in labels.items() for each in (key, label)}
    near = dict.fromkeys(plain[each] for each in get_close_matches(_plain(name), plain, n=3))
    way_out = f"did you mean {' or '.join(near)}? There are" if near else "choose one of"
    return f"{name!r} is not known; {way_out} {', '.join(labels)}"


def _plain(name: str) -> str:
    return name.lower().translate(_SPACES)


_SPACES = str.maketrans("", "", " _-")
