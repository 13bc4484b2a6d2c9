"""What a supervisor gives the workers that it starts."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from studio import Settings, Studio
from studio.doctor import examine
from studio.supervisor import Supervisor


@contextmanager
def supervised(settings: Settings) -> Iterator[Studio]:
    """A studio that has a living worker."""
    supervisor = Supervisor(settings)
    supervisor.start()
    try:
        with Studio(settings) as studio:
            deadline = time.monotonic() + 30
            while not studio.live_workers():
                assert time.monotonic() < deadline, "no worker came to life"
                time.sleep(0.02)
            yield studio
    finally:
        supervisor.stop()


@pytest.fixture
def trapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder that holds a file named like a module the studio imports."""
    folder = tmp_path / "trapped"
    folder.mkdir()
    for name in ("json", "pydantic"):
        (folder / f"{name}.py").write_text(
            f"from pathlib import Path\nPath({str(folder / 'sprung')!r}).touch()\n1 / 0\n"
        )
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return folder / "sprung"


def test_a_worker_imports_nothing_from_the_current_folder(settings: Settings, trapped: Path) -> None:
    with supervised(settings):
        assert not trapped.exists()


def test_a_workers_command_line_tells_no_settings(settings: Settings) -> None:
    with supervised(settings):
        commands = [child.cmdline() for child in psutil.Process().children()]
        (worker,) = (command for command in commands if command[-2:] == ["studio.worker", "cpu"])
        assert str(settings.home) not in " ".join(worker)


@pytest.mark.slow
def test_the_doctors_question_imports_nothing_from_the_current_folder(settings: Settings, trapped: Path) -> None:
    findings = examine(settings.model_copy(update={"engine": "diffusers"}))

    assert not trapped.exists()
    assert any(finding.name == "device" and finding.text.startswith("cpu") for finding in findings)
