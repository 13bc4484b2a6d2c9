"""kill -9 while something is trained: the next worker goes on, and what comes out is the same, bit for bit."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from studio import JobState, Settings, Studio
from studio.jobs import Job
from tests.faults.conftest import start_worker, wait_until

TIMES = {
    "ss_session_id",
    "ss_training_started_at",
    "ss_training_finished_at",
    "modelspec.date",
    "ss_output_name",
    "modelspec.title",
}
PATIENCE_SECONDS = 900


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a house, number {number}")
    return folder


def contents(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return header and tensor bytes of a LoRA, its name and times left out."""
    bytes_ = path.read_bytes()
    length = int.from_bytes(bytes_[:8], "little")
    header = json.loads(bytes_[8 : 8 + length])
    header["__metadata__"] = {key: text for key, text in header["__metadata__"].items() if key not in TIMES}
    return header, bytes_[8 + length :]


FIELDS: dict[str, Any] = {
    **{"model": "pocket", "resolution": 64, "rank": 2, "steps": 12, "save_every": 2},
    **{"learning_rate": 1e-2, "caption_dropout": 0.3},
}


def submit(studio: Studio, data: Path, name: str) -> Job:
    fields = {**FIELDS, "name": name, "validation_prompts": ("a house",)}
    return studio.submit_training(studio.training_request(data, **fields))


def command(settings: Settings, data: Path, name: str, *more: str) -> list[str]:
    """Return a `studio train`."""
    options = [part for field, value in FIELDS.items() for part in (f"--{field.replace('_', '-')}", str(value))]
    told = ["--name", name, "--home", str(settings.home), "--devices", "cpu", "--validation-prompt", "a house"]
    return [sys.executable, "-m", "studio.cli", "train", str(data), *told, *options, *more]


@pytest.mark.slow
def test_a_killed_training_goes_on_and_ends_the_same(settings: Settings, studio: Studio, data: Path) -> None:
    whole, cut = (submit(studio, data, name) for name in ("whole", "cut"))
    with start_worker(settings) as worker:
        wait_until(lambda: studio.job(whole.id).is_finished, seconds=PATIENCE_SECONDS)
        wait_until(lambda: studio.job(cut.id).step >= 3, seconds=PATIENCE_SECONDS)
        worker.kill()
    killed_at = studio.job(cut.id).step
    begun: list[int] = []

    ended = studio.wait(cut.id, on_update=lambda job: begun.append(job.step) if job.attempt == 2 else None)

    assert (studio.job(whole.id).state, ended.state) == (JobState.DONE, JobState.DONE)
    assert ended.worker_deaths == 1
    loras = settings.home / "loras"
    assert contents(loras / "cut.safetensors") == contents(loras / "whole.safetensors")
    assert min(step for step in begun if step) >= 2, f"began anew, though killed at step {killed_at}"


@pytest.mark.slow
def test_a_killed_command_is_resumed_and_ends_the_same(settings: Settings, studio: Studio, data: Path) -> None:
    subprocess.run(command(settings, data, "whole"), timeout=PATIENCE_SECONDS, check=True)
    with subprocess.Popen(command(settings, data, "cut")) as cut:
        try:
            wait_until(
                lambda: (job := studio.jobs(limit=1)[0]).title == "LoRA cut" and job.step >= 3, seconds=PATIENCE_SECONDS
            )
        finally:
            cut.kill()

    subprocess.run(command(settings, data, "cut", "--resume"), timeout=PATIENCE_SECONDS, check=True)

    loras = settings.home / "loras"
    assert contents(loras / "cut.safetensors") == contents(loras / "whole.safetensors")
    assert [job.state for job in studio.jobs()] == [JobState.DONE, JobState.CANCELLED, JobState.DONE]
    assert next(iter(studio.jobs())).attempt == 1
