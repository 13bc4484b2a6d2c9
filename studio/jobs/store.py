"""Jobs in a database: submitting, claiming, progress, cancelling, and what happens when a worker dies."""

import secrets
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from pipelines.spec.errors import NotFound
from pipelines.spec.request import GenerationRequest
from pipelines.spec.training import TrainingRequest
from studio.database import Database, job_table
from studio.jobs.job import UNFINISHED, ClaimLost, Job, JobKind, JobState
from studio.jobs.rows import COLUMNS, OWN_COLUMNS, job_of
from studio.jobs.turns import IS_NEAR, next_job

_FENCE_LOST = "this job is no longer ours"
_KEYS_AT_ONCE = 500


class JobStore:
    """Reads and writes jobs.

    Args:
        database: where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def submit(self, request: GenerationRequest | TrainingRequest, *, idempotency_key: str | None = None) -> Job:
        """Store a request as a queued job. The same idempotency key always returns the first job it made."""
        kind = JobKind.GENERATE if isinstance(request, GenerationRequest) else JobKind.TRAIN
        if isinstance(request, GenerationRequest):
            request = request.with_seeds()
        values = {
            "id": secrets.token_hex(8),
            "kind": kind,
            "state": JobState.QUEUED,
            "request": request.model_dump(mode="json", exclude_defaults=True),
            "idempotency_key": idempotency_key,
            "created_at": time.time(),
        }
        with self._database.write() as connection:
            if idempotency_key is not None:
                known = connection.execute(
                    sa.select(*COLUMNS).where(job_table.c.idempotency_key == idempotency_key)
                ).one_or_none()
                if known is not None:
                    return job_of(known)
            return job_of(connection.execute(_SUBMIT, values).one())

    def get(self, job_id: str) -> Job:
        """Return one job.

        Raises:
            NotFound: no job has this id.
        """
        with self._database.read() as connection:
            row = connection.execute(sa.select(*COLUMNS).where(_is(job_id))).one_or_none()
        if row is None:
            raise NotFound(f"there is no job {job_id[:80]!r}; `studio jobs` lists them")
        return job_of(row)

    def newest(
        self, *, states: Collection[JobState] | None = None, kind: JobKind | None = None, limit: int = 50
    ) -> list[Job]:
        """Return the newest jobs first, of some states or of one kind only if asked."""
        query = sa.select(*COLUMNS).where(_is_of(kind)).order_by(job_table.c.sequence.desc()).limit(limit)
        if states is not None:
            query = query.where(job_table.c.state.in_(states))
        with self._database.read() as connection:
            return [job_of(row) for row in connection.execute(query)]

    def current(self, *, kind: JobKind | None = None) -> Job | None:
        """Return the job that runs, the oldest if there are several; else the one that will run next."""
        query = sa.select(*COLUMNS).where(job_table.c.state.in_(UNFINISHED), _is_of(kind))
        running_first = (sa.case((job_table.c.state == JobState.RUNNING, 0), else_=1), job_table.c.sequence)
        with self._database.read() as connection:
            row = connection.execute(query.order_by(*running_first).limit(1)).one_or_none()
        return None if row is None else job_of(row)

    def count(self, states: Collection[JobState], *, kind: JobKind | None = None) -> int:
        """Return how many jobs are in these states, of one kind only if asked."""
        query = sa.select(sa.func.count()).select_from(job_table).where(job_table.c.state.in_(states), _is_of(kind))
        with self._database.read() as connection:
            return connection.execute(query).scalar_one()

    def preview(self, job_id: str) -> bytes | None:
        """Return the running job's picture as it stands: a small JPEG, or None."""
        with self._database.read() as connection:
            return connection.execute(sa.select(job_table.c.preview).where(_is(job_id))).scalar()

    def cancel(self, job_id: str) -> Job:
        """Cancel a queued job at once, or ask the worker of a running one to stop. A finished job stays as it is.

        Raises:
            NotFound: no job has this id.
        """
        with self._database.write() as connection:
            connection.execute(
                sa.update(job_table)
                .where(_is(job_id), job_table.c.state == JobState.QUEUED)
                .values(state=JobState.CANCELLED, finished_at=time.time())
            )
            connection.execute(
                sa.update(job_table)
                .where(_is(job_id), job_table.c.state == JobState.RUNNING)
                .values(cancel_requested=True)
            )
        return self.get(job_id)

    def resume(self, job_id: str, *, is_incomplete: bool = False) -> Job:
        """Queue a failed or cancelled job again; what it has made stays made. Any other job stays as it is.

        Args:
            job_id: of the job.
            is_incomplete: pictures of it are gone, so that a finished one is queued again too.

        Raises:
            NotFound: no job has this id.
        """
        over = {JobState.FAILED, JobState.CANCELLED, *([JobState.DONE] if is_incomplete else [])}
        with self._database.write() as connection:
            connection.execute(
                sa.update(job_table)
                .where(_is(job_id), job_table.c.state.in_(over))
                .values(
                    state=JobState.QUEUED, cancel_requested=False, error=None, finished_at=None, worker_deaths=0, step=0
                )
            )
        return self.get(job_id)

    def with_keys(self, idempotency_keys: Collection[str]) -> set[str]:
        """Return those of some idempotency keys that have a job."""
        column, keys = job_table.c.idempotency_key, list(idempotency_keys)
        parts = [keys[start : start + _KEYS_AT_ONCE] for start in range(0, len(keys), _KEYS_AT_ONCE)]
        queries = [sa.select(column).where(column.in_(part)) for part in parts]
        with self._database.read() as connection:
            return {key for query in queries for key in connection.execute(query).scalars()}

    # What workers do.

    def claim(self, device: str, *, job_id: str | None = None) -> Job | None:
        """Take a queued job, or one by id; None when there is nothing to take. A damaged one fails.

        Of the oldest and those that came right behind it, the first goes that wants what the device's last job wanted:
        its model and LoRAs, else its model. Fewer than `turns.SIDE_BY_SIDE` later ones ever overtake a job.
        """
        while True:
            chosen = job_id
            if chosen is None:
                with self._database.read() as connection:  # who looks often must not hold up who writes
                    chosen = next_job(connection, device)
            if chosen is None or not chosen.isascii():
                return None
            values = {"chosen": chosen, "on_device": device, "now": time.time()}
            with self._database.write() as connection:
                row = connection.execute(_CLAIM, values).one_or_none()
                job = None if row is None else _failed_if_damaged(connection, job_of(row))
            if job is None or job.state is JobState.RUNNING:
                return job

    def waiting_beside(self, job: Job) -> list[Job]:
        """Return the queued jobs that came with a claimed one, and may run with it without jumping the queue.

        Those that have seen a worker die are left out. Fewer than `turns.SIDE_BY_SIDE` later ones overtake any job.
        """
        with self._database.read() as connection:
            return [job_of(row) for row in connection.execute(_NEAR, {"claimed": job.id})]

    def report(
        self,
        job: Job,
        *,
        image_index: int = 0,
        images_at_once: int = 1,
        step: int,
        num_steps: int,
        loss: float | None = None,
        seconds_left: float | None = None,
        note: str | None = None,
        preview: bytes | None,
    ) -> bool:
        """Write progress; return whether cancelling was asked. A None preview keeps the last one.

        Raises:
            ClaimLost: the job belongs to another attempt, or is over.
        """
        values: dict[str, Any] = {
            "image_index": image_index,
            "images_at_once": images_at_once,
            "step": step,
            "num_steps": num_steps,
            "loss": loss,
            "seconds_left": seconds_left,
            "note": note,
            "new_preview": preview,
        }
        with self._database.write() as connection:
            asked = connection.execute(_REPORT, _attempt(job) | values).scalar()
        if asked is None:
            raise ClaimLost(_FENCE_LOST)
        return bool(asked)

    def is_cancel_requested(self, job: Job) -> bool:
        """Return whether cancelling was asked.

        Raises:
            ClaimLost: the job belongs to another attempt, or is over.
        """
        with self._database.read() as connection:
            asked = connection.execute(_IS_CANCEL_REQUESTED, _attempt(job)).scalar()
        if asked is None:
            raise ClaimLost(_FENCE_LOST)
        return bool(asked)

    def finish(self, job: Job, state: JobState, *, note: str | None = None, error: str | None = None) -> None:
        """Close a job; a note says what it could not do although it is done.

        Raises:
            ClaimLost: the job belongs to another attempt, or is over.
        """
        with self._database.write() as connection:
            self.finish_in(connection, job, state, note=note, error=error)

    def finish_in(
        self, connection: sa.Connection, job: Job, state: JobState, *, note: str | None = None, error: str | None = None
    ) -> None:
        """Close a job inside the caller's transaction; see `finish`."""
        ended = {"new_state": state, "new_note": note, "new_error": error, "new_finished_at": time.time()}
        _change(connection, _FINISH, job, ended)

    def requeue(self, job: Job) -> None:
        """Give a job back unfinished, for the next worker; one whose cancelling was asked is cancelled.

        Raises:
            ClaimLost: the job belongs to another attempt, or is over.
        """
        with self._database.write() as connection:
            _change(connection, sa.update(job_table).where(*_FENCE).values(_given_back()), job)

    def requeue_all(self, device: str) -> None:
        """Give back the running jobs of a device whose worker is to be ended: it is no death of theirs."""
        running = (job_table.c.device == device, job_table.c.state == JobState.RUNNING)
        with self._database.write() as connection:
            connection.execute(sa.update(job_table).where(*running).values(_given_back()))

    def assert_ours(self, connection: sa.Connection, job: Job) -> None:
        """Check inside the caller's transaction that the job still belongs to this attempt.

        Raises:
            ClaimLost: it does not.
        """
        if connection.execute(_IS_CANCEL_REQUESTED, _attempt(job)).scalar() is None:
            raise ClaimLost(_FENCE_LOST)

    def bury(self, device: str, *, max_worker_deaths: int) -> list[Job]:
        """Take back the running jobs of a device whose worker is known to be dead (its lock is ours).

        Each goes back to the queue, or fails if it has now seen `max_worker_deaths` workers die; a job whose cancelling
        was asked is cancelled, and one whose request cannot be read fails. Return them as they are afterwards.
        """
        deaths = job_table.c.worker_deaths + 1
        is_poison = deaths >= max_worker_deaths
        died = f"the worker died {max_worker_deaths} times while running this job; see the log for the reason"
        kept = "what it learnt until its last checkpoint is kept; existing: resume goes on from there"
        message = sa.case((job_table.c.kind == JobKind.TRAIN, f"{died}; {kept}"), else_=died)
        with self._database.write() as connection:
            rows = connection.execute(
                sa.update(job_table)
                .where(job_table.c.device == device, job_table.c.state == JobState.RUNNING)
                .values(
                    worker_deaths=deaths,
                    note=None,
                    preview=None,
                    state=sa.case(
                        (job_table.c.cancel_requested, JobState.CANCELLED),
                        (is_poison, JobState.FAILED),
                        else_=JobState.QUEUED,
                    ),
                    error=sa.case((is_poison & ~job_table.c.cancel_requested, message), else_=None),
                    finished_at=sa.case((job_table.c.cancel_requested | is_poison, time.time()), else_=None),
                )
                .returning(*COLUMNS)
            ).all()
            return [_failed_if_damaged(connection, job_of(row)) for row in rows]

    def running_devices(self) -> set[str]:
        """Return the devices that running jobs are said to run on."""
        query = sa.select(job_table.c.device).where(job_table.c.state == JobState.RUNNING).distinct()
        with self._database.read() as connection:
            return set(connection.execute(query).scalars())


def _is(job_id: str) -> sa.ColumnElement[bool]:
    """Match one job. What is not ASCII is no id, and half of a surrogate pair cannot even be looked up."""
    return job_table.c.id == job_id if job_id.isascii() else sa.false()


def _is_of(kind: JobKind | None) -> sa.ColumnElement[bool]:
    return sa.true() if kind is None else job_table.c.kind == kind


def _given_back() -> dict[str, Any]:
    asked = job_table.c.cancel_requested
    return {
        "state": sa.case((asked, JobState.CANCELLED), else_=JobState.QUEUED),
        "finished_at": sa.case((asked, time.time()), else_=None),
        "note": None,
        "preview": None,
    }


_FENCE = (
    job_table.c.id == sa.bindparam("job_id"),
    job_table.c.attempt == sa.bindparam("job_attempt"),
    job_table.c.state == JobState.RUNNING,
)
"""Matches a running job of one attempt, which `_attempt` names."""

# What every job asks, some of it again and again, is built once.
_SUBMIT = sa.insert(job_table).returning(*OWN_COLUMNS, sa.literal(0).label("images_made"))
"""A new job has made nothing; and an INSERT correlates no subquery, so `COLUMNS` would count the pictures of all."""
_CLAIM = (
    sa.update(job_table)
    .where(job_table.c.id == sa.bindparam("chosen"), job_table.c.state == JobState.QUEUED)
    .values(
        state=JobState.RUNNING,
        device=sa.bindparam("on_device"),
        started_at=sa.bindparam("now"),
        attempt=job_table.c.attempt + 1,
        num_steps=0,
        step=0,
        error=None,
    )
    .returning(*COLUMNS)
)
_NEAR = sa.select(*COLUMNS).where(IS_NEAR, job_table.c.worker_deaths == 0).order_by(job_table.c.sequence)
_FINISH = (
    sa.update(job_table)
    .where(*_FENCE)
    .values(**{name: sa.bindparam(f"new_{name}") for name in ("state", "note", "error", "finished_at")}, preview=None)
)
_IS_CANCEL_REQUESTED = sa.select(job_table.c.cancel_requested).where(*_FENCE)
_REPORT = (
    sa.update(job_table)
    .where(*_FENCE)
    .values(
        **{
            name: sa.bindparam(name)
            for name in ("image_index", "images_at_once", "step", "num_steps", "loss", "seconds_left", "note")
        },
        preview=sa.func.coalesce(sa.bindparam("new_preview", type_=sa.LargeBinary), job_table.c.preview),
    )
    .returning(job_table.c.cancel_requested)
)


def _change(connection: sa.Connection, change: sa.Update, job: Job, values: Mapping[str, Any] | None = None) -> None:
    """Change the row of a running job, if it belongs to this attempt."""
    if connection.execute(change, {**_attempt(job), **(values or {})}).rowcount != 1:
        raise ClaimLost(_FENCE_LOST)


def _attempt(job: Job) -> dict[str, Any]:
    return {"job_id": job.id, "job_attempt": job.attempt}


def _failed_if_damaged(connection: sa.Connection, job: Job) -> Job:
    """Close a job whose request cannot be read: no other unfinished one has an error."""
    if job.is_finished or job.error is None:
        return job
    failed = replace(job, state=JobState.FAILED, finished_at=time.time())
    values = {"state": failed.state, "error": failed.error, "finished_at": failed.finished_at}
    connection.execute(sa.update(job_table).where(job_table.c.id == job.id).values(values))
    return failed
