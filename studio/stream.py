"""Many requests, one after the other: a few jobs ahead in the queue, pictures as they finish, failures told apart.

Knows a Studio by what it is given of it; where requests come from and where pictures go is not its business.
"""

import re
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from pipelines.spec.errors import SomeFailed, StudioError
from pipelines.spec.request import GenerationRequest
from studio.gallery import Gallery, GalleryImage
from studio.jobs import Job, JobState

AHEAD = 16
"""So many jobs are queued or running at a time, however many requests there are: while those of one batch run, those of
the next wait."""
_LOOK_SECONDS = 0.1
_CANCEL_SECONDS = 10.0
_LORA_TAG = re.compile(r"<lora:[^>]+>")

T = TypeVar("T")

OnError = Callable[[int, StudioError], object]
"""Told of a request that could not be made: its position, from 0, and why."""


class Making(Protocol):
    """The part of a Studio that is needed here."""

    @property
    def gallery(self) -> Gallery:
        """The finished pictures."""

    def request(self, request: Any, **fields: Any) -> GenerationRequest:
        """Build a request."""

    def submit(self, request: GenerationRequest) -> Job:
        """Queue a request."""

    def job(self, job_id: str) -> Job:
        """Return one job."""

    def cancel(self, job_id: str) -> Job:
        """Cancel a job."""

    def result(self, job: Job) -> list[GalleryImage]:
        """Return a finished job's pictures, or raise why there are none."""

    def work_off(self, *, stop: threading.Event) -> "Working | None":
        """Start working off the queue in this process, unless a worker is alive."""


class Working(Protocol):
    """Work that goes on in this process."""

    def is_going_on(self) -> bool:
        """Return whether there is more to come; raises StorageError if storage ended it."""

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end."""


@dataclass
class _Asked:
    job: Job
    seen: set[int] = field(default_factory=set)
    """Indexes of the pictures already handed on: they need not finish in order."""


class Stream(Generic[T]):
    """Yields pictures as they finish, each with the position of its request.

    Closing the iterator, or Ctrl-C, cancels what is still queued or running.

    Args:
        studio: makes the pictures.
        items: positions and requests in any form; read only as far as they can be queued, so they may have no end.
        submit: turns an item into a job.
        on_error: told of each request that was refused, failed or was cancelled; the others go on.
        on_look: told about ten times a second how many requests are over, and of the jobs that are not.
    """

    def __init__(
        self,
        studio: Making,
        items: Iterable[tuple[int, T]],
        submit: Callable[[T], Job],
        *,
        on_error: Callable[[int, StudioError], object],
        on_look: Callable[[int, list[Job]], object],
    ) -> None:
        self._studio = studio
        self._items = iter(items)
        self._submit = submit
        self._on_error = on_error
        self._on_look = on_look
        self._asked: dict[int, _Asked] = {}
        self._over = 0

    def __iter__(self) -> Generator[tuple[int, GalleryImage], None, None]:
        stop = threading.Event()
        local: Working | None = None
        try:
            while self._fill():
                self._on_look(self._over, self._jobs())
                if local is None or not local.is_going_on():
                    local = self._studio.work_off(stop=stop)
                over = self._over
                for position, one in list(self._asked.items()):
                    yield from self._new_pictures(position, one)
                if self._over == over:
                    _wait(local)
            self._on_look(self._over, [])
        finally:
            stop.set()
            _cancel(self._studio, self._jobs())
            if local is not None:
                local.join()

    def _fill(self) -> bool:
        """Queue as many as may be ahead; return whether there is anything to wait for."""
        while len(self._asked) < AHEAD:
            for position, item in self._items:
                try:
                    self._asked[position] = _Asked(self._submit(item))
                except StudioError as error:
                    self._end(position, error)
                break
            else:
                break
        return bool(self._asked)

    def _new_pictures(self, position: int, one: _Asked) -> Iterator[tuple[int, GalleryImage]]:
        """Yield what a job has made since the last look, and take leave of it if it is over."""
        one.job = self._studio.job(one.job.id)
        if one.job.state is JobState.QUEUED and not one.job.attempt:
            return
        for image in self._studio.gallery.of_job(one.job.id):
            if image.index not in one.seen:
                one.seen.add(image.index)
                yield position, image
        if one.job.is_finished:
            try:
                self._studio.result(one.job)
            except StudioError as error:
                self._end(position, error)
            else:
                self._end(position, None)

    def _end(self, position: int, error: StudioError | None) -> None:
        self._asked.pop(position, None)
        self._over += 1
        if error is not None:
            self._on_error(position, error)

    def _jobs(self) -> list[Job]:
        return [one.job for one in self._asked.values()]


def pictures_of(
    studio: Making,
    requests: Iterable[Any],
    *,
    fields: Mapping[str, Any],
    on_error: OnError | None,
    on_look: Callable[[int, list[Job]], object],
) -> Iterator[GalleryImage]:
    """Yield the pictures of many requests as they finish; see `Studio.generate`.

    Raises:
        SomeFailed: after the last picture, without `on_error`.
    """
    failures: dict[int, StudioError] = {}
    tell = on_error or failures.__setitem__
    items: Iterable[tuple[int, Any]] = enumerate(requests)

    def submit(item: Any) -> Job:
        return studio.submit(item if isinstance(requests, Sequence) else studio.request(item, **fields))

    if isinstance(requests, Sequence):  # all is known before anything is made
        items = _ordered(studio, requests, fields, on_error=tell)
    with closing(iter(Stream(studio, items, submit, on_error=tell, on_look=on_look))) as pictures:
        for _, image in pictures:
            yield image
    if failures:
        raise SomeFailed(dict(sorted(failures.items())))


def _ordered(
    studio: Making, requests: Sequence[Any], fields: Mapping[str, Any], *, on_error: OnError
) -> list[tuple[int, GenerationRequest]]:
    """Build all requests and order them by likeness; those that cannot be built are told."""
    built: list[tuple[int, GenerationRequest]] = []
    for position, item in enumerate(requests):
        try:
            built.append((position, studio.request(item, **fields)))
        except StudioError as error:
            on_error(position, error)
    return by_likeness(built)


def by_likeness(requests: Iterable[tuple[int, GenerationRequest]]) -> list[tuple[int, GenerationRequest]]:
    """Order requests so that those of one model follow each other, and of these those with the same LoRAs and size.

    Models come in the order of their first request, as do LoRAs and sizes within one: nothing is loaded twice.
    """
    models: dict[str | None, dict[str, list[tuple[int, GenerationRequest]]]] = {}
    for position, request in requests:
        tags = _LORA_TAG.findall(request.prompt)
        likeness = f"{request.model_dump(include={'loras', 'width', 'height'})} {tags}"
        models.setdefault(request.model, {}).setdefault(likeness, []).append((position, request))
    return [one for alike in models.values() for group in alike.values() for one in group]


def _wait(local: Working | None) -> None:
    if local is None:
        time.sleep(_LOOK_SECONDS)
    else:
        local.join(_LOOK_SECONDS)


def _cancel(studio: Making, jobs: list[Job]) -> None:
    """Cancel jobs, and give the workers of running ones a moment to notice."""
    running = [job for job in jobs if not studio.cancel(job.id).is_finished]
    deadline = time.monotonic() + _CANCEL_SECONDS
    while running and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
        running = [job for job in running if not studio.job(job.id).is_finished]
