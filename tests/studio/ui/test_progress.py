"""What the page shows of the queue, for every way a job can stand. The database is real; nothing runs by itself."""

import pytest
from PIL import Image

from pipelines.spec.engine import GeneratedImage
from pipelines.spec.request import GenerationRequest
from studio import Studio
from studio.jobs import Job, JobState, JobStore
from studio.storage import Storage
from studio.ui import progress
from studio.ui.progress import observe


@pytest.fixture
def jobs(studio: Studio) -> JobStore:
    return Storage.open(studio.settings).jobs


def submit(studio: Studio, prompt: str = "a boat", **fields: object) -> Job:
    return studio.submit(studio.request(prompt, **fields))


def claim(jobs: JobStore) -> Job:
    job = jobs.claim("cpu")
    assert job is not None
    return job


def test_empty_studio_welcomes(studio: Studio) -> None:
    view = observe(studio)

    assert (view.job_id, view.is_active, view.strip) == (None, False, "")
    assert "Your picture appears here" in view.stage


def test_queued_job_waits_for_a_worker(studio: Studio) -> None:
    job = submit(studio)

    view = observe(studio)

    assert (view.job_id, view.is_active) == (job.id, True)
    assert "Waiting for the worker to start" in view.stage


def test_running_job_shows_preview_step_and_what_waits(studio: Studio, jobs: JobStore) -> None:
    submit(studio, num_images=2)
    submit(studio)
    running = claim(jobs)
    jobs.report(running, image_index=1, step=3, num_steps=4, preview=b"jpeg")

    view = observe(studio)

    assert view.job_id == running.id
    assert "Image 2 of 2 · step 3 of 4 · " in view.stage
    assert "1 more in the queue" in view.stage
    assert view.waiting == 1
    assert 'src="data:image/jpeg;base64,anBlZw=="' in view.stage
    assert 'aria-valuenow="88"' in view.stage


def test_loading_and_cancelling_are_told(studio: Studio, jobs: JobStore) -> None:
    submit(studio)
    running = claim(jobs)
    assert "Loading the model" in observe(studio).stage

    studio.cancel(running.id)
    assert "Cancelling" in observe(studio).stage


def test_a_cancelled_job_is_told_of_beside_the_next_for_a_moment(
    studio: Studio, jobs: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = submit(studio, "a kite"), submit(studio)
    studio.cancel(first.id)

    view = observe(studio)
    monkeypatch.setattr(progress, "CANCELLED_SECONDS", 0.0)

    assert view.job_id == second.id
    assert "cancelled: a kite" in view.stage
    assert "cancelled" not in observe(studio).stage


def test_oldest_job_of_the_queue_is_on_the_stage(studio: Studio) -> None:
    first = submit(studio)
    submit(studio)

    assert observe(studio).job_id == first.id


def test_result_is_shown_with_its_seed_and_file(studio: Studio) -> None:
    image = studio.generate("a boat", seed=7, progress=False)[0]

    view = observe(studio)

    assert not view.is_active
    assert f"/api/v1/images/{image.id}/file" in view.stage
    assert "Seed 7 · 128 × 128 · toy" in view.stage
    assert f'download="{image.path.name}"' in view.stage
    assert f"/api/v1/images/{image.id}/thumbnail" in view.strip


def test_failure_is_told_in_its_words(studio: Studio, jobs: JobStore) -> None:
    submit(studio)
    jobs.finish(claim(jobs), JobState.FAILED, error="disk <full>")

    view = observe(studio)

    assert "disk &lt;full&gt;" in view.stage
    assert 'role="alert"' in view.stage


def test_cancelled_job_keeps_the_pictures_it_made(studio: Studio, jobs: JobStore) -> None:
    submit(studio, num_images=2)
    running = claim(jobs)
    storage = Storage.open(studio.settings)
    resolved = storage.expand(running.request)[1][0]
    picture = Image.new("RGB", (resolved.width, resolved.height))
    storage.gallery.add(running, GeneratedImage(0, resolved, picture, {}))
    assert "Finished so far" in observe(studio).stage
    jobs.finish(running, JobState.CANCELLED)

    view = observe(studio)

    assert "Cancelled after 1 of 2 pictures" in view.stage
    assert f"/api/v1/images/{running.id}-0/file" in view.stage


def test_prompt_is_never_markup(studio: Studio) -> None:
    studio.generate('"><img src=x onerror=alert(1)>', progress=False)

    view = observe(studio)

    assert "<img src=x" not in view.stage + view.strip


def test_deleted_result_is_told(studio: Studio) -> None:
    image = studio.generate(GenerationRequest(prompt="a boat"), progress=False)[0]
    studio.gallery.delete(image.id)

    assert "deleted" in observe(studio).stage


def test_the_running_job_is_on_the_stage_however_long_the_queue(studio: Studio, jobs: JobStore) -> None:
    running = submit(studio)
    claim(jobs)
    for _ in range(501):
        jobs.submit(running.request)

    view = observe(studio)

    assert view.job_id == running.id
    assert "501 more in the queue" in view.stage
