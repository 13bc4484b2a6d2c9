"""The real server process: what it imports, what it refuses to start beside, how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pipelines.spec.errors import AlreadyRunning
from studio import Settings, Studio
from studio.api import serve
from studio.jobs import JobState

SERVE = """
import sys
from studio.api import serve
from studio.settings import Settings
def ready(url):
    heavy = sorted({"torch", "diffusers", "transformers"} & set(sys.modules))
    print(url, heavy, flush=True)
serve(Settings.model_validate_json(sys.argv[1]), on_ready=ready)
"""


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def start(settings: Settings) -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Start a server on a free port; return it and the line it prints when the page can be opened."""
    started = []

    def start(**changes: object) -> tuple[subprocess.Popen[str], str]:
        own = settings.model_copy(update={"port": free_port(), **changes})
        command = [sys.executable, "-c", SERVE, own.model_dump_json()]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        started.append(server)
        assert server.stdout is not None
        return server, server.stdout.readline()

    yield start
    for server in started:
        server.kill()
        server.communicate()


def wait_for(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def get(url: str) -> dict[str, object]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        body: dict[str, object] = json.load(answer)
        return body


def test_server_answers_without_torch_and_sigterm_drains(
    start: Callable[..., tuple[subprocess.Popen[str], str]], settings: Settings
) -> None:
    server, line = start(fake_step_seconds=0.2, drain_seconds=10)
    url, heavy = line.split(maxsplit=1)
    assert heavy.strip() == "[]"

    with Studio(settings) as studio:
        job = studio.submit(studio.request("a boat", num_inference_steps=10))
        wait_for(lambda: studio.job(job.id).step >= 2)
        assert get(f"{url}/healthz")["workers"] == ["cpu"]
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 0
        assert studio.job(job.id).state is JobState.DONE
        assert len(studio.gallery.of_job(job.id)) == 1
        assert studio.live_workers() == []


def test_second_server_on_the_same_folder_says_where_the_first_is(
    start: Callable[..., tuple[subprocess.Popen[str], str]], settings: Settings
) -> None:
    _, line = start()
    url = line.split()[0]

    for port in (free_port(), int(url.rpartition(":")[2])):
        with pytest.raises(AlreadyRunning, match=f"another studio .* at {url}; use that one"):
            serve(settings.model_copy(update={"port": port}))


def test_busy_port_is_told_before_anything_starts(settings: Settings) -> None:
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        with pytest.raises(AlreadyRunning, match=rf"127\.0\.0\.1:{port}.*--port"):
            serve(settings.model_copy(update={"port": port}))

    assert not settings.outputs_dir.exists()
