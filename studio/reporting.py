"""Carries progress to a job's row from a thread of its own: who works only leaves a note."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
    preview: Callable[[], Image.Image] | None = field(default=None, compare=False)
    """Draws the picture as it stands. The same callable draws the same picture, which is written once."""


class Reporter:
    """Writes the latest note; says when work has to end.

    Args:
        jobs: where the job lives.
        job: the claimed job.
        drain: set when the worker must stop.
        drain_seconds: how long after that the job may still go on.
    """

    def __init__(self, jobs: JobStore, job: Job, *, drain: threading.Event, drain_seconds: float) -> None:
        self._jobs = jobs
        self._job = job
        self._drain = drain
        self._drain_seconds = drain_seconds
        self._drain_deadline: float | None = None
        self._latest: Note | None = None
        self._previewed: Callable[[], Image.Image] | None = None
        self._finished = threading.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"report-{job.id}")

    def __enter__(self) -> Self:
        self._reporting = self._thread.submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._finished.set()
        self._thread.shutdown()

    def note(self, note: Note) -> None:
        """Leave a note; raise what ended the reporting thread: a cancelled or lost job, or a broken preview."""
        self._latest = note
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
        written: Note | None = None
        while not self._finished.wait(REPORT_SECONDS if written else REPORT_SECONDS / 5):
            self._look_for_drain()
            note = self._latest
            if note is None or note is written:
                asked = self._jobs.is_cancel_requested(self._job)
            else:
                asked = self._write(note)
                written = note
            if asked:
                raise Cancelled(f"job {self._job.id} was cancelled")

    def _write(self, note: Note) -> bool:
        preview = None if note.preview is self._previewed or not note.step else note.preview
        asked = self._jobs.report(
            self._job,
            image_index=note.image_index,
            images_at_once=note.images_at_once,
            step=note.step,
            num_steps=note.num_steps,
            loss=note.loss,
            seconds_left=note.seconds_left,
            preview=None if preview is None else encode_preview(preview()),
        )
        self._previewed = preview or self._previewed
        return asked
