"""The `studio` command in this process and in processes of its own, on a temporary folder with the fake engine."""

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from studio import Settings
from studio.cli import main


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Done]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def variables(settings: Settings) -> Mapping[str, str]:
    """What makes a command use the test's settings."""
    return {
        "STUDIO_HOME": str(settings.home),
        "STUDIO_ENGINE": "fake",
        "STUDIO_DEFAULT_MODEL": "toy",
        "STUDIO_DEVICES": "cpu",
        "NO_COLOR": "1",
        "PYTHONUTF8": "1",
    }


@pytest.fixture
def run(variables: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process."""

    def run(*arguments: str, text: bytes = b"") -> Done:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        capsys.readouterr()
        code = main(arguments)
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture
def start(variables: Mapping[str, str]) -> Iterator[Start]:
    """Start a command in a process of its own; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, step_seconds: float = 0.0, **options: Any) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "studio.cli", *arguments],
            env={**os.environ, **variables, "STUDIO_FAKE_STEP_SECONDS": str(step_seconds)},
            stdout=subprocess.PIPE,
            **{"stderr": subprocess.PIPE, "text": True, **options},
        )

        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        with process:  # closes its pipes and waits
            pass
