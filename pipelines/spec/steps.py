"""How many noise levels a request builds, and how many of them it runs: A1111's rule and the exact one."""

from pipelines.spec.values import StepRule

MAX_SCHEDULED_STEPS = 1000
"""More levels than a model was trained on say nothing new."""
_ALMOST_ALL = 0.999
"""A strength of 1 counts as this, so that the schedule is entered at its very top."""


def scheduled_steps(num_inference_steps: int, strength: float, rule: StepRule) -> int:
    """Return how many steps the whole schedule has."""
    return num_inference_steps if rule == "a1111" else int(num_inference_steps / min(strength, _ALMOST_ALL))


def steps_to_run(num_inference_steps: int, strength: float, rule: StepRule) -> int:
    """Return how many of the schedule's last steps run, 1 or more.

    A1111 runs int(steps · strength) + 1 of them, and never more than there are; the exact rule runs those asked for.
    """
    if rule == "exact":
        return num_inference_steps
    return int(min(strength, _ALMOST_ALL) * num_inference_steps) + 1
