"""Makes what is missing of a job, or of several whose pictures share batches: one call of the engine.

Closes what is done; how any other job ends is decided by who calls.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Self

from pipelines.spec.engine import Engine, GeneratedImage, Step, shared_fields
from pipelines.spec.errors import GenerationFailed, StudioError
from pipelines.spec.model import Model
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.schedulers import SCHEDULERS
from studio.jobs import ClaimLost, GenerationJob, Job
from studio.reporting import Note, Reporter
from studio.storage import Storage


@dataclass(frozen=True)
class Unmade:
    """What is left of a job."""

    job: GenerationJob
    model: Model
    made: int
    """How many of its pictures are there."""
    pictures: Mapping[int, ResolvedRequest]
    """Those that are missing, by index; those with the same LoRAs follow one another, and can share a batch.

    A template may give each picture of a job LoRAs of its own; of everything else that parts batches a job has one.
    """

    @classmethod
    def of(cls, job: GenerationJob, storage: Storage) -> Self:
        """Read a job's request, and look which of its pictures there are.

        Raises:
            InvalidRequest: it cannot work any more.
            ModelError: the model's configuration cannot be read.
        """
        model, resolved = storage.expand(job.request)
        made = storage.gallery.made(job)
        alike: dict[str, list[int]] = {}
        for index, one in enumerate(resolved):
            if index not in made:
                alike.setdefault(str(one.loras), []).append(index)
        return cls(job, model, len(made), {index: resolved[index] for group in alike.values() for index in group})

    def shares_batches_with(self, other: "Unmade") -> bool:
        """Whether all pictures of both can be made at once, and the other job has seen no worker die."""
        pictures = [*self.pictures.values(), *other.pictures.values()]
        if self.model != other.model or other.job.worker_deaths or pictures[0].paints_nothing:
            return False
        if SCHEDULERS[pictures[0].scheduler].one_image_at_a_time:
            return False
        shared = shared_fields(pictures[0])
        embeddings: dict[str, str] = {}
        for picture in pictures:
            if any(embeddings.get(name, digest) != digest for name, digest in picture.embeddings.items()):
                return False  # a file has changed in between
            embeddings |= picture.embeddings
        return all(shared_fields(picture) == shared for picture in pictures)


def claim_company(job: Job, storage: Storage) -> list[Unmade]:
    """Claim jobs that wait beside a claimed one and whose pictures fit into a batch with its own.

    Return what is left of all of them, of the claimed one first; nothing where it is best run by itself.
    """
    settings = storage.settings
    room = settings.images_at_once - (job.num_images - job.images_made)
    if room <= 0 or job.worker_deaths or settings.max_worker_deaths == 1:  # what kills a worker fails no other job
        return []
    waiting = [each for each in storage.jobs.waiting_beside(job) if _looks_like(each, job)]
    first = _unmade(job, storage) if waiting else None
    if first is None or not first.pictures:
        return []
    together, fair = [first], -(-(len(waiting) + 1) // len(settings.devices))  # other devices want work too
    for each in waiting:
        if len(together) == fair:
            break
        if not 0 < each.num_images - each.images_made <= room:
            continue
        other = _unmade(each, storage)
        if other is None or not 0 < len(other.pictures) <= room or not first.shares_batches_with(other):
            continue
        claimed = storage.jobs.claim(str(job.device), job_id=each.id)
        if isinstance(claimed, GenerationJob):
            together.append(replace(other, job=claimed))
            room -= len(other.pictures)
    return together if len(together) > 1 else []


def _looks_like(job: Job, other: Job) -> bool:
    """Whether two jobs may share batches at all, before their requests are read against what is installed."""
    return all(
        getattr(job.request, field, None) == getattr(other.request, field, None)
        for field in ("init_image", "mask_image", "num_inference_steps", "width", "height")
    )


def _unmade(job: Job, storage: Storage) -> Unmade | None:
    """Return what is left of a job; None if it is another kind of work, or is to say itself why it cannot run."""
    try:
        return Unmade.of(job, storage) if isinstance(job, GenerationJob) else None
    except (StudioError, OSError):
        return None


def paint(unmade: Sequence[Unmade], *, storage: Storage, engine: Callable[[], Engine], drain: threading.Event) -> None:
    """Make the missing pictures of jobs, and publish each while the next one is made.

    A job is closed with its last picture; of several, one that is cancelled is closed while the others go on. When this
    returns, all are closed.

    Args:
        unmade: what is left of the jobs, of each one picture or more; several only if they share batches.
        storage: where everything is kept.
        engine: loads what paints, if need be.
        drain: set when this process must stop soon.

    Raises:
        Cancelled: somebody asked for it, of all of the jobs.
        Draining: the process must stop now.
        ClaimLost: a job belongs to somebody else.
        StudioError: a picture could not be made or published; those before it stand.
    """
    wanted = [(each, index) for each in unmade for index in each.pictures]
    jobs, settings = [each.job for each in unmade], storage.settings
    requests = [each.pictures[index] for each, index in wanted]
    inputs = storage.open_inputs(jobs[0].request, unmade[0].model, requests)

    left = {each.job.id: len(each.pictures) for each in unmade}

    def publish(generated: GeneratedImage) -> None:
        each, index = wanted[generated.index]
        if reporter.is_over(each.job):
            return
        provenance = {**generated.provenance, **(hashes.result() if hashes else {})}
        left[each.job.id] -= 1
        closing = None if left[each.job.id] else reporter.closing(each.job)
        try:
            storage.gallery.add(each.job, replace(generated, index=index, provenance=provenance), closing=closing)
        except ClaimLost:
            if not reporter.is_over(each.job):  # it may have been cancelled while the picture was written
                raise

    reporting = Reporter(storage.jobs, jobs, drain=drain, drain_seconds=settings.drain_seconds)
    with reporting as reporter, ThreadPoolExecutor(max_workers=1, thread_name_prefix="publish") as publisher:
        paints = not requests[0].paints_nothing
        hashes = publisher.submit(storage.hashes_of, inputs) if paints else None  # seconds for a model that is new
        published: Future[object] | None = None
        for generated in engine().generate(requests, inputs, lambda step: reporter.note(_notes(step, unmade))):
            if published is not None:
                published.result()  # what the disk refuses ends the work
            published = publisher.submit(publish, generated)
        if published is not None:
            published.result()
        if not all(reporter.is_over(job) for job in jobs):
            raise GenerationFailed(
                "the engine made fewer pictures than were asked for; this is a bug: please report it"
            )


def _notes(step: Step, unmade: Sequence[Unmade]) -> dict[str, Note]:
    """Tell a step to each job that has pictures in it; what is shown is the first of these pictures."""
    notes: dict[str, Note] = {}
    start, end = step.image_index, step.image_index + step.images_at_once
    first = 0  # of a job, among all pictures
    for each in unmade:
        own = range(max(start, first), min(end, first + len(each.pictures)))
        if own:
            notes[each.job.id] = Note(
                step.step,
                step.num_steps,
                image_index=each.made + own.start - first,
                images_at_once=len(own),
                preview=step.preview if own.start == start else None,
            )
        first += len(each.pictures)
    return notes
