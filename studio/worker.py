"""Runs jobs: one process per device, under a supervisor.

Alone reach torch: `load_engine`, `load_trainer`, and `unpickle`, which no job asks for.
"""

import faulthandler
import gc
import logging
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import Self

from pipelines.spec.engine import Engine
from pipelines.spec.errors import Cancelled, StorageError, StudioError
from pipelines.spec.pickles import Unpickled
from pipelines.spec.pictures import open_picture
from pipelines.spec.trainer import TrainedLora, Trainer, TrainingStep
from studio.files import left_behind, sweep, sweep_orphans, temporary_suffix
from studio.jobs import ClaimLost, GenerationJob, Job, JobState, TrainingJob
from studio.painting import Unmade, claim_company, paint
from studio.reporting import Draining, Note, Reporter
from studio.settings import Settings
from studio.storage import Storage, worker_lock

IDLE_SECONDS = 0.1
"""How often an idle worker looks for work."""
CLOSING_PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Pauses between attempts to write how a job ended, while the disk or the database refuses."""
REFUSED_SECONDS = 5.0
"""How long a worker waits when it still does."""

log = logging.getLogger(__name__)


def load_engine(settings: Settings, device: str) -> Engine:
    """Import and make the engine that the settings name."""
    return _ENGINES[settings.engine](settings, device)


def load_trainer(device: str) -> Trainer:
    """Import and make what trains."""
    trainer: Trainer = import_module("pipelines.training.trainer").LoraTrainer(device=device)
    return trainer


def unpickle(path: Path) -> Unpickled:
    """Import what reads the tensors of a pickle without running anything in it; see there what it raises."""
    unpickled: Unpickled = import_module("pipelines.runtime.pickles").unpickle(path)
    return unpickled


def _diffusers_engine(settings: Settings, device: str) -> Engine:
    engine: Engine = import_module("pipelines.engines.diffusers_engine").DiffusersEngine(
        device=device, batch_size=settings.images_at_once
    )
    return engine


def _fake_engine(settings: Settings, _: str) -> Engine:
    engine: Engine = import_module("pipelines.engines.fake_engine").FakeEngine(step_seconds=settings.fake_step_seconds)
    return engine


_ENGINES: Mapping[str, Callable[[Settings, str], Engine]] = {"diffusers": _diffusers_engine, "fake": _fake_engine}


class Machines:
    """What works on a device: its engine, loaded once, or its trainer. Never both at once: each wants the memory.

    Args:
        load_engine: imports and makes the engine.
        load_trainer: imports and makes the trainer.
    """

    def __init__(self, load_engine: Callable[[], Engine], load_trainer: Callable[[], Trainer]) -> None:
        self._load_engine, self._load_trainer = load_engine, load_trainer
        self._engine: Engine | None = None

    @classmethod
    def of(cls, settings: Settings, device: str) -> Self:
        """Return those that the settings name."""
        return cls(lambda: load_engine(settings, device), lambda: load_trainer(device))

    def engine(self) -> Engine:
        """Return the engine; loads it if need be."""
        if self._engine is None:
            self._engine = self._load_engine()
        return self._engine

    def trainer(self) -> Trainer:
        """Let go of the engine, with the models that it holds, and return a trainer."""
        self._engine = None
        gc.collect()  # models hold themselves in circles
        return self._load_trainer()


def run_job(job: Job, *, storage: Storage, machines: Machines, drain: threading.Event) -> None:
    """Do what is left of a claimed job, and close it.

    Args:
        job: as claimed by this process.
        storage: where everything is kept.
        machines: what does the work.
        drain: set when this process must stop soon.

    Raises:
        StorageError: how the job ended could not be written, not even after some time.
    """
    finish = partial(storage.jobs.finish, job)
    try:
        match job:
            case GenerationJob():
                unmade = Unmade.of(job, storage)
                if unmade.pictures:
                    paint([unmade], storage=storage, engine=machines.engine, drain=drain)
                    return
                close = partial(finish, JobState.DONE)
            case TrainingJob():
                lora = _train(job, storage=storage, machines=machines, drain=drain)
                close = partial(finish, JobState.DONE, note=lora.note or None)
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


def run_next(storage: Storage, device: str, *, machines: Machines, drain: threading.Event) -> bool:
    """Claim the job whose turn it is, and with it those that share its batches; run them. False: nothing waits.

    Raises:
        StorageError: see `run_job`.
    """
    job = storage.jobs.claim(device)
    if job is None:
        return False
    if together := claim_company(job, storage):
        _run_together(together, storage=storage, machines=machines, drain=drain)
    else:
        run_job(job, storage=storage, machines=machines, drain=drain)
    return True


def _run_together(together: Sequence[Unmade], *, storage: Storage, machines: Machines, drain: threading.Event) -> None:
    """Paint jobs that share batches, which closes them; where that fails they run one by one."""
    jobs = [each.job for each in together]
    try:
        paint(together, storage=storage, engine=machines.engine, drain=drain)
    except (Cancelled, Draining):
        for job in jobs:
            _close(job, partial(_give_back, job, storage))
    except Exception as error:  # noqa: BLE001 - each by itself says what is wrong with it, and the others are made
        log.warning("jobs %s run one by one: %s", ", ".join(job.id for job in jobs), error)
        for job in jobs:
            if drain.is_set():
                _close(job, partial(storage.jobs.requeue, job))
            else:
                run_job(job, storage=storage, machines=machines, drain=drain)


def _give_back(job: Job, storage: Storage) -> None:
    """Give back a job that was painted with others, unless it is over; one that is to end is cancelled."""
    if not storage.jobs.get(job.id).is_finished:
        storage.jobs.requeue(job)


def _train(job: TrainingJob, *, storage: Storage, machines: Machines, drain: threading.Event) -> TrainedLora:
    """Do the steps that are left. Who cancels, or ends the worker, stops it, and what is learnt is kept."""
    training = storage.training(job.request)
    draw = lru_cache(maxsize=1)(lambda path: lambda: open_picture(path).image)  # one callable for one picture
    reasons: list[Cancelled | Draining] = []

    def on_step(step: TrainingStep) -> bool:
        preview = None if step.picture is None else draw(step.picture)
        note = Note(
            step.step,
            step.num_steps,
            loss=step.loss,
            seconds_left=step.eta,
            words=step.note or None,
            preview=preview,
        )
        try:
            reporter.note({job.id: note})
        except (Cancelled, Draining) as reason:
            if not step.step:
                raise  # nothing is learnt yet
            reasons.append(reason)
        return not reasons

    with Reporter(storage.jobs, [job], drain=drain, drain_seconds=0) as reporter:
        lora = training.run(machines.trainer(), job_id=job.id, on_step=on_step)
    storage.jobs.report(job, step=lora.steps, num_steps=lora.num_steps, loss=lora.final_loss, preview=None)
    if reasons and not lora.is_complete:
        raise reasons[0]
    return lora


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
    take_back(storage, storage.jobs.running_devices() - {device})


def take_back(storage: Storage, devices: Collection[str]) -> None:
    """Take back the jobs of those devices that nobody has: who had them is dead."""
    for device in devices:
        lock = worker_lock(storage.settings, device)
        if lock.acquire(device=device):
            try:
                _bury(storage, device)
            finally:
                lock.release()


def tidy(storage: Storage) -> None:
    """Delete what dead processes left half-written, also those of devices that are no longer configured."""
    folders = (storage.gallery.images_dir, storage.gallery.thumbnails_dir)
    for device in set().union(*map(left_behind, folders)):
        lock = worker_lock(storage.settings, device)
        if lock.acquire(device=device):
            try:
                _sweep(storage, device)
            finally:
                lock.release()
    for folder in (*folders, storage.inputs.folder):
        sweep_orphans(folder)


def _bury(storage: Storage, device: str) -> None:
    """Take back a dead worker's jobs and delete its temporary files. The device's lock must be ours.

    Who left no job was not writing; to look through the folders takes half a second where there are 100,000 pictures.
    """
    left = storage.jobs.bury(device, max_worker_deaths=storage.settings.max_worker_deaths)
    for job in left:
        log.warning("job %s was left by a dead worker; it is now %s", job.id, job.state)
    if left:
        _sweep(storage, device)


def _sweep(storage: Storage, device: str) -> None:
    """Delete the temporary files of a device's dead worker. The device's lock must be ours."""
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
        _sweep(storage, device)  # who was killed when its job was given back left one too
        tidy(storage)
        machines = Machines.of(storage.settings, device)
        _warm_up(machines)
        while not stop.is_set():
            try:
                storage.jobs.requeue_all(device)  # what could not be closed when storage refused
                _work_off(storage, device, machines, stop=stop)
            except StorageError as error:
                log.error("the worker for %s waits %s s: %s", device, REFUSED_SECONDS, error)
                stop.wait(REFUSED_SECONDS)
    finally:
        lock.release()


def _work_off(storage: Storage, device: str, machines: Machines, *, stop: threading.Event) -> None:
    while not stop.is_set():
        if not run_next(storage, device, machines=machines, drain=stop):
            stop.wait(IDLE_SECONDS)


def _warm_up(machines: Machines) -> None:
    """Load the engine before the first job asks; what goes wrong is the answer to that job."""
    try:
        machines.engine()
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
