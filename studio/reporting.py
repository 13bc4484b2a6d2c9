"""Carries progress to a job's row from a thread of its own: who works only leaves a note."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

from PIL import Image

from pipelines.spec.errors import Cancelled
from studio.jobs import Job, JobStore
from studio.preview import encode_preview

REPORT_SECONDS = 0.4
"""Progress is written, and the cancel flag read, at most this often: as often as the page looks. On a processor that
both does the work and tells of it, every report costs the work some milliseconds."""


class Draining(Exception):
    """The worker has to stop; its job goes back to the queue."""


@dataclass(frozen=True)
class Note:
    """How far a job is."""

    step: int
    num_steps: int
    image_index: int = 0
    images_at_once: int = 1
    loss: float | None = None
    seconds_left: float | None = None
    words: str | None = None
    """What is done beside the steps."""
    preview: Callable[[], Image.Image] | None = field(default=None, compare=False)
    """Draws the picture as it stands. The same callable draws the same picture, which is written once."""


class Reporter:
    """Writes the latest note of each job; says when work has to end. Of several it closes those that are cancelled.

    Args:
        jobs: where the jobs live.
        claimed: those that are worked on, together.
        drain: set when the worker must stop.
        drain_seconds: how long after that the job may still go on.
    """

    def __init__(self, jobs: JobStore, claimed: Sequence[Job], *, drain: threading.Event, drain_seconds: float) -> None:
        self._jobs = jobs
        self._claimed = claimed
        self._drain = drain
        self._drain_seconds = drain_seconds
        self._drain_deadline: float | None = None
        self._latest: Mapping[str, Note] = {}
        self._previewed: dict[str, Callable[[], Image.Image]] = {}
        self._over: set[str] = set()
        self._closing = threading.Lock()
        """Held while a job is told of or closed: nobody tells of one that is over."""
        self._finished = threading.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"report-{claimed[0].id}")

    def __enter__(self) -> Self:
        self._reporting = self._thread.submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._finished.set()
        self._thread.shutdown()
        del self._reporting  # an error in it holds the caller's frame, and so the models' tensors, and us

    def note(self, notes: Mapping[str, Note]) -> None:
        """Leave notes, by id of the job; raise what ended the reporting thread.

        That is a lost job, a broken preview, or that all of the jobs are cancelled.
        """
        self._latest = notes
        if self._reporting.done():
            self._reporting.result()
        self._look_for_drain()
        if self._drain_deadline is not None and time.monotonic() >= self._drain_deadline:
            raise Draining

    def _look_for_drain(self) -> None:
        """Let the time run from when draining was asked: the next step may be long after that."""
        if self._drain_deadline is None and self._drain.is_set():
            self._drain_deadline = time.monotonic() + self._drain_seconds

    def _run(self) -> None:
        written: dict[str, Note] = {}
        while not self._finished.wait(REPORT_SECONDS if written else REPORT_SECONDS / 5):
            self._look_for_drain()
            latest = self._latest
            for job in self._claimed:
                with self._closing:
                    if job.id not in self._over and self._tell(job, latest.get(job.id), written):
                        self._cancel(job)

    def is_over(self, job: Job) -> bool:
        """Whether nothing more of a job is wanted; one of several that was cancelled is closed now."""
        with self._closing:
            if len(self._claimed) > 1 and job.id not in self._over and self._jobs.is_cancel_requested(job):
                self._cancel(job)
            return job.id in self._over

    @contextmanager
    def closing(self, job: Job) -> Iterator[None]:
        """Tell nothing of a job while the block closes it, nor afterwards, unless the block raises."""
        with self._closing:
            yield
            self._over.add(job.id)

    def _cancel(self, job: Job) -> None:
        """Close a job that somebody wants to end, or say so if it was the last."""
        if len(self._claimed) > len(self._over) + 1:
            self._jobs.requeue(job)  # given back, it is cancelled
            self._over.add(job.id)
        else:
            raise Cancelled(f"job {job.id} was cancelled")

    def _tell(self, job: Job, note: Note | None, written: dict[str, Note]) -> bool:
        """Write a note that is new; return whether cancelling was asked."""
        if note is None or note is written.get(job.id):
            return self._jobs.is_cancel_requested(job)
        asked = self._write(job, note)
        written[job.id] = note
        return asked

    def _write(self, job: Job, note: Note) -> bool:
        preview = note.preview if note.step else None
        if preview is not None and preview is self._previewed.get(job.id):
            preview = None
        asked = self._jobs.report(
            job,
            image_index=note.image_index,
            images_at_once=note.images_at_once,
            step=note.step,
            num_steps=note.num_steps,
            loss=note.loss,
            seconds_left=note.seconds_left,
            note=note.words,
            preview=None if preview is None else encode_preview(preview()),
        )
        if preview is not None:
            self._previewed[job.id] = preview
        return asked
