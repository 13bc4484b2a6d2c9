"""The part of a Studio that trains LoRAs: a training is a job of the same queue as pictures."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.spec.errors import Cancelled, GenerationFailed, InvalidRequest
from pipelines.spec.trainer import TrainedLora, TrainingPlan
from pipelines.spec.training import TrainingRequest
from studio.bars import job_bar
from studio.foreseeing import foresee
from studio.jobs import UNFINISHED, Job, JobKind, JobState, TrainingJob
from studio.queue import Queue
from studio.storage import Storage
from studio.training import Training
from studio.worker import take_back


class Trainings(Queue):
    """Checks, submits and follows trainings.

    Args:
        storage: where everything is kept.
    """

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage)
        self._foreseeing = threading.Lock()

    def train(
        self,
        request: TrainingRequest | Path | str | Mapping[str, Any],
        *,
        progress: bool = True,
        **fields: Any,
    ) -> TrainedLora:
        """Train a LoRA on a folder of pictures, and wait for it. Ctrl-C stops, and keeps what is learnt.

        Args:
            request: the folder, a whole request or a mapping of its fields.
            progress: show a progress bar on standard error, if that is a terminal, or in the notebook.
            fields: fields of TrainingRequest, such as `name`, `steps`, `rank`; they win over the request's.

        Raises:
            InvalidRequest: naming the field, before anything runs.
            GenerationFailed: with the reason in words.
            Cancelled: somebody cancelled the job; what it had learnt is kept.
        """
        asked = self.training_request(request, **fields)
        job: Job = self.submit_training(asked, is_for_here=not self.live_workers())
        with job_bar(is_wanted=progress) as show:
            job = self.wait(job.id, on_update=show)
        return self.trained(job)

    def training_request(
        self, request: TrainingRequest | Path | str | Mapping[str, Any], **fields: Any
    ) -> TrainingRequest:
        """Build a request from a folder (another request, a mapping) and fields.

        Raises:
            InvalidRequest: naming the field.
        """
        match request:
            case Path() | str():
                base: Mapping[str, Any] = {"data": str(request)}
            case TrainingRequest():
                base = request.model_dump()
            case _:
                base = request
        return TrainingRequest.parse({**base, **fields})

    def store_pictures(self, files: Sequence[Path]) -> str:
        """Store uploaded pictures, and captions called as their picture; return the folder that a request names.

        Raises:
            InvalidRequest: a file is neither, or is damaged or too large.
        """
        return str(self._storage.datasets.put(files))

    def store_inputs(self, captions: Mapping[str, str]) -> str:
        """Make a data set of stored inputs; return the folder that a request names.

        Args:
            captions: id of the input -> what it shows; empty where nothing is said.

        Raises:
            NotFound: there is no such input.
        """
        return str(self._storage.datasets.put_inputs(captions))

    def check_folder(self, data: str) -> None:
        """Refuse a folder that somebody elsewhere names: they may train on what they uploaded, and on nothing else.

        Raises:
            InvalidRequest: the server can be reached from other machines, and the folder is no uploaded data set.
        """
        if not self.settings.is_private and not self._storage.datasets.holds(Path(data)):
            raise InvalidRequest("data: this studio is open to other machines; upload the pictures", field="data")

    def plan_training(self, request: TrainingRequest, *, is_for_here: bool = False) -> TrainingPlan:
        """Read the data set, say what a training will be, and refuse what cannot work.

        Args:
            request: what is asked.
            is_for_here: look at this process's device too, which imports torch. A worker looks at its own by itself.

        Raises:
            InvalidRequest: naming the field, the value and the way out.
            ModelError: the model's configuration cannot be read.
        """
        training = self._storage.training(request)
        take_back(self._storage, self._storage.jobs.running_devices())
        is_resumed = request.existing == "resume"
        _refuse(twin for twin in self._twins(request.name) if not (is_resumed and _is_left(twin)))
        if not is_for_here:
            plan = training.plan()
        else:
            training.refuse_existing()
            plan = self._machines[self.settings.devices[0]].trainer().plan(training.request, training.model)
        return plan.timed(self._predict_seconds(training, plan.num_steps))

    def foresee_training(self, request: TrainingRequest) -> TrainingPlan:
        """Return the plan with what it demands of the device, without importing torch: a child process looks.

        That takes some seconds, and one is looked at after the other.

        Args:
            request: what is asked.

        Raises:
            InvalidRequest: naming the field, the value and the way out.
            ModelError: the model's configuration cannot be read.
        """
        plan = self.plan_training(request)
        training = self._storage.training(request)
        with self._foreseeing:
            demand = foresee(training.request, settings=self.settings)
        return replace(plan, demand=demand).timed(self._predict_seconds(training, plan.num_steps))

    def submit_training(
        self,
        request: TrainingRequest,
        *,
        is_for_here: bool = False,
        on_plan: Callable[[TrainingPlan], object] = lambda _: None,
    ) -> TrainingJob:
        """Check a training and put it in the queue.

        Args:
            request: what is asked.
            is_for_here: as for `plan_training`.
            on_plan: told what it will be, before it is queued.

        Raises:
            InvalidRequest: naming the field, the value and the way out.
            ModelError: the model's configuration cannot be read.
        """
        on_plan(self.plan_training(request, is_for_here=is_for_here))
        training = self._storage.training(request)
        for twin in self._twins(training.request.name):
            self.cancel(twin.id)  # left by a dead process, and this one goes on from its checkpoint
        return _training_job(self._storage.jobs.submit(training.request))

    def resume(self, job_id: str, *, is_incomplete: bool = False) -> Job:
        """Queue a failed or cancelled job again; see `Queue.resume`.

        Raises:
            NotFound: no such job.
            InvalidRequest: another job trains a LoRA of this name.
        """
        job = self.job(job_id)
        if isinstance(job, TrainingJob) and job.is_finished:
            _refuse(self._twins(job.request.name))
        return super().resume(job_id, is_incomplete=is_incomplete)

    def training(self, job: Job) -> Training:
        """Return the files of a job's training.

        Raises:
            InvalidRequest: its model is gone, or it trains nothing.
        """
        return self._storage.training(_training_job(job).request)

    def outcome(self, job: Job) -> TrainedLora:
        """Return what a job has trained so far.

        Raises:
            InvalidRequest: its model is gone, or it trains nothing.
        """
        return self.training(job).outcome(_training_job(job))

    def trained(self, job: Job) -> TrainedLora:
        """Return what a finished job has trained.

        Raises:
            GenerationFailed: with the reason in words.
            Cancelled: somebody cancelled it; what it had learnt is kept.
        """
        match job.state:
            case JobState.CANCELLED:
                raise Cancelled(f"job {job.id} was cancelled; {_training_job(job).kept}")
            case JobState.FAILED:
                raise GenerationFailed(job.error or "the training failed")
        return self.outcome(job)

    def _predict_seconds(self, training: Training, num_steps: int) -> float | None:
        """Return how long steps will take that are as fast as those of the latest training of the same model here."""
        for job in self.jobs(kind=JobKind.TRAIN):
            if isinstance(job, TrainingJob) and job.device in self.settings.devices:
                with suppress(InvalidRequest):  # its model is gone
                    earlier = self.training(job)
                    seconds = earlier.seconds_per_step(job.id) if earlier.model == training.model else None
                    if seconds is not None:
                        return num_steps * seconds * training.work / earlier.work
        return None

    def _twins(self, name: str) -> list[TrainingJob]:
        """Return the unfinished trainings of one name: two would write the same files."""
        jobs = self.jobs(states=UNFINISHED, kind=JobKind.TRAIN, limit=1000)
        return [job for job in jobs if isinstance(job, TrainingJob) and job.request.name == name]


def _is_left(job: TrainingJob) -> bool:
    """Whether it began in a process that is gone, and waits to go on."""
    return job.state is JobState.QUEUED and job.attempt > 0


def _refuse(twins: Iterable[TrainingJob]) -> None:
    for job in twins:
        raise InvalidRequest(
            f"name: job {job.id} is {job.state} and trains {job.request.name!r}; choose another name, wait for "
            f"it, or `studio cancel {job.id}`",
            field="name",
        )


def _training_job(job: Job) -> TrainingJob:
    if not isinstance(job, TrainingJob):
        raise InvalidRequest(f"job {job.id} makes pictures and trains nothing; `studio gallery` shows them")
    return job
