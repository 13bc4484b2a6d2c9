"""Runs jobs: one process per device, under a supervisor. `load_engine` and `load_trainer` alone reach torch."""

import faulthandler
import logging
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from importlib import import_module
from typing import Self

from pipelines.spec.engine import Engine, Step
from pipelines.spec.errors import Cancelled, StorageError, StudioError
from pipelines.spec.trainer import Trainer
from studio.files import ProcessLock, left_behind, sweep, sweep_orphans, temporary_suffix
from studio.jobs import ClaimLost, Job, JobState
from studio.preview import encode_preview
from studio.settings import Settings
from studio.storage import Storage, worker_lock

REPORT_SECONDS = 0.25
"""Progress is written, and the cancel flag read, at most this often."""
IDLE_SECONDS = 0.1
"""How often an idle worker looks for work."""
CLOSING_PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Pauses between attempts to write how a job ended, while the disk or the database refuses."""
REFUSED_SECONDS = 5.0
"""How long a worker waits when it still does."""

log = logging.getLogger(__name__)


class Draining(Exception):
    """The worker has to stop; its job goes back to the queue."""


def load_engine(settings: Settings, device: str) -> Engine:
    """Import and make the engine that the settings name."""
    return _ENGINES[settings.engine](settings, device)


def load_trainer(device: str) -> Trainer:
    """Import and make what trains."""
    trainer: Trainer = import_module("pipelines.training.trainer").LoraTrainer(device=device)
    return trainer


def _diffusers_engine(_: Settings, device: str) -> Engine:
    engine: Engine = import_module("pipelines.engines.diffusers_engine").DiffusersEngine(device=device)
    return engine


def _fake_engine(settings: Settings, _: str) -> Engine:
    engine: Engine = import_module("pipelines.engines.fake_engine").FakeEngine(step_seconds=settings.fake_step_seconds)
    return engine


_ENGINES: Mapping[str, Callable[[Settings, str], Engine]] = {"diffusers": _diffusers_engine, "fake": _fake_engine}


class Reporter:
    """Carries progress to the job's row from a thread of its own: the denoising loop only leaves a note.

    Args:
        storage: where the job lives.
        job: the claimed job.
        indexes: the image index within the job of each picture the engine makes.
        drain: set when the worker must stop; the settings' `drain_seconds` later the job is given back.
    """

    def __init__(self, storage: Storage, job: Job, *, indexes: list[int], drain: threading.Event) -> None:
        self._storage = storage
        self._job = job
        self._indexes = indexes
        self._drain = drain
        self._drain_deadline: float | None = None
        self._latest: Step | None = None
        self._finished = threading.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"report-{job.id}")

    def __enter__(self) -> Self:
        self._reporting = self._thread.submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._finished.set()
        self._thread.shutdown()

    def on_step(self, step: Step) -> None:
        """Note the step; raise what ended the reporting thread: a cancelled or lost job, or a broken preview."""
        self._latest = step
        if self._reporting.done():
            self._reporting.result()
        self._look_for_drain()
        if self._drain_deadline is not None and time.monotonic() >= self._drain_deadline:
            raise Draining

    def _look_for_drain(self) -> None:
        """Let the time run from when draining was asked: the next step may be long after that."""
        if self._drain_deadline is None and self._drain.is_set():
            self._drain_deadline = time.monotonic() + self._storage.settings.drain_seconds

    def _run(self) -> None:
        written: Step | None = None
        while not self._finished.wait(REPORT_SECONDS if written else REPORT_SECONDS / 5):
            self._look_for_drain()
            step = self._latest
            if step is None or step is written:
                asked = self._storage.jobs.is_cancel_requested(self._job)
            else:
                asked = self._write(step)
                written = step
            if asked:
                raise Cancelled(f"job {self._job.id} was cancelled")

    def _write(self, step: Step) -> bool:
        return self._storage.jobs.report(
            self._job,
            image_index=self._indexes[step.image_index],
            images_at_once=step.images_at_once,
            step=step.step,
            num_steps=step.num_steps,
            preview=encode_preview(step.preview()) if step.preview and step.step else None,
        )


def run_job(job: Job, *, storage: Storage, engine: Callable[[], Engine], drain: threading.Event) -> None:
    """Make a claimed job's missing pictures, publish each before the next starts, and close the job.

    Args:
        job: as claimed by this process.
        storage: where everything is kept.
        engine: returns the engine; loads it if need be.
        drain: set when this process must stop soon.

    Raises:
        StorageError: how the job ended could not be written, not even after some time.
    """
    finish = partial(storage.jobs.finish, job)
    try:
        _generate(job, storage=storage, engine=engine, drain=drain)
        close = partial(finish, JobState.DONE)
    except ClaimLost:
        log.info("job %s is no longer ours", job.id)
        return
    except Draining:
        close = partial(storage.jobs.requeue, job)
    except Cancelled:
        close = partial(finish, JobState.CANCELLED)
    except StudioError as error:
        close = partial(finish, JobState.FAILED, error=str(error))
    except Exception as error:  # noqa: BLE001 - whatever breaks, the job says so and the worker goes on
        log.error("job %s failed\n%s", job.id, traceback.format_exc())
        reason = f"unexpected {type(error).__name__}: {error}; the log has the details"
        close = partial(finish, JobState.FAILED, error=reason)
    _close(job, close)


def _generate(job: Job, *, storage: Storage, engine: Callable[[], Engine], drain: threading.Event) -> None:
    model, resolved = storage.expand(job.request)
    made = storage.gallery.made(job)
    missing = [index for index in range(len(resolved)) if index not in made]
    if not missing:
        return
    inputs = storage.open_inputs(job.request, model, resolved)
    with Reporter(storage, job, indexes=missing, drain=drain) as reporter:
        for generated in engine().generate([resolved[index] for index in missing], inputs, reporter.on_step):
            storage.gallery.add(job, replace(generated, index=missing[generated.index]))


def _close(job: Job, close: Callable[[], None]) -> None:
    """Write how a job ended. What refuses may pass, as a full disk does, and until then the job is ours."""
    for pause in (*CLOSING_PAUSES, None):
        try:
            close()
        except ClaimLost:
            log.info("job %s is no longer ours", job.id)
        except StorageError as error:
            if pause is None:
                raise
            log.warning("job %s cannot be closed, trying again in %s s: %s", job.id, pause, error)
            time.sleep(pause)
            continue
        return


def take_over(storage: Storage, device: str) -> None:
    """Clean up after dead workers: those of a device whose lock is ours, and those of devices that nobody has.

    A device that is no longer configured gets no new worker: who starts on another one looks after its jobs.
    """
    _bury(storage, device)
    for other in storage.jobs.running_devices() - {device}:
        lock = worker_lock(storage.settings, other)
        if lock.acquire(device=other):
            try:
                _bury(storage, other)
            finally:
                lock.release()


def tidy(storage: Storage) -> None:
    """Delete what dead processes left half-written, also those of devices that are no longer configured."""
    folders = (storage.gallery.images_dir, storage.gallery.thumbnails_dir)
    for device in set().union(*map(left_behind, folders)):
        lock = worker_lock(storage.settings, device)
        if lock.acquire(device=device):
            try:
                for folder in folders:
                    sweep(folder, temporary_suffix(device))
            finally:
                lock.release()
    for folder in (*folders, storage.inputs.folder):
        sweep_orphans(folder)


def _bury(storage: Storage, device: str) -> None:
    """Take back a dead worker's jobs and delete its temporary files. The device's lock must be ours."""
    for job in storage.jobs.bury(device, max_worker_deaths=storage.settings.max_worker_deaths):
        log.warning("job %s was left by a dead worker; it is now %s", job.id, job.state)
    for folder in (storage.gallery.images_dir, storage.gallery.thumbnails_dir):
        sweep(folder, temporary_suffix(device))


def work(storage: Storage, device: str, *, stop: threading.Event) -> None:
    """Claim and run jobs of one device until `stop` is set."""
    lock = worker_lock(storage.settings, device)
    while not lock.acquire(device=device):
        if stop.wait(IDLE_SECONDS):
            return
    try:
        take_over(storage, device)
        tidy(storage)
        engine = cache(partial(load_engine, storage.settings, device))
        _warm_up(engine)
        while not stop.is_set():
            try:
                storage.jobs.requeue_all(device)  # what could not be closed when storage refused
                _work_off(storage, device, engine, stop=stop)
            except StorageError as error:
                log.error("the worker for %s waits %s s: %s", device, REFUSED_SECONDS, error)
                stop.wait(REFUSED_SECONDS)
    finally:
        lock.release()


def _work_off(storage: Storage, device: str, engine: Callable[[], Engine], *, stop: threading.Event) -> None:
    while not stop.is_set():
        job = storage.jobs.claim(device)
        if job is None:
            stop.wait(IDLE_SECONDS)
        else:
            run_job(job, storage=storage, engine=engine, drain=stop)


class LocalWork(threading.Thread):
    """Work in a thread of this process.

    Args:
        storage: where everything is kept.
        device: whose dead workers are cleaned up after, first of all.
        lock: the device's, held; freed at the end.
        work: what to do then, given the device.
        name: the thread's.
    """

    def __init__(
        self, storage: Storage, device: str, *, lock: ProcessLock, work: Callable[[str], None], name: str
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._storage = storage
        self._device = device
        self._device_lock = lock
        self._work = work
        self._refusal: StorageError | None = None

    def run(self) -> None:
        """Do the work."""
        try:
            take_over(self._storage, self._device)
            self._work(self._device)
        except StorageError as error:
            self._refusal = error
            with suppress(StorageError):  # the next to come would think that a worker died
                self._storage.jobs.requeue_all(self._device)
        finally:
            self._device_lock.release()

    def is_going_on(self) -> bool:
        """Return whether there is more to come.

        Raises:
            StorageError: it ended because the disk or the database refused.
        """
        if self.is_alive():
            return True
        if self._refusal is not None:
            raise self._refusal
        return False


def _warm_up(engine: Callable[[], Engine]) -> None:
    """Load the engine before the first job asks; what goes wrong is the answer to that job."""
    try:
        engine()
    except Exception:  # torch raises what it likes, and the first job meets it again
        log.exception("the engine cannot be loaded")


def _watch_parent(stop: threading.Event) -> None:
    """Wait for the end of standard input: the supervisor asks to drain, or is gone."""
    sys.stdin.read()
    stop.set()


def main(arguments: list[str]) -> int:
    """Entry point of a worker process: `python -m studio.worker DEVICE`.

    The first line of its standard input is the settings as JSON: they may hold a password, and everybody can read a
    command line. It drains and leaves when that input closes (the supervisor is gone or asks for it) or on SIGTERM.
    """
    return attend(Settings.model_validate_json(sys.stdin.readline()), arguments[0])


def attend(settings: Settings, device: str) -> int:
    """Be the worker process of a device; return the exit code."""
    faulthandler.enable()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    stop = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor decides
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=_watch_parent, args=(stop,), name="parent-watch", daemon=True).start()
    work(Storage.open(settings), device, stop=stop)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
