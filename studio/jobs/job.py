"""What a job is: where it stands, and what can be said of it."""

import time
from dataclasses import dataclass
from enum import StrEnum

from pipelines.spec.errors import StudioError
from pipelines.spec.request import GenerationRequest


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


UNFINISHED = frozenset({JobState.QUEUED, JobState.RUNNING})


class ClaimLost(StudioError):
    """Somebody else has the job now, or it is over; the worker drops it without a trace."""


@dataclass(frozen=True)
class Job:
    """One row of the queue. Times are seconds since the epoch."""

    id: str
    state: JobState
    request: GenerationRequest
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
    """The image being made, from 0; the first of those that are made at once."""
    images_at_once: int
    """How many images are being made."""
    step: int
    """Steps done of those images."""
    num_steps: int
    """Steps of one image; 0 until the model is loaded."""
    error: str | None
    """Why it failed, in words."""
    images_made: int
    """How many of its images are in the gallery."""

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will happen."""
        return self.state not in UNFINISHED

    @property
    def progress(self) -> float:
        """How much is done, from 0 to 1."""
        if self.state is JobState.DONE:
            return 1.0
        within = self.step / self.num_steps if self.num_steps else 0.0
        return min(1.0, (self.image_index + self.images_at_once * within) / self.request.num_images)

    @property
    def stage(self) -> str:
        """What is being done now, in a few words; changes a few times in a job's life."""
        if self.state is not JobState.RUNNING:
            return str(self.state)
        if not self.num_steps:
            return "cancelling once the model is loaded" if self.cancel_requested else "loading the model"
        if self.cancel_requested:
            return "cancelling"
        return self.painting

    @property
    def painting(self) -> str:
        """Which images are being made: "image 2/4", "images 1 to 3/4"."""
        total = self.request.num_images
        first, last = (min(number, total) for number in (self.image_index + 1, self.image_index + self.images_at_once))
        return f"image {first}/{total}" if first == last else f"images {first} to {last}/{total}"

    @property
    def status(self) -> str:
        """The stage and, while an image is made, its step."""
        is_painting = self.state is JobState.RUNNING and self.num_steps
        return f"{self.stage}, step {self.step}/{self.num_steps}" if is_painting else self.stage

    @property
    def eta(self) -> float | None:
        """Seconds that are probably left, or None while that cannot be known."""
        if self.state is not JobState.RUNNING or self.started_at is None or self.progress <= 0:
            return None
        elapsed = max(0.0, time.time() - self.started_at)
        return elapsed * (1 - self.progress) / self.progress
