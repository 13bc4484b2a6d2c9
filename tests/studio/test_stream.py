"""Many requests at once: pictures stream, endless generators work, failures cost nobody else their picture."""

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pipelines.spec.errors import Cancelled, GenerationFailed, InvalidRequest, StudioError
from studio import GalleryImage, GenerationRequest, JobState, Settings, SomeFailed, Studio
from studio.jobs import UNFINISHED
from studio.storage import worker_lock
from studio.stream import AHEAD
from tests.studio.conftest import write_model


def prompts(images: Iterator[GalleryImage] | list[GalleryImage]) -> list[str]:
    return [image.request.prompt for image in images]


def test_one_request_is_a_list_as_ever(studio: Studio) -> None:
    for request in ("a boat", GenerationRequest(prompt="a boat"), {"prompt": "a boat"}):
        images: Any = studio.generate(request, progress=False)
        assert isinstance(images, list)
        assert prompts(images) == ["a boat"]


def test_many_requests_of_every_form_become_pictures_in_order(studio: Studio) -> None:
    requests = ["a", {"prompt": "b", "num_images": 2}, GenerationRequest(prompt="c", seed=3)]

    images = list(studio.generate(requests, width=64, progress=False))

    assert prompts(images) == ["a", "b", "b", "c"]
    assert {image.request.width for image in images} == {64}
    assert images[3].request.seed == 3
    assert not worker_lock(studio.settings, "cpu").is_held()


def test_an_endless_generator_is_read_only_a_few_jobs_ahead(studio: Studio) -> None:
    read: list[int] = []
    endless = ({"prompt": str(read.append(i) or i), "num_inference_steps": 1} for i in itertools.count())  # type: ignore[func-returns-value]

    images = studio.generate(endless, progress=False)
    assert read == []
    some = prompts(itertools.islice(images, 20))

    assert some == [str(i) for i in range(20)]
    assert len(read) <= 20 + AHEAD + 1
    images.close()  # type: ignore[attr-defined]
    assert studio.jobs(states=UNFINISHED) == []
    assert not worker_lock(studio.settings, "cpu").is_held()


def test_a_picture_is_there_before_the_next_is_asked_for(settings: Settings) -> None:
    with Studio(settings.model_copy(update={"fake_step_seconds": 0.02})) as studio:
        images = studio.generate([{"prompt": "a", "num_images": 3}, "b"], progress=False)
        first = next(images)

        assert first.path.exists()
        assert studio.job(first.job_id).state is JobState.RUNNING
        assert prompts(images) == ["a", "a", "b"]


BAD: list[Any] = ["a", {"prompt": "b", "width": 63}, {"prompt": "{x} __y__", "seed": 1}, 5, "c"]


def test_failures_are_raised_together_after_the_last_picture(studio: Studio) -> None:
    made: list[str] = []

    with pytest.raises(SomeFailed, match=r"3 requests failed, the others were made:\nrequest 1: width must") as failed:
        made += (image.request.prompt for image in studio.generate(BAD, progress=False))

    assert made == ["a", "c"]
    assert list(failed.value.failures) == [1, 2, 3]
    assert all(isinstance(error, InvalidRequest) for error in failed.value.failures.values())
    assert isinstance(failed.value, GenerationFailed)


def test_failures_are_told_at_once_to_who_wants_to_know(studio: Studio) -> None:
    told: dict[int, StudioError] = {}

    images = studio.generate(iter(BAD), progress=False, on_error=told.__setitem__)

    assert prompts(images) == ["a", "c"]
    assert sorted(told) == [1, 2, 3]


def test_a_job_that_fails_or_is_cancelled_in_the_middle_leaves_the_others(settings: Settings) -> None:
    told: dict[int, StudioError] = {}
    with Studio(settings.model_copy(update={"fake_step_seconds": 0.05})) as studio:
        images = studio.generate(["a", "b", "c"], progress=False, on_error=told.__setitem__)
        assert next(images).request.prompt == "a"
        waiting = next(job for job in studio.jobs() if job.request.prompt == "c")
        studio.cancel(waiting.id)

        assert prompts(images) == ["b"]
    assert isinstance(told[2], Cancelled)


def test_what_the_generator_itself_raises_comes_through_and_nothing_stays_queued(studio: Studio) -> None:
    def broken() -> Iterator[str]:
        yield from "abc"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(studio.generate(broken(), progress=False))
    assert studio.jobs(states=UNFINISHED) == []


def test_what_is_no_request_is_refused_at_once(studio: Studio) -> None:
    with pytest.raises(TypeError):
        studio.generate(5)  # type: ignore[call-overload]


def test_jobs_of_others_are_worked_off_too(studio: Studio) -> None:
    theirs = studio.submit(GenerationRequest(prompt="theirs"))

    assert prompts(studio.generate(["ours"], progress=False)) == ["ours"]
    assert studio.job(theirs.id).state is JobState.DONE


def test_many_requests_wait_for_a_living_worker(studio: Studio) -> None:
    lock = worker_lock(studio.settings, "cpu")
    assert lock.acquire(device="cpu")
    threading.Timer(0.3, lock.release).start()

    assert prompts(studio.generate(["a"], progress=False)) == ["a"]


def test_a_cancelled_job_goes_on_where_it_stopped(settings: Settings) -> None:
    with Studio(settings.model_copy(update={"fake_step_seconds": 0.01})) as studio:
        request = {"prompt": "a", "num_images": 4, "num_inference_steps": 50}
        images = studio.generate([request], progress=False)
        first = next(images)
        images.close()  # type: ignore[attr-defined]
        assert studio.job(first.job_id).state is JobState.CANCELLED

        assert studio.resume(first.job_id).state is JobState.QUEUED
        assert studio.wait(first.job_id).state is JobState.DONE

        assert [image.index for image in studio.gallery.of_job(first.job_id)] == [0, 1, 2, 3]
        assert studio.gallery.of_job(first.job_id)[0] == first
        assert studio.resume(first.job_id).state is JobState.DONE


def test_a_list_is_made_model_by_model_and_size_by_size(settings: Settings) -> None:
    write_model(settings.models_dir / "other")
    asked = [
        {"prompt": "a"},
        {"prompt": "b", "model": "other"},
        {"prompt": "c", "width": 64},
        {"prompt": "no", "width": 1},
        {"prompt": "d"},
        {"prompt": "e", "model": "other"},
    ]
    refused: list[int] = []
    with Studio(settings) as studio:
        images = list(studio.generate(asked, progress=False, on_error=lambda position, _: refused.append(position)))

    assert prompts(images) == ["a", "d", "c", "b", "e"]
    assert refused == [3]
