"""The seam between the application and whatever trains: what is told on the way, and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipelines.spec.model import Model
from pipelines.spec.training import TrainingRequest

if TYPE_CHECKING:
    from pipelines.spec.dataset import Finding  # brings Pillow, and a time can be told without

LOSSES_NAME = "loss.csv"
"""The curve, in a training's folder."""


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@dataclass(frozen=True)
class TrainingPlan:
    """What a training will be, known before it starts."""

    num_pictures: int
    num_steps: int
    batches_per_epoch: int
    buckets: Sequence[tuple[int, int, int]]
    """Width, height and number of pictures."""
    findings: Sequence[Finding]
    demand: Demand | None = None
    """What it demands of the device; None where nobody has looked at one."""
    seconds: float | None = None
    """How long it will take if its steps are as fast as those of an earlier one; None where none was measured yet."""

    def timed(self, seconds_of_steps: float | None) -> TrainingPlan:
        """Return the plan with how long it takes, from how long its steps take; None where none was measured.

        All else, pictures that are encoded and painted, is added as it is estimated.
        """
        if seconds_of_steps is None:
            return self
        others = 0.0
        if self.demand is not None and self.demand.seconds is not None:
            others = (1 - self.demand.share_of_steps) * sum(self.demand.seconds) / 2
        return replace(self, seconds=seconds_of_steps + others)

    def sentence(self) -> str:
        """Say it in words."""
        memory = "; memory is predicted when it starts" if self.demand is None else f" of {self.demand.sentence()}"
        return f"{self.work()}{memory}; {self._time()}"

    def work(self) -> str:
        """Say what is to be done, and not what it takes."""
        sizes = ", ".join(f"{width}×{height} ({count})" for width, height, count in self.buckets)
        return f"{self.num_pictures} pictures in sizes {sizes}; {self.num_steps} steps"

    def seconds_range(self) -> tuple[float, float] | None:
        """Return how long it takes at least and at most, as far as that is known."""
        if self.seconds is not None:
            return self.seconds, self.seconds
        return None if self.demand is None else self.demand.seconds

    def _time(self) -> str:
        known = self.seconds_range()
        if known is None:
            return "time is known after the first steps"
        least, most = map(duration, known)
        if self.seconds is not None:
            return f"about {least}"
        return f"about {least} to {most}, estimated from the device's speed: this model was never trained here"


@dataclass(frozen=True)
class Demand:
    """What a training takes of a device."""

    num_parameters: int
    """Numbers that are trained."""
    predicted_bytes: int
    """Memory at the hungriest moment: weights, optimizer, and those of a step, of encoding or of painting a picture."""
    free_bytes: int
    """Of the device, at the moment."""
    seconds: tuple[float, float] | None = None
    """How long it takes at least and at most, by the device's speed at such work; None where it was not measured."""
    share_of_steps: float = 1.0
    """Of the work; the rest is encoding pictures and painting some."""

    def sentence(self) -> str:
        """Say it in words."""
        return f"{self.num_parameters:,} numbers; about {self.predicted_bytes / 2**20:,.0f} MiB of memory"

    def shortage(self) -> str:
        """Say what keeps it from fitting at the moment; empty where nothing does."""
        if self.predicted_bytes <= self.free_bytes:
            return ""
        return f"only {self.free_bytes / 2**20:,.0f} MiB of memory are free"


@dataclass(frozen=True)
class TrainingStep:
    """One step is done, or part of a validation picture after it."""

    step: int
    """Steps done, from 1; 0 says that all is read and the first step begins."""
    num_steps: int
    loss: float
    """Mean over the latest steps; 0 before the first."""
    eta: float | None
    """Seconds that are probably left, from the measured steps; None before there are any, and while it paints."""
    picture: Path | None = None
    """The latest validation pictures, side by side."""
    note: str = ""
    """What is done beside the steps, or could not be done: "painting pictures (2 of 6)"."""


@dataclass(frozen=True)
class TrainedLora:
    """What came out."""

    path: Path
    """The LoRA: one safetensors file."""
    steps: int
    num_steps: int
    final_loss: float
    """Mean over the latest steps."""
    folder: Path
    """Loss curve, validation pictures, strength sweep, checkpoint."""
    note: str = ""
    """Which pictures could not be painted, and why."""

    @property
    def is_complete(self) -> bool:
        """Whether all steps were done; a training that was stopped keeps what it has."""
        return self.steps >= self.num_steps


class Trainer(Protocol):
    """Trains LoRAs. Knows torch, and neither HTTP nor SQL."""

    def plan(self, request: TrainingRequest, model: Model) -> TrainingPlan:
        """Read the data set, predict, and refuse what cannot work.

        Raises:
            InvalidRequest: naming the field, the value and the way out.
        """
        ...

    def train(
        self,
        request: TrainingRequest,
        model: Model,
        *,
        folder: Path,
        output: Path,
        resume: bool,
        on_step: Callable[[TrainingStep], bool],
    ) -> TrainedLora:
        """Train, and write the LoRA.

        Args:
            request: what is asked.
            model: what the LoRA is for.
            folder: where curve, pictures and checkpoints go.
            output: the LoRA's file; written whole or not at all.
            resume: go on from the checkpoint in `folder`: the result equals that of an uninterrupted training, on a
                processor bit for bit.
            on_step: called after every step; False stops and keeps what is learnt. What it raises is passed on, and
                nothing is written.

        Raises:
            InvalidRequest: it cannot work, or the checkpoint is of another request.
            GenerationFailed: the loss is no number.
        """
        ...
