"""The queue: what is submitted is claimed once, in order, and never lost when a worker dies."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given

from pipelines.spec.errors import NotFound
from pipelines.spec.loras import LoraSpec
from pipelines.spec.request import GenerationRequest
from studio.database import Database, image_table
from studio.jobs import ClaimLost, Job, JobState, JobStore
from studio.jobs.turns import SIDE_BY_SIDE
from tests.pipelines.spec.test_request import REQUESTS

BOAT = GenerationRequest(prompt="a boat", seed=1)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'studio.db'}")
    yield database
    database.close()


@pytest.fixture
def jobs(database: Database) -> JobStore:
    return JobStore(database)


def claimed(jobs: JobStore) -> Job:
    jobs.submit(BOAT)
    job = jobs.claim("cpu")
    assert job is not None
    return job


def test_a_submitted_job_waits_with_a_seed(jobs: JobStore) -> None:
    job = jobs.submit(GenerationRequest(prompt="a boat"))
    assert (job.state, job.attempt, job.worker_deaths, job.error) == (JobState.QUEUED, 0, 0, None)
    assert job.request.seed is not None
    assert jobs.get(job.id) == job
    assert jobs.newest() == [job]


@given(request=REQUESTS)
def test_any_request_comes_back_as_it_was_asked(request: GenerationRequest, tmp_path_factory: object) -> None:
    jobs = _shared_store(tmp_path_factory)
    asked = request.with_seeds()
    assert jobs.get(jobs.submit(asked).id).request == asked


_STORES: list[JobStore] = []


def _shared_store(tmp_path_factory: pytest.TempPathFactory) -> JobStore:
    if not _STORES:
        _STORES.append(JobStore(Database(f"sqlite:///{tmp_path_factory.mktemp('any')}/studio.db")))
    return _STORES[0]


def test_one_key_makes_one_job_even_when_asked_at_once(jobs: JobStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: jobs.submit(BOAT, idempotency_key="key").id, range(16)))
    assert len(set(made)) == 1
    assert jobs.count(set(JobState)) == 1
    assert jobs.submit(BOAT, idempotency_key="other").id != made[0]
    assert jobs.submit(BOAT).id != jobs.submit(BOAT).id


def test_jobs_are_claimed_oldest_first_and_once(jobs: JobStore) -> None:
    submitted = [jobs.submit(BOAT).id for _ in range(12)]
    with ThreadPoolExecutor(4) as pool:
        taken = [job.id for job in pool.map(lambda _: jobs.claim("cpu"), range(40)) if job is not None]
    while (job := jobs.claim("cpu")) is not None:  # a claim that lost the race says None and comes again
        taken.append(job.id)
    assert sorted(taken) == sorted(submitted)
    assert jobs.claim("cpu") is None


def test_a_single_worker_claims_in_the_order_of_submission(jobs: JobStore) -> None:
    submitted = [jobs.submit(BOAT).id for _ in range(5)]
    assert [job.id for _ in range(5) if (job := jobs.claim("cpu"))] == submitted


def _worked_off(jobs: JobStore) -> list[str]:
    names = []
    while (job := jobs.claim("cpu")) is not None:
        jobs.finish(job, JobState.DONE)
        names.append((job.request.model or "") + "".join(f"+{lora.name}" for lora in job.request.loras))
    return names


def test_a_mixed_queue_changes_models_and_loras_little(jobs: JobStore) -> None:
    for model, lora in [("a", "x"), ("b", ""), ("a", ""), ("a", "x"), ("b", ""), ("a", "y"), ("a", "x")]:
        jobs.submit(BOAT.model_copy(update={"model": model, "loras": (LoraSpec(name=lora),) if lora else ()}))

    assert _worked_off(jobs) == ["a+x", "a+x", "a+x", "a", "a+y", "b", "b"]


def test_a_tag_in_a_prompt_counts_as_its_lora(jobs: JobStore) -> None:
    prompts = [f"a boat {tag}" for tag in ("<lora:x:1>", "", "<lora:y:1>", "<lora:x:1>", "<lora:x:0.5>", "<lora:x:1>")]
    for prompt in prompts:
        jobs.submit(BOAT.model_copy(update={"prompt": prompt}))

    done = []
    while (job := jobs.claim("cpu")) is not None:
        jobs.finish(job, JobState.DONE)
        done.append(job.request.prompt)

    assert done == [prompts[index] for index in (0, 3, 5, 1, 2, 4)]


def test_no_job_is_overtaken_again_and_again(jobs: JobStore) -> None:
    def submit(model: str) -> None:
        jobs.submit(BOAT.model_copy(update={"model": model}))

    submit("a")
    submit("b")
    done: list[str] = []
    while "b" not in done:
        submit("a")
        submit("a")
        job = jobs.claim("cpu")
        assert job is not None
        jobs.finish(job, JobState.DONE)
        done.append(str(job.request.model))

    assert len(done) == 1 + SIDE_BY_SIDE, "the first, seven that came behind it, and then its turn"


def test_one_job_can_be_claimed_past_the_queue(jobs: JobStore) -> None:
    first, second = jobs.submit(BOAT), jobs.submit(BOAT)
    taken = jobs.claim("cuda:0", job_id=second.id)
    assert taken is not None
    assert (taken.id, taken.state, taken.device, taken.attempt) == (second.id, JobState.RUNNING, "cuda:0", 1)
    assert taken.started_at is not None
    assert jobs.claim("cpu", job_id=second.id) is None
    assert jobs.get(first.id).state is JobState.QUEUED


def test_progress_goes_from_zero_to_one(jobs: JobStore) -> None:
    jobs.submit(BOAT.model_copy(update={"num_images": 2}))
    job = jobs.claim("cpu")
    assert job is not None
    assert (job.progress, job.eta) == (0.0, None)
    shown = []
    for image_index, step in [(0, 0), (0, 2), (0, 4), (1, 2), (1, 4)]:
        assert jobs.report(job, image_index=image_index, step=step, num_steps=4, preview=None) is False
        shown.append(jobs.get(job.id).progress)
    assert shown == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert jobs.get(job.id).eta == 0.0
    jobs.finish(job, JobState.DONE)
    assert (jobs.get(job.id).progress, jobs.get(job.id).eta) == (1.0, None)


def test_a_preview_is_kept_until_a_newer_one_or_the_end(jobs: JobStore) -> None:
    job = claimed(jobs)
    for given_preview, kept in [(None, None), (b"one", b"one"), (None, b"one"), (b"two", b"two")]:
        jobs.report(job, image_index=0, step=1, num_steps=4, preview=given_preview)
        assert jobs.preview(job.id) == kept
    jobs.finish(job, JobState.DONE)
    assert jobs.preview(job.id) is None


ACTIONS: dict[str, Callable[[JobStore, Job], object]] = {
    "report": lambda jobs, job: jobs.report(job, image_index=0, step=1, num_steps=4, preview=b"zombie"),
    "look for cancelling": lambda jobs, job: jobs.is_cancel_requested(job),
    "finish": lambda jobs, job: jobs.finish(job, JobState.DONE),
    "requeue": lambda jobs, job: jobs.requeue(job),
}


@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS)
def test_a_worker_that_lost_its_job_changes_nothing(action: Callable[[JobStore, Job], object], jobs: JobStore) -> None:
    zombie = claimed(jobs)
    jobs.bury("cpu", max_worker_deaths=9)
    heir = jobs.claim("cpu")
    assert heir is not None
    with pytest.raises(ClaimLost):
        action(jobs, zombie)
    assert jobs.get(heir.id) == heir
    assert jobs.preview(heir.id) is None
    jobs.finish(heir, JobState.DONE)
    with pytest.raises(ClaimLost):
        action(jobs, heir)


@pytest.mark.parametrize(("state", "after"), [(None, "cancelled"), ("done", "done"), ("failed", "failed")])
def test_cancelling_ends_what_waits_and_leaves_what_is_over(state: str | None, after: str, jobs: JobStore) -> None:
    if state is None:
        job = jobs.submit(BOAT)
    else:
        job = claimed(jobs)
        jobs.finish(job, JobState(state), error="a reason" if state == "failed" else None)
    cancelled = jobs.cancel(job.id)
    assert cancelled.state == after
    assert cancelled.finished_at is not None
    assert jobs.cancel(job.id) == cancelled
    assert jobs.claim("cpu") is None


def test_cancelling_a_running_job_asks_its_worker(jobs: JobStore) -> None:
    job = claimed(jobs)
    assert jobs.cancel(job.id).state is JobState.RUNNING
    assert jobs.is_cancel_requested(job)
    assert jobs.report(job, image_index=0, step=1, num_steps=4, preview=None) is True
    jobs.finish(job, JobState.CANCELLED)
    assert jobs.get(job.id).state is JobState.CANCELLED


def test_a_job_given_back_runs_again_unless_cancelling_was_asked(jobs: JobStore) -> None:
    job = claimed(jobs)
    jobs.requeue(job)
    assert jobs.get(job.id).state is JobState.QUEUED
    again = jobs.claim("cpu")
    assert again is not None
    assert (again.id, again.attempt, again.worker_deaths) == (job.id, 2, 0)
    jobs.cancel(job.id)
    jobs.requeue(again)
    assert jobs.get(job.id).state is JobState.CANCELLED
    assert jobs.get(job.id).finished_at is not None


def test_a_job_whose_workers_die_fails_at_the_limit_with_a_sentence(jobs: JobStore) -> None:
    poison = claimed(jobs)
    (first,) = jobs.bury("cpu", max_worker_deaths=2)
    assert (first.state, first.worker_deaths, first.error, first.finished_at) == (JobState.QUEUED, 1, None, None)
    assert jobs.claim("cpu") is not None
    (second,) = jobs.bury("cpu", max_worker_deaths=2)
    assert (second.id, second.state, second.worker_deaths) == (poison.id, JobState.FAILED, 2)
    assert second.error is not None
    assert second.error.startswith("the worker died 2 times while running this job; see ")
    assert second.finished_at is not None
    assert jobs.bury("cpu", max_worker_deaths=2) == []


@pytest.mark.parametrize("max_worker_deaths", [1, 9])
def test_a_job_that_was_to_be_cancelled_when_its_worker_died_is_cancelled(
    max_worker_deaths: int, jobs: JobStore
) -> None:
    job = claimed(jobs)
    jobs.cancel(job.id)
    (buried,) = jobs.bury("cpu", max_worker_deaths=max_worker_deaths)
    assert (buried.state, buried.error) == (JobState.CANCELLED, None)
    assert buried.finished_at is not None


def test_only_the_dead_workers_own_jobs_are_buried(jobs: JobStore) -> None:
    job = claimed(jobs)
    waiting = jobs.submit(BOAT)
    assert jobs.bury("cuda:0", max_worker_deaths=1) == []
    assert jobs.get(job.id) == job
    assert jobs.get(waiting.id) == waiting


@pytest.mark.parametrize("job_id", ["", "x", "0" * 16, "%", "' OR 1=1 --", "a\0", "\udcff", "é" * 5000])
@pytest.mark.parametrize("look_up", ["get", "cancel"])
def test_an_id_of_nothing_is_not_found(look_up: str, job_id: str, jobs: JobStore) -> None:
    jobs.submit(BOAT)
    with pytest.raises(NotFound, match="there is no job ") as caught:
        getattr(jobs, look_up)(job_id)
    str(caught.value).encode()
    assert len(str(caught.value)) < 1000
    assert jobs.preview(job_id) is None
    assert jobs.claim("cpu", job_id=job_id) is None


def test_the_newest_come_first_and_states_select(jobs: JobStore) -> None:
    submitted = [jobs.submit(BOAT).id for _ in range(5)]
    jobs.cancel(submitted[4])
    assert [job.id for job in jobs.newest(limit=2)] == submitted[:-3:-1]
    assert [job.id for job in jobs.newest(states={JobState.CANCELLED})] == [submitted[4]]
    assert jobs.newest(states=set()) == []
    assert jobs.count({JobState.QUEUED}) == 4


DAMAGED = {
    "no valid value": '{"prompt": 5}',
    "no JSON": '{"prompt": "a bo',
    "no object": "[1, 2]",
    "field of another version": '{"prompt": "a boat", "from_the_future": true}',
}


@pytest.mark.parametrize("request_text", DAMAGED.values(), ids=DAMAGED)
class TestADamagedRow:
    @pytest.fixture(autouse=True)
    def _damage(self, request_text: str, jobs: JobStore, database: Database) -> None:
        self.damaged, self.whole = jobs.submit(BOAT), jobs.submit(BOAT)
        with database.write() as connection:
            values = {"text": request_text, "id": self.damaged.id}
            connection.execute(sa.text("UPDATE job SET request = :text WHERE id = :id"), values)

    def assert_told(self, job: Job, state: JobState) -> None:
        assert (job.id, job.state) == (self.damaged.id, state)
        assert (job.error or "").startswith(f"job {job.id} in the database is damaged: ")
        assert "\n" not in (job.error or "")
        assert "pydantic" not in (job.error or "")

    def test_fails_when_claimed_and_the_queue_goes_on(self, jobs: JobStore) -> None:
        taken = jobs.claim("cpu")
        assert taken is not None
        assert taken.id == self.whole.id
        self.assert_told(jobs.get(self.damaged.id), JobState.FAILED)
        assert jobs.get(self.damaged.id).finished_at is not None

    def test_fails_when_claimed_by_its_id(self, jobs: JobStore) -> None:
        assert jobs.claim("cpu", job_id=self.damaged.id) is None
        self.assert_told(jobs.get(self.damaged.id), JobState.FAILED)

    def test_fails_when_its_worker_died_and_the_others_are_taken_back(self, jobs: JobStore, database: Database) -> None:
        with database.write() as connection:
            connection.execute(sa.text("UPDATE job SET state = 'running', device = 'cpu'"))
        buried = {job.id: job for job in jobs.bury("cpu", max_worker_deaths=9)}
        self.assert_told(buried[self.damaged.id], JobState.FAILED)
        assert jobs.get(self.damaged.id) == buried[self.damaged.id]
        assert buried[self.whole.id].state is JobState.QUEUED

    def test_is_listed_and_cancelled(self, jobs: JobStore) -> None:
        listed = jobs.newest()
        assert listed[0] == self.whole
        self.assert_told(listed[1], JobState.QUEUED)
        self.assert_told(jobs.cancel(self.damaged.id), JobState.CANCELLED)


def test_a_state_of_another_version_is_told_as_a_failure(jobs: JobStore, database: Database) -> None:
    job = jobs.submit(BOAT)
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE job SET state = 'paused'")
    assert jobs.get(job.id).state is JobState.FAILED
    assert "damaged: 'paused' is not a valid JobState" in (jobs.get(job.id).error or "")


def test_the_images_made_are_those_in_the_gallery(jobs: JobStore, database: Database) -> None:
    job = claimed(jobs)
    jobs.report(job, image_index=3, step=1, num_steps=4, preview=None)  # a resumed job may begin with its fourth
    assert jobs.get(job.id).images_made == 0
    for index in (0, 2):
        row = {"job_id": job.id, "index": index, "path": f"{index}.png", "sha256": "", "record": {}, "created_at": 0.0}
        with database.write() as connection:
            connection.execute(sa.insert(image_table).values(row))
    jobs.submit(BOAT)
    assert [one.images_made for one in jobs.newest()] == [0, 2]
    (buried,) = jobs.bury("cpu", max_worker_deaths=9)
    again = jobs.claim("cpu")
    assert again is not None
    assert buried.images_made == again.images_made == jobs.cancel(job.id).images_made == 2
