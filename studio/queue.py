"""The queue as every front end sees it, and the work that this process does itself while no worker is alive."""

import threading
from collections.abc import Callable, Collection, Iterable

from studio.jobs import Job, JobKind, JobState
from studio.local import LocalWork
from studio.settings import Settings
from studio.storage import Storage, worker_lock
from studio.worker import Machines, run_job, run_next

_WATCH_SECONDS = 0.1


class Queue:
    """Follows, cancels and resumes jobs; runs them here if need be.

    Args:
        storage: where everything is kept.
    """

    def __init__(self, storage: Storage) -> None:
        self.settings: Settings = storage.settings
        self._storage = storage
        self._machines = {device: Machines.of(storage.settings, device) for device in storage.settings.devices}

    def wait(self, job_id: str, *, on_update: Callable[[Job], object] | None = None) -> Job:
        """Return the job once it is finished. Runs it in this process while no worker is alive.

        Interrupting the wait (Ctrl-C) cancels the job.

        Args:
            job_id: the job.
            on_update: called about ten times a second with the job as it stands.

        Raises:
            NotFound: no such job.
            StorageError: it runs here, and the disk or the database refuses for longer than a moment.
        """
        pause = threading.Event()
        local: LocalWork | None = None
        try:
            while not (job := self.job(job_id)).is_finished:
                if local is None or not local.is_going_on():
                    local = self._run_here(job)
                if on_update is not None:
                    on_update(job)
                pause.wait(_WATCH_SECONDS)
        except KeyboardInterrupt:
            self.cancel(job_id)
            raise
        finally:
            if local is not None:
                local.join()
        if on_update is not None:
            on_update(job)
        return job

    def cancel(self, job_id: str) -> Job:
        """Cancel a job: a queued one at once, a running one within a step. What a training has learnt is kept.

        Raises:
            NotFound: no such job.
        """
        return self._storage.jobs.cancel(job_id)

    def resume(self, job_id: str, *, is_incomplete: bool = False) -> Job:
        """Queue a failed or cancelled job again; it goes on where it stopped. Any other job stays as it is.

        Args:
            job_id: of the job.
            is_incomplete: pictures of it are gone, so that a finished one is queued again too.

        Raises:
            NotFound: no such job.
        """
        return self._storage.jobs.resume(job_id, is_incomplete=is_incomplete)

    def submitted(self, idempotency_keys: Collection[str]) -> set[str]:
        """Return those of some idempotency keys that have a job."""
        return self._storage.jobs.with_keys(idempotency_keys)

    def job(self, job_id: str) -> Job:
        """Return one job.

        Raises:
            NotFound: no such job.
        """
        return self._storage.jobs.get(job_id)

    def jobs(
        self, *, states: Collection[JobState] | None = None, kind: JobKind | None = None, limit: int = 50
    ) -> list[Job]:
        """Return the newest jobs, of some states or of one kind only if asked."""
        return self._storage.jobs.newest(states=states, kind=kind, limit=limit)

    def current_job(self, *, kind: JobKind | None = None) -> Job | None:
        """Return the job that runs, the oldest if there are several; else the one that will run next."""
        return self._storage.jobs.current(kind=kind)

    def queue_length(self, *, kind: JobKind | None = None) -> int:
        """Return how many jobs wait, of one kind only if asked."""
        return self._storage.jobs.count({JobState.QUEUED}, kind=kind)

    def preview(self, job_id: str) -> bytes | None:
        """Return a running job's picture as it stands, or what a training painted last (JPEG); None without one."""
        return self._storage.jobs.preview(job_id)

    def live_workers(self) -> list[str]:
        """Return the devices that have a living worker."""
        return [device for device in self.settings.devices if worker_lock(self.settings, device).is_held()]

    def work_off(self, *, stop: threading.Event) -> LocalWork | None:
        """Start working off the queue here until it is empty or `stop` is set; None where a worker is alive."""

        def work(device: str) -> None:
            while not stop.is_set() and run_next(self._storage, device, machines=self._machines[device], drain=stop):
                pass

        return self._start(self.settings.devices, work, name="work-off")

    def _run_here(self, job: Job) -> LocalWork | None:
        """Start running a job in this process if a device is free and the job is still to be had."""

        def run(device: str) -> None:
            if device not in self._machines:
                return  # no longer configured: the job of its dead worker waits again, and that was all
            claimed = self._storage.jobs.claim(device, job_id=job.id)
            if claimed is not None:
                run_job(claimed, storage=self._storage, machines=self._machines[device], drain=threading.Event())

        devices = [job.device] if job.state is JobState.RUNNING and job.device else self.settings.devices
        return self._start(devices, run, name=f"run-{job.id}")

    def _start(self, devices: Iterable[str], work: Callable[[str], None], *, name: str) -> LocalWork | None:
        """Start a thread that works on the first free device while it holds its lock; None if there is none."""
        for device in devices:
            lock = worker_lock(self.settings, device)
            if lock.acquire(device=device):
                local = LocalWork(self._storage, device, lock=lock, work=work, name=name)
                local.start()
                return local
        return None
