"""A studio whose workers are real processes, and what must hold whatever happened to them."""

import hashlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from studio import JobState, Settings, Studio, metadata
from tests.studio.conftest import write_model

PATIENCE_SECONDS = 60


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    write_model(tmp_path / "models" / "toy")
    return Settings(
        home=tmp_path,
        engine="fake",
        default_model="toy",
        devices=("cpu",),
        restart_delay=0.02,
        drain_seconds=5.0,
        fake_step_seconds=0.01,
    )


@pytest.fixture
def studio(settings: Settings) -> Iterator[Studio]:
    with Studio(settings) as studio:
        yield studio


def wait_until(condition: Callable[[], object], *, seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still not so after {seconds} s"
        time.sleep(0.01)


def start_worker(settings: Settings) -> "subprocess.Popen[bytes]":
    worker = subprocess.Popen([sys.executable, "-m", "studio.worker", "cpu"], bufsize=0, stdin=subprocess.PIPE)
    assert worker.stdin is not None
    worker.stdin.write(f"{settings.model_dump_json()}\n".encode())
    return worker


def start_server(settings: Settings, port: int) -> "subprocess.Popen[str]":
    variables = {
        f"STUDIO_{name.upper()}": ",".join(value) if isinstance(value, tuple) else str(value)
        for name, value in settings.model_dump().items()
        if value is not None
    }
    return subprocess.Popen(
        [sys.executable, "-m", "studio.cli", "serve", "--port", str(port)],
        env={**os.environ, **variables},
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_nothing_lost(studio: Studio, jobs: list[str]) -> None:
    """Every job is done, every picture is there once and whole, nothing half-written lies about."""
    expected = 0
    for job_id in jobs:
        job = studio.job(job_id)
        assert job.state is JobState.DONE, job
        images = studio.gallery.of_job(job_id)
        assert [image.index for image in images] == list(range(job.request.num_images))
        expected += len(images)
        for image in images:
            assert hashlib.sha256(image.path.read_bytes()).hexdigest() == image.sha256
            assert metadata.read(image.path).request == image.request
            with Image.open(image.thumbnail) as thumbnail:
                thumbnail.load()
    assert studio.gallery.count() == expected
    assert_tidy(studio)
    rebuilt = studio.gallery.rebuild()
    assert (rebuilt.found, rebuilt.added, rebuilt.removed, rebuilt.unreadable) == (expected, 0, 0, ())


def assert_tidy(studio: Studio) -> None:
    outputs = studio.settings.outputs_dir
    assert list(outputs.glob("**/*.tmp")) == []
    with sqlite3.connect(outputs / "studio.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
