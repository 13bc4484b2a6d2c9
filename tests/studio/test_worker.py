"""What a worker makes of good and bad engines, of cancelling and draining; what a supervisor makes of workers."""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest
from PIL import Image

from pipelines.engines.fake_engine import FakeEngine
from pipelines.spec.engine import Engine, GeneratedImage, Inputs, Step
from pipelines.spec.errors import AlreadyRunning, NotANumber, OutOfMemory, StorageError
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.trainer import Trainer
from studio import JobState, Settings, Studio
from studio.jobs import GenerationJob, Job
from studio.painting import Unmade
from studio.reporting import Draining
from studio.storage import Storage, server_lock, worker_lock
from studio.supervisor import Supervisor
from studio.worker import Machines, load_engine, run_job, take_over, tidy, work


class Trouble(FakeEngine):
    """A fake engine that does something after its first picture."""

    def __init__(self, then: Callable[[], object], **options: float) -> None:
        super().__init__(**options)
        self._then = then

    def generate(
        self, requests: Sequence[ResolvedRequest], inputs: Inputs, on_step: Callable[[Step], None]
    ) -> Iterator[GeneratedImage]:
        for image in super().generate(requests, inputs, on_step):
            yield image
            if image.index == 0:
                self._then()


@pytest.fixture
def storage(settings: Settings) -> Iterator[Storage]:
    storage = Storage.open(settings)
    yield storage
    storage.database.close()


def run(storage: Storage, engine: Engine, *, drain: threading.Event | None = None, **fields: object) -> Job:
    submitted = storage.jobs.submit(GenerationRequest.parse({"prompt": "a boat", "num_images": 3, **fields}))
    job = storage.jobs.claim("cpu", job_id=submitted.id)
    assert job is not None
    run_job(job, storage=storage, machines=Machines(lambda: engine, no_trainer), drain=drain or threading.Event())
    return storage.jobs.get(job.id)


def no_trainer() -> Trainer:
    raise AssertionError("nothing is trained here")


def raising(error: Exception) -> Callable[[], object]:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OutOfMemory("cuda:0 has 8.0 GiB; try a smaller size"), "cuda:0 has 8.0 GiB; try a smaller size"),
        (NotANumber("the model produced NaN"), "the model produced NaN"),
        (RuntimeError("boom"), "unexpected RuntimeError: boom; the log has the details"),
        (MemoryError(), "unexpected MemoryError: ; the log has the details"),
        (OSError(5, "Input/output error"), "unexpected OSError: .*; the log has the details"),
        (StopIteration(), "unexpected RuntimeError: generator raised StopIteration; the log"),
    ],
)
def test_an_engine_that_breaks_fails_the_job_and_what_was_made_stays(
    error: Exception, reason: str, storage: Storage
) -> None:
    job = run(storage, Trouble(raising(error)))
    assert job.state is JobState.FAILED
    assert re.match(reason, job.error or "")
    assert [image.index for image in storage.gallery.of_job(job.id)] == [0]
    assert run(storage, FakeEngine()).state is JobState.DONE


def test_an_engine_that_cannot_be_loaded_fails_the_job(storage: Storage) -> None:
    submitted = storage.jobs.submit(GenerationRequest(prompt="a boat"))
    job = storage.jobs.claim("cpu")
    assert job is not None
    run_job(
        job, storage=storage, machines=Machines(raising(ImportError("no torch")), no_trainer), drain=threading.Event()
    )
    assert storage.jobs.get(submitted.id).error == ("unexpected ImportError: no torch; the log has the details")


def test_a_worker_whose_engine_cannot_start_answers_with_the_reason(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = raising(AssertionError("Torch not compiled with CUDA enabled"))
    monkeypatch.setattr("studio.worker._ENGINES", {"fake": lambda *_: refusal()})
    job = storage.jobs.submit(GenerationRequest(prompt="a boat")).id
    stop = threading.Event()
    worker = threading.Thread(target=work, args=(storage, "cpu"), kwargs={"stop": stop})
    worker.start()
    deadline = time.monotonic() + 10
    while not storage.jobs.get(job).is_finished and time.monotonic() < deadline:
        time.sleep(0.02)
    stop.set()
    worker.join(5)
    assert (storage.jobs.get(job).error or "").startswith(
        "unexpected AssertionError: Torch not compiled with CUDA enabled; the log"
    )


def test_a_preview_that_breaks_fails_the_job_and_does_not_deafen_the_worker(storage: Storage) -> None:
    class Blind(FakeEngine):
        def generate(
            self, requests: Sequence[ResolvedRequest], inputs: Inputs, on_step: Callable[[Step], None]
        ) -> Iterator[GeneratedImage]:
            def draw() -> Image.Image:
                raise RuntimeError("cannot draw")

            for step in range(200):
                time.sleep(0.02)
                on_step(Step(0, step, 200, preview=draw))
            yield from ()

    started = time.monotonic()
    job = run(storage, Blind())
    assert time.monotonic() - started < 3
    assert (job.state, job.error) == (
        JobState.FAILED,
        "unexpected RuntimeError: cannot draw; the log has the details",
    )


def test_a_job_cancelled_between_two_pictures_keeps_the_first(storage: Storage) -> None:
    trouble = Trouble(lambda: storage.jobs.cancel(storage.jobs.newest()[0].id), step_seconds=0.02)
    job = run(storage, trouble, num_inference_steps=60)
    assert (job.state, job.error) == (JobState.CANCELLED, None)
    assert [image.index for image in storage.gallery.of_job(job.id)] == [0]


def test_a_job_that_was_taken_away_is_dropped_without_a_trace(storage: Storage) -> None:
    def bury() -> None:
        while not storage.gallery.count():
            time.sleep(0.01)  # the first picture is published while the second is made
        storage.jobs.bury("cpu", max_worker_deaths=9)

    job = run(storage, Trouble(bury, step_seconds=0.02), num_inference_steps=60)
    assert (job.state, job.attempt, job.worker_deaths, job.error) == (JobState.QUEUED, 1, 1, None)
    assert [image.index for image in storage.gallery.of_job(job.id)] == [0]


@pytest.mark.parametrize(("drain_seconds", "state"), [(0.0, JobState.QUEUED), (30.0, JobState.DONE)])
def test_a_draining_worker_has_its_seconds_to_finish(drain_seconds: float, state: JobState, settings: Settings) -> None:
    storage = Storage.open(settings.model_copy(update={"drain_seconds": drain_seconds}))
    drain = threading.Event()
    job = run(storage, Trouble(drain.set), drain=drain)
    assert (job.state, job.worker_deaths) == (state, 0)
    assert len(storage.gallery.of_job(job.id)) == (3 if state is JobState.DONE else 1)
    storage.database.close()


def test_the_time_to_drain_runs_from_when_it_was_asked(settings: Settings) -> None:
    class Sluggish(FakeEngine):
        def generate(
            self, requests: Sequence[ResolvedRequest], inputs: Inputs, on_step: Callable[[Step], None]
        ) -> Iterator[GeneratedImage]:
            on_step(Step(0, 0, 4))
            drain.set()
            time.sleep(1.5)  # one step of a large picture
            on_step(Step(0, 1, 4))
            yield from super().generate(requests, inputs, on_step)

    storage = Storage.open(settings.model_copy(update={"drain_seconds": 1.0}))
    drain = threading.Event()
    assert run(storage, Sluggish(), drain=drain).state is JobState.QUEUED
    storage.database.close()


REFUSAL = """CREATE TRIGGER full BEFORE UPDATE ON job WHEN NEW.state NOT IN ('queued', 'running')
BEGIN SELECT RAISE(FAIL, 'database or disk is full'); END"""


@pytest.fixture
def full(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the database refuse to close any job, until what this returns is called."""
    monkeypatch.setattr("studio.worker.CLOSING_PAUSES", (0.1,) * 3)
    monkeypatch.setattr("studio.worker.REFUSED_SECONDS", 0.1)

    def execute(statement: str) -> None:
        with storage.database.write() as connection:
            connection.exec_driver_sql(statement)

    execute(REFUSAL)
    return partial(execute, "DROP TRIGGER full")


@pytest.mark.parametrize(
    ("engine", "reason", "made"), [(FakeEngine(), "disk is full", 2), (Trouble(raising(NotANumber("NaN"))), "NaN", 1)]
)
def test_a_job_is_closed_as_soon_as_the_database_takes_it(
    engine: Engine, reason: str, made: int, storage: Storage, full: Callable[[], None]
) -> None:
    healing = threading.Timer(0.2, full)
    healing.start()
    job = run(storage, engine)
    healing.join()
    assert (job.state, job.worker_deaths) == (JobState.FAILED, 0)
    assert reason in str(job.error)
    assert len(storage.gallery.of_job(job.id)) == job.images_made == made, "the last one comes with the end or not"


def test_a_job_of_which_nothing_is_missing_is_closed_as_soon_as_the_database_takes_it(
    storage: Storage, full: Callable[[], None]
) -> None:
    submitted = storage.jobs.submit(GenerationRequest(prompt="a boat"))
    job = storage.jobs.claim("cpu", job_id=submitted.id)
    assert isinstance(job, GenerationJob)
    (request,) = Unmade.of(job, storage).pictures.values()
    storage.gallery.add(job, GeneratedImage(0, request, Image.new("RGB", (64, 64)), {}))
    healing = threading.Timer(0.2, full)
    healing.start()
    run_job(job, storage=storage, machines=Machines(FakeEngine, no_trainer), drain=threading.Event())
    healing.join()
    assert storage.jobs.get(job.id).state is JobState.DONE


def test_a_worker_outlives_a_database_that_refuses_and_every_job_can_be_made(
    storage: Storage, full: Callable[[], None]
) -> None:
    job = storage.jobs.submit(GenerationRequest(prompt="a boat")).id
    stop = threading.Event()
    worker = threading.Thread(target=work, args=(storage, "cpu"), kwargs={"stop": stop})
    worker.start()
    time.sleep(1)
    full()
    deadline = time.monotonic() + 20
    while storage.jobs.get(job).state is not JobState.DONE and time.monotonic() < deadline:
        time.sleep(0.02)
        if storage.jobs.get(job).state is JobState.FAILED:  # it was taken just when that was to be said
            assert "disk is full" in str(storage.jobs.get(job).error)
            storage.jobs.resume(job)
    stop.set()
    worker.join(5)
    assert (storage.jobs.get(job).state, storage.jobs.get(job).worker_deaths) == (JobState.DONE, 0)
    assert len(storage.gallery.of_job(job)) == 1


def test_an_engine_that_makes_too_few_pictures_fails_the_job(storage: Storage) -> None:
    class Lazy(FakeEngine):
        def generate(
            self, requests: Sequence[ResolvedRequest], inputs: Inputs, on_step: Callable[[Step], None]
        ) -> Iterator[GeneratedImage]:
            yield from super().generate(requests[1:], inputs, on_step)

    job = run(storage, Lazy())

    assert (job.state, job.images_made) == (JobState.FAILED, 2)
    assert "the engine made fewer pictures than were asked for" in str(job.error)


def test_a_job_that_was_taken_away_is_not_given_back(storage: Storage) -> None:
    def lose_while_draining() -> None:
        storage.jobs.bury("cpu", max_worker_deaths=9)
        raise Draining

    job = run(storage, Trouble(lose_while_draining))
    assert (job.state, job.worker_deaths) == (JobState.QUEUED, 1)


@pytest.mark.parametrize("many", [False, True])
def test_who_waits_here_is_told_that_the_database_refuses(
    many: bool, settings: Settings, full: Callable[[], None]
) -> None:
    with Studio(settings) as studio, pytest.raises(StorageError, match="disk is full"):
        list(studio.generate(["a boat"] if many else "a boat", progress=False))
    full()


def test_a_worker_takes_over_from_the_dead_and_stops_when_told(storage: Storage) -> None:
    left, waiting = (storage.jobs.submit(GenerationRequest(prompt="a boat")).id for _ in range(2))
    assert storage.jobs.claim("cpu", job_id=left) is not None
    for folder in (storage.gallery.images_dir, storage.gallery.thumbnails_dir):
        (folder / "today").mkdir(parents=True)
        (folder / "today" / ".half.png.cpu.tmp").touch()
    stop = threading.Event()
    worker = threading.Thread(target=work, args=(storage, "cpu"), kwargs={"stop": stop})
    worker.start()
    deadline = time.monotonic() + 20
    while not storage.jobs.get(waiting).is_finished and time.monotonic() < deadline:
        time.sleep(0.02)
    stop.set()
    worker.join(5)
    assert storage.jobs.get(left).state is storage.jobs.get(waiting).state is JobState.DONE
    assert (storage.jobs.get(left).attempt, storage.jobs.get(left).worker_deaths) == (2, 1)
    assert list(storage.settings.outputs_dir.glob("**/*.tmp")) == []
    assert not worker_lock(storage.settings, "cpu").is_held()


def test_a_worker_takes_over_from_the_dead_of_other_devices_but_not_from_the_living(storage: Storage) -> None:
    left, alive = (storage.jobs.submit(GenerationRequest(prompt="a boat")).id for _ in range(2))
    storage.jobs.claim("cuda:7", job_id=left)
    storage.jobs.claim("cuda:1", job_id=alive)
    storage.gallery.images_dir.mkdir()
    (storage.gallery.images_dir / ".half.png.cuda-7.tmp").touch()
    living = worker_lock(storage.settings, "cuda:1")
    assert living.acquire()
    take_over(storage, "cpu")
    assert (storage.jobs.get(left).state, storage.jobs.get(left).worker_deaths) == (JobState.QUEUED, 1)
    assert storage.jobs.get(alive).state is JobState.RUNNING
    assert list(storage.settings.outputs_dir.glob("**/*.tmp")) == []
    assert not worker_lock(storage.settings, "cuda:7").is_held()
    living.release()


def test_half_written_files_go_unless_their_device_is_alive(storage: Storage) -> None:
    images, inputs = storage.gallery.images_dir, storage.settings.outputs_dir / "inputs"
    for folder in (images, inputs):
        folder.mkdir()
    kept, *gone = (images / f".half.png.{device}.tmp" for device in ("cuda-1", "cuda-7", "mps"))
    gone.append(inputs / ".input.4194305-1.tmp")  # no process has such a number
    for path in (kept, *gone):
        path.touch()
        os.utime(path, (0, 0))
    living = worker_lock(storage.settings, "cuda:1")
    assert living.acquire()

    tidy(storage)

    living.release()
    assert kept.exists()
    assert not any(path.exists() for path in gone)


def test_the_fake_engine_is_loaded_by_name_and_the_same_request_gives_the_same_pixels(settings: Settings) -> None:
    storage = Storage.open(settings)
    model, resolved = storage.expand(GenerationRequest(prompt="a boat", seed=1, num_images=2))
    engine = load_engine(settings, "cpu")
    first, second = engine.generate(resolved, Inputs(model), lambda _: None)
    (alone,) = engine.generate(resolved[1:], Inputs(model), lambda _: None)
    assert alone.image.tobytes() == second.image.tobytes() != first.image.tobytes()
    storage.database.close()


def test_a_second_supervisor_is_refused_with_the_firsts_address(settings: Settings) -> None:
    lock = server_lock(settings)
    assert lock.acquire(url="http://127.0.0.1:7860")
    message = r"another studio \(process \d+\) is serving .* at http://127.0.0.1:7860; use that one, stop it, or choose"
    with pytest.raises(AlreadyRunning, match=message):
        Supervisor(settings).start()
    lock.release()


def test_a_job_whose_worker_is_killed_at_the_end_of_draining_has_seen_no_death(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studio.supervisor.KILL_SECONDS", 0.1)
    stuck = settings.model_copy(update={"fake_step_seconds": 300.0, "drain_seconds": 0.1})
    with Studio(stuck) as studio:
        job = studio.submit(GenerationRequest(prompt="a boat"))
        supervisor = Supervisor(stuck)
        supervisor.start()
        deadline = time.monotonic() + 20
        while studio.job(job.id).state is not JobState.RUNNING:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        supervisor.stop()
        job = studio.job(job.id)
    assert (job.state, job.worker_deaths, job.attempt) == (JobState.QUEUED, 0, 1)
    assert not worker_lock(settings, "cpu").is_held()


def test_a_supervisor_tells_how_a_worker_ended_and_where_its_log_is(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.outputs_dir.mkdir()
    (settings.outputs_dir / "studio.db").write_bytes(b"garbage" * 1000)
    supervisor = Supervisor(settings)
    supervisor.start()
    deadline = time.monotonic() + 20
    while not caplog.messages and time.monotonic() < deadline:
        time.sleep(0.02)
    supervisor.stop()
    log_file = settings.outputs_dir / "logs" / "worker-cpu.log"
    assert caplog.messages[0] == f"the worker for cpu ended with return code 1; see {log_file}"
    assert "it is damaged" in log_file.read_text()


def test_a_supervisor_whose_log_cannot_be_written_tries_again(settings: Settings) -> None:
    settings.outputs_dir.mkdir()
    logs = settings.outputs_dir / "logs"
    logs.write_text("I am in the way")
    supervisor = Supervisor(settings)
    supervisor.start()
    try:
        time.sleep(0.2)
        logs.unlink()
        deadline = time.monotonic() + 20
        while not worker_lock(settings, "cpu").is_held():
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        supervisor.stop()
