"""`studio jobs` and `studio cancel`."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pipelines.spec.request import GenerationRequest
from studio import Job, JobState, Settings, Studio
from tests.studio.cli.conftest import Run, Start


@pytest.fixture
def submit(studio: Studio) -> Callable[[str], Job]:
    return lambda prompt: studio.submit(GenerationRequest(prompt=prompt))


def test_jobs_are_listed_newest_first(run: Run, submit: Callable[[str], Job]) -> None:
    first, second = submit("a boat"), submit("a [red]cat\x1b[31m\nat night")

    lines = run("jobs").out.splitlines()

    assert [line.split()[0] for line in lines] == ["id", second.id, first.id]
    assert "queued" in lines[2]
    assert lines[1].rstrip().endswith("a [red]cat�[31m at night")


def test_jobs_as_json(run: Run, submit: Callable[[str], Job]) -> None:
    job = submit("a boat")

    described = json.loads(run("jobs", "--json").out)

    assert described["id"] == job.id
    assert described["state"] == "queued"
    assert described["request"]["prompt"] == "a boat"


def test_jobs_of_some_states_and_not_too_many(run: Run, studio: Studio, submit: Callable[[str], Job]) -> None:
    cancelled, _, newest = submit("1"), submit("2"), submit("3")
    studio.cancel(cancelled.id)

    found = [json.loads(line)["id"] for line in run("jobs", "--json", "--state", "cancelled").out.splitlines()]
    limited = [json.loads(line)["id"] for line in run("jobs", "--json", "--limit", "1").out.splitlines()]

    assert found == [cancelled.id]
    assert limited == [newest.id]


@pytest.mark.skipif(os.name == "nt", reason="there, Ctrl-C reaches the whole console, pytest included")
def test_watching_into_a_pipe_prints_changes(start: Start, studio: Studio, submit: Callable[[str], Job]) -> None:
    job = submit("a boat")
    process = start("jobs", "--watch")
    assert process.stdout is not None

    assert process.stdout.readline() == f"{job.id}  queued  a boat\n"
    studio.cancel(job.id)
    assert process.stdout.readline() == f"{job.id}  cancelled  a boat\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0


def test_cancel_says_what_became_of_each_job(run: Run, studio: Studio, submit: Callable[[str], Job]) -> None:
    jobs = [submit("1"), submit("2")]

    done = run("cancel", *(job.id for job in jobs))

    assert done.code == 0
    assert done.out == "".join(f"job {job.id} is cancelled\n" for job in jobs)
    assert {job.state for job in studio.jobs()} == {JobState.CANCELLED}
    assert run("cancel", jobs[0].id).code == 0


def test_cancel_refuses_what_is_over_or_unknown(run: Run, studio: Studio) -> None:
    finished = studio.generate("a boat", progress=False)[0].job_id

    assert run("cancel", finished).code == 2
    assert "is done already" in run("cancel", finished).err
    assert run("cancel", "gone").code == 2


def test_an_unknown_state_is_refused_with_those_there_are(run: Run) -> None:
    done = run("jobs", "--state", "gone")

    assert (done.code, done.out) == (2, "")
    assert "queued, running, done, failed, cancelled" in done.err


def test_a_reader_that_leaves_is_no_error(start: Start, submit: Callable[[str], Job], settings: Settings) -> None:
    for _ in range(20):  # far more than a pipe holds, so that the reader leaves while there is something to write
        submit("x" * 8000)
    process = start("jobs", "--json", "--watch", stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None

    process.stdout.read(1)
    process.stdout.close()

    assert process.wait(timeout=60) == 1
    assert process.stderr.read() == ""
    process.stderr.close()


def test_cancel_cancels_what_it_can_and_complains_about_the_others(
    run: Run, studio: Studio, submit: Callable[[str], Job]
) -> None:
    finished = studio.generate("a boat", progress=False)[0].job_id
    waiting = submit("2")

    done = run("cancel", finished, "gone", waiting.id)

    assert (done.code, done.out) == (2, f"job {waiting.id} is cancelled\n")
    assert f"job {finished} is done already" in done.err
    assert "there is no job 'gone'" in done.err


def test_a_training_is_listed_among_the_pictures(
    run: Run, studio: Studio, submit: Callable[[str], Job], tmp_path: Path
) -> None:
    submit("a boat")
    Image.new("RGB", (128, 128), "red").save(tmp_path / "red.png")
    training = studio.submit_training(studio.training_request(tmp_path, name="my-style", caption="a house"))

    lines, described = run("jobs").out.splitlines(), json.loads(run("jobs", "--json", "--limit", "1").out)

    assert lines[1].split() == [training.id, "queued", "0%", "LoRA", "my-style"]
    assert (described["kind"], described["request"]["name"]) == ("train", "my-style")
    assert "is cancelled" in run("cancel", training.id).out
