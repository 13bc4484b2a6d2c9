"""One training on this machine: its files, what must not be overwritten, what came out. Knows no torch."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from pipelines.spec.errors import InvalidRequest
from pipelines.spec.model import Model
from pipelines.spec.resuming import CHECKPOINT_NAME, check_checkpoint
from pipelines.spec.trainer import LOSSES_NAME, TrainedLora, Trainer, TrainingPlan, TrainingStep
from pipelines.spec.training import TrainingRequest
from studio.files import publish
from studio.jobs import TrainingJob

OWNER_NAME = "job.txt"
"""In a training's folder: the id of the job that its checkpoint is of."""

MEASURED_STEPS = 20
"""Of a training, that the time of another is predicted from."""


@dataclass(frozen=True)
class Training:
    """What a request for a training names."""

    request: TrainingRequest
    """With the model's name and an absolute folder of pictures: who trains may be another process."""
    model: Model
    folder: Path
    """Of the loss curve, the validation pictures and the checkpoint."""
    output: Path
    """The LoRA's file."""

    def plan(self) -> TrainingPlan:
        """Read the data set and say what the training will be; refuse what cannot work on any device.

        Raises:
            InvalidRequest: naming the field, the value and the way out.
            ModelError: the model's configuration cannot be read.
        """
        self.refuse_existing()
        from pipelines.spec.material import Material  # brings the grammar of prompts, a sixth of a second

        return Material.read(self.request, self.model).plan()

    def refuse_existing(self) -> None:
        """See that nothing is overwritten that was not meant to be.

        Raises:
            InvalidRequest: there is a LoRA of this name, or nothing that this request can resume.
        """
        if self.request.existing == "refuse" and self.output.exists():
            raise InvalidRequest(
                f"name: {self.output} exists; choose another name, or existing: overwrite or resume",
                field="name",
            )
        if self.request.existing == "resume":
            check_checkpoint(self.folder / CHECKPOINT_NAME, self.request)

    def run(self, trainer: Trainer, *, job_id: str, on_step: Callable[[TrainingStep], bool]) -> TrainedLora:
        """Train; see `pipelines.spec.trainer.Trainer.train`.

        Args:
            trainer: does the work.
            job_id: whose training it is. It goes on from a checkpoint of its own; from any other, or over a LoRA that
                is there, only where the request says so.
            on_step: called after every step; False stops and keeps what is learnt.

        Raises:
            InvalidRequest: there is a LoRA of this name, or nothing that this request can resume.
            StorageError: the disk refused.
        """
        checkpoint, owner = self.folder / CHECKPOINT_NAME, self.folder / OWNER_NAME
        resume = checkpoint.is_file() and owner.is_file() and owner.read_text() == job_id
        if not resume:
            self.refuse_existing()
            trainer.plan(self.request, self.model)
            resume = self.request.existing == "resume"
            if not resume:
                checkpoint.unlink(missing_ok=True)
            publish(owner, lambda file: file.write(job_id.encode()))  # from now on, a checkpoint is this job's
        return trainer.train(
            self.request, self.model, folder=self.folder, output=self.output, resume=resume, on_step=on_step
        )

    @property
    def work(self) -> float:
        """How much one step computes; trainings of one model can be compared."""
        request = self.request
        pixels = request.resolution**2 if request.resolution else self.model.native_width * self.model.native_height
        again = 4 / 3 if request.gradient_checkpointing else 1.0
        return request.batch_size * request.gradient_accumulation_steps * pixels * again

    def seconds_per_step(self, job_id: str) -> float | None:
        """Return what a job's latest steps took; None where none was measured, or another job has the folder now."""
        try:
            if (self.folder / OWNER_NAME).read_text() != job_id:
                return None
            with (self.folder / LOSSES_NAME).open(encoding="utf-8", newline="") as file:
                measured = [float(row["seconds"]) for row in csv.DictReader(file) if row["seconds"]]
        except FileNotFoundError:
            return None
        return median(measured[-MEASURED_STEPS:]) if measured else None

    def outcome(self, job: TrainingJob) -> TrainedLora:
        """Return what a job of this training has made."""
        return TrainedLora(self.output, job.step, job.num_steps, job.loss or 0.0, self.folder, job.note or "")

    def losses(self) -> list[tuple[int, float]]:
        """Return the loss of every step so far."""
        try:
            with (self.folder / LOSSES_NAME).open(encoding="utf-8", newline="") as file:
                return [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file) if row["seconds"]]
        except FileNotFoundError:
            return []

    def picture(self) -> Path | None:
        """Return the latest validation pictures, side by side, or None."""
        return max(self.folder.glob("step-*.png"), default=None)
