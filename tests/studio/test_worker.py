"""What a worker makes of good and bad engines, of cancelling and draining; what a supervisor makes of workers."""

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from PIL import Image

from pipelines.engines.fake_engine import FakeEngine
from pipelines.spec.engine import Engine, GeneratedImage, Inputs, Step
from pipelines.spec.errors import AlreadyRunning, NotANumber, OutOfMemory
from pipelines.spec.request import GenerationRequest, ResolvedRequest
from studio import JobState, Settings
from studio.jobs import Job
from studio.storage import Storage, server_lock, worker_lock
from studio.supervisor import Supervisor
from studio.worker import load_engine, run_job, work


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
    run_job(job, storage=storage, engine=lambda: engine, drain=drain or threading.Event())
    return storage.jobs.get(job.id)


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
    run_job(job, storage=storage, engine=raising(ImportError("no torch")), drain=threading.Event())
    assert storage.jobs.get(submitted.id).error == ("unexpected ImportError: no torch; the log has the details")


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
    job = run(storage, Trouble(lambda: storage.jobs.cancel(storage.jobs.newest()[0].id), step_seconds=0.05))
    assert (job.state, job.error) == (JobState.CANCELLED, None)
    assert [image.index for image in storage.gallery.of_job(job.id)] == [0]


def test_a_job_that_was_taken_away_is_dropped_without_a_trace(storage: Storage) -> None:
    def bury() -> None:
        storage.jobs.bury("cpu", max_worker_deaths=9)

    job = run(storage, Trouble(bury, step_seconds=0.05))
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
