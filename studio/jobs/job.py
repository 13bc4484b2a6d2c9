"""What a job is: where it stands, and what can be said of it. One class for each kind of work."""

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from pipelines.spec.errors import StudioError
from pipelines.spec.request import GenerationRequest
from pipelines.spec.training import TrainingRequest


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobKind(StrEnum):
    """What a job does."""

    GENERATE = "generate"
    TRAIN = "train"


UNFINISHED = frozenset({JobState.QUEUED, JobState.RUNNING})


class ClaimLost(StudioError):
    """Somebody else has the job now, or it is over; the worker drops it without a trace."""


@dataclass(frozen=True)
class Job(ABC):
    """One row of the queue. Times are seconds since the epoch."""

    kind: ClassVar[JobKind]

    id: str
    state: JobState
    request: GenerationRequest | TrainingRequest
    """As asked, with a seed; an empty one if it cannot be read any more, and then `error` says so."""
    created_at: float
    started_at: float | None
    finished_at: float | None
    device: str | None
    """The worker's device, once claimed."""
    attempt: int
    worker_deaths: int
    cancel_requested: bool
    image_index: int
    """How many images were finished before the one being made, or those made at once."""
    images_at_once: int
    """How many images are being made."""
    step: int
    """Steps done: of those images, or of the training."""
    num_steps: int
    """Steps of one image, or of the training; 0 until the model is loaded."""
    loss: float | None
    """Of a training: the mean of its latest steps."""
    seconds_left: float | None
    """Of a training: what its latest steps let expect."""
    note: str | None
    """Of a training: what it does beside its steps; once it is done, which pictures could not be painted, and why."""
    error: str | None
    """Why it failed, in words."""
    images_made: int
    """How many of its images are in the gallery."""

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will happen."""
        return self.state not in UNFINISHED

    @property
    @abstractmethod
    def title(self) -> str:
        """What it is about, in the user's words; empty if there were none."""

    @property
    @abstractmethod
    def num_images(self) -> int:
        """How many images it puts into the gallery."""

    @property
    @abstractmethod
    def work(self) -> str:
        """What a worker does for it, in a few words: "image 2/4", "training my-style"."""

    @property
    @abstractmethod
    def progress(self) -> float:
        """How much is done, from 0 to 1."""

    @property
    def stage(self) -> str:
        """What is being done now, in a few words; changes a few times in a job's life."""
        if self.state is not JobState.RUNNING:
            return str(self.state)
        if not self.num_steps:
            return "cancelling once the model is loaded" if self.cancel_requested else "loading the model"
        return "cancelling" if self.cancel_requested else self.work

    @property
    def status(self) -> str:
        """The stage and, while there are steps, which is done."""
        is_stepping = self.state is JobState.RUNNING and self.num_steps
        return f"{self.stage}, step {self.step}/{self.num_steps}" if is_stepping else self.stage

    @property
    def eta(self) -> float | None:
        """Seconds that are probably left, or None while that cannot be known."""
        if self.state is not JobState.RUNNING or self.started_at is None or self.progress <= 0:
            return None
        elapsed = max(0.0, time.time() - self.started_at)
        return elapsed * (1 - self.progress) / self.progress


@dataclass(frozen=True)
class GenerationJob(Job):
    """A job that makes pictures."""

    kind: ClassVar[JobKind] = JobKind.GENERATE
    request: GenerationRequest

    @property
    def title(self) -> str:
        """The prompt."""
        return self.request.prompt

    @property
    def num_images(self) -> int:
        return self.request.num_images

    @property
    def progress(self) -> float:
        if self.state is JobState.DONE:
            return 1.0
        within = self.step / self.num_steps if self.num_steps else 0.0
        return min(1.0, (self.image_index + self.images_at_once * within) / self.num_images)

    @property
    def work(self) -> str:
        """Which images are being made: "image 2/4", "images 1 to 3/4"."""
        total = self.num_images
        first, last = (min(number, total) for number in (self.image_index + 1, self.image_index + self.images_at_once))
        return f"image {first}/{total}" if first == last else f"images {first} to {last}/{total}"


@dataclass(frozen=True)
class TrainingJob(Job):
    """A job that trains a LoRA."""

    kind: ClassVar[JobKind] = JobKind.TRAIN
    request: TrainingRequest

    @property
    def title(self) -> str:
        return f"LoRA {self.request.name}"

    @property
    def num_images(self) -> int:
        return 0

    @property
    def progress(self) -> float:
        if self.state is JobState.DONE:
            return 1.0
        return self.step / self.num_steps if self.num_steps else 0.0

    @property
    def work(self) -> str:
        return f"training {self.request.name}"

    @property
    def status(self) -> str:
        """The stage, the step and the loss: "training my-style, step 120/1500, loss 0.1234"; and what else it does."""
        is_learning = self.state is JobState.RUNNING and self.step and self.loss is not None
        loss = f"loss {self.loss:.4f}" if is_learning else None
        return ", ".join(filter(None, (super().status, loss, self.note)))

    @property
    def kept(self) -> str:
        """What is left of a training that was stopped."""
        if not self.step:
            return "nothing was learnt yet"
        return f"{self.step} of {self.num_steps} steps are learnt and kept; existing: resume goes on from there"

    @property
    def eta(self) -> float | None:
        return self.seconds_left if self.state is JobState.RUNNING and self.num_steps else None
