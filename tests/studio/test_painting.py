"""Jobs whose pictures can be made at once are: one call of the engine, and still each has an end of its own."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest
from PIL import Image

from pipelines.engines.fake_engine import FakeEngine
from pipelines.spec.engine import Engine, GeneratedImage, Inputs, Step
from pipelines.spec.errors import GenerationFailed
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolved import ResolvedRequest
from studio import JobState, Settings
from studio.jobs import Job
from studio.reporting import Draining
from studio.storage import Storage
from studio.worker import Machines, load_engine, load_trainer, run_next


class Watched(FakeEngine):
    """Notes the prompts of each call, and does something before each picture."""

    def __init__(self, before: Callable[[ResolvedRequest], object] = lambda _: None) -> None:
        super().__init__()
        self.calls: list[list[str]] = []
        self._before = before

    def generate(
        self, requests: Sequence[ResolvedRequest], inputs: Inputs, on_step: Callable[[Step], None]
    ) -> Iterator[GeneratedImage]:
        self.calls.append([request.prompt for request in requests])
        for image in super().generate(requests, inputs, on_step):
            self._before(image.request)
            yield image


@pytest.fixture
def storage(settings: Settings) -> Iterator[Storage]:
    storage = Storage.open(settings)
    yield storage
    storage.database.close()


def submit(storage: Storage, *prompts: str, **fields: object) -> list[Job]:
    return [storage.jobs.submit(GenerationRequest.parse({"prompt": prompt, **fields})) for prompt in prompts]


def work_off(storage: Storage, engine: Engine, *, drain: threading.Event | None = None) -> None:
    machines = Machines(lambda: engine, lambda: load_trainer("cpu"))
    while run_next(storage, "cpu", machines=machines, drain=drain or threading.Event()):
        if drain is not None and drain.is_set():
            break


def states(storage: Storage, jobs: Sequence[Job]) -> list[JobState]:
    return [storage.jobs.get(job.id).state for job in jobs]


def test_jobs_that_differ_in_prompts_guidance_and_seeds_are_made_in_one_call(storage: Storage) -> None:
    engine = Watched()
    jobs = submit(storage, "a", "b {x|y}", seed=5) + submit(storage, "c", guidance_scale=9.0, num_images=2)

    work_off(storage, engine)

    assert [len(call) for call in engine.calls] == [4]
    assert states(storage, jobs) == [JobState.DONE] * 3
    made = {job.id: [image.request for image in storage.gallery.of_job(job.id)] for job in jobs}
    for job in jobs:
        _, alone = storage.expand(job.request)
        assert tuple(made[job.id]) == alone


@pytest.mark.parametrize(
    "fields", [{"width": 64}, {"scheduler": "heun"}, {"num_inference_steps": 7}, {"clip_skip": 2}, {"num_images": 9}]
)
def test_jobs_that_no_batch_can_hold_run_by_themselves(storage: Storage, fields: dict[str, object]) -> None:
    engine = Watched()
    submit(storage, "a")
    submit(storage, "b", **fields)

    work_off(storage, engine)

    assert [set(call) for call in engine.calls] == [{"a"}, {"b"}]


def test_no_more_jobs_go_together_than_pictures_may(settings: Settings) -> None:
    storage = Storage.open(settings.model_copy(update={"images_at_once": 3}))
    engine = Watched()
    submit(storage, "a", "b", num_images=2)
    submit(storage, "c", "d")

    work_off(storage, engine)

    assert engine.calls == [["a", "a", "c"], ["b", "b", "d"]]
    storage.database.close()


def test_a_job_that_fails_says_why_and_the_others_are_made(storage: Storage) -> None:
    def before(request: ResolvedRequest) -> None:
        if request.prompt == "b":
            raise GenerationFailed("no b today")

    jobs = submit(storage, "a", "b", "c")

    work_off(storage, engine := Watched(before))

    assert states(storage, jobs) == [JobState.DONE, JobState.FAILED, JobState.DONE]
    assert storage.jobs.get(jobs[1].id).error == "no b today"
    assert engine.calls == [["a", "b", "c"], ["b"], ["c"]], "what was made before it failed stays"


def test_a_job_that_is_cancelled_stops_no_other_and_shows_nothing_more(storage: Storage) -> None:
    jobs = submit(storage, "a", "b", "c", num_images=2)

    work_off(storage, engine := Watched(lambda request: request.prompt == "a" and storage.jobs.cancel(jobs[1].id)))

    assert states(storage, jobs) == [JobState.DONE, JobState.CANCELLED, JobState.DONE]
    assert storage.gallery.of_job(jobs[1].id) == []
    assert len(engine.calls) == 1


def test_a_job_that_is_cancelled_while_its_picture_is_written_stops_no_other(storage: Storage) -> None:
    class Written(Watched):
        def generate(
            self, requests: Sequence[ResolvedRequest], inputs: Inputs, on_step: Callable[[Step], None]
        ) -> Iterator[GeneratedImage]:
            for made in super().generate(requests, inputs, on_step):
                if made.request.prompt == "b":
                    made.image.save = partial(cancel_and_save, made.image.save)  # type: ignore[method-assign]
                yield made

    def cancel_and_save(save: Callable[..., None], *arguments: object, **options: object) -> None:
        storage.jobs.cancel(jobs[1].id)
        deadline = time.monotonic() + 20
        while not storage.jobs.get(jobs[1].id).is_finished and time.monotonic() < deadline:
            time.sleep(0.01)
        save(*arguments, **options)

    jobs = submit(storage, "a", "b", "c")

    work_off(storage, engine := Written())

    assert states(storage, jobs) == [JobState.DONE, JobState.CANCELLED, JobState.DONE]
    assert storage.gallery.of_job(jobs[1].id) == []
    assert len(engine.calls) == 1, "nothing is made twice"


def test_a_job_that_cannot_be_read_hurts_none_beside_it(storage: Storage) -> None:
    picture = storage.inputs.put(Image.effect_noise((64, 64), 9))
    jobs = [*submit(storage, "a"), *submit(storage, "b", init_image=picture), *submit(storage, "c", init_image=picture)]
    path = storage.inputs.path(picture)
    path.write_bytes(path.read_bytes()[:99])

    work_off(storage, Watched())

    assert states(storage, jobs) == [JobState.DONE, JobState.FAILED, JobState.FAILED]
    assert "is damaged" in str(storage.jobs.get(jobs[1].id).error)


def test_jobs_that_end_well_are_not_said_to_be_lost(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    submit(storage, "a", "b")

    with caplog.at_level("INFO"):
        work_off(storage, Watched())

    assert "no longer ours" not in caplog.text


def test_a_job_is_done_with_its_last_picture(storage: Storage) -> None:
    seen: list[list[JobState]] = []
    jobs = submit(storage, "a", "b", "c")

    work_off(storage, Watched(lambda request: seen.append(states(storage, jobs))))

    running, done = JobState.RUNNING, JobState.DONE
    assert seen[0] == [running] * 3
    assert seen[2] in ([done, running, running], [done, done, running])  # a picture is published behind the next


def test_devices_share_the_work(settings: Settings) -> None:
    storage = Storage.open(settings.model_copy(update={"devices": ("cpu", "cuda:0")}))
    submit(storage, "a", "b", "c", "d")

    work_off(storage, engine := Watched())

    assert engine.calls == [["a", "b"], ["c"], ["d"]]
    storage.database.close()


def test_when_all_are_cancelled_the_engine_stops(settings: Settings, storage: Storage) -> None:
    engine = load_engine(settings.model_copy(update={"fake_step_seconds": 0.2}), "cpu")
    jobs = submit(storage, "a", "b")
    worker = threading.Thread(target=work_off, args=(storage, engine))
    worker.start()
    deadline = time.monotonic() + 20
    while states(storage, jobs) != [JobState.RUNNING] * 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    for job in jobs:
        storage.jobs.cancel(job.id)

    worker.join(4)

    assert not worker.is_alive()
    assert states(storage, jobs) == [JobState.CANCELLED] * 2


def test_a_worker_that_must_stop_gives_back_what_is_not_finished(storage: Storage) -> None:
    def before(request: ResolvedRequest) -> None:
        if request.prompt == "b":
            raise Draining

    jobs = submit(storage, "a", "b", "c")

    work_off(storage, Watched(before), drain=_set())

    assert states(storage, jobs) == [JobState.DONE, JobState.QUEUED, JobState.QUEUED]


def _set() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


def test_jobs_whose_worker_died_run_by_themselves(storage: Storage) -> None:
    jobs = submit(storage, "a", "b", "c")
    for job in jobs[:2]:
        storage.jobs.claim("cpu", job_id=job.id)
    storage.jobs.bury("cpu", max_worker_deaths=2)

    work_off(storage, engine := Watched())

    assert engine.calls == [["a"], ["b"], ["c"]], "one of them may have killed it"


def test_where_one_death_fails_a_job_none_takes_others_along(settings: Settings) -> None:
    storage = Storage.open(settings.model_copy(update={"max_worker_deaths": 1}))
    submit(storage, "a", "b")

    work_off(storage, engine := Watched())

    assert engine.calls == [["a"], ["b"]]
    storage.database.close()


def test_progress_is_told_to_each_job_of_a_batch(storage: Storage) -> None:
    seen: list[list[tuple[int, int]]] = []

    class AtOnce(FakeEngine):
        def generate(
            self, requests: Sequence[ResolvedRequest], inputs: Inputs, on_step: Callable[[Step], None]
        ) -> Iterator[GeneratedImage]:
            while not all(storage.jobs.get(job.id).num_steps for job in jobs):
                on_step(Step(0, 1, 4, images_at_once=3))
            seen.append([(one.step, one.images_at_once) for one in (storage.jobs.get(job.id) for job in jobs)])
            yield from super().generate(requests, inputs, lambda _: None)

    jobs = submit(storage, "a") + submit(storage, "b", num_images=2)

    work_off(storage, AtOnce())

    assert seen == [[(1, 1), (1, 2)]]
