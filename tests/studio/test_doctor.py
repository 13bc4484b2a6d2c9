"""The doctor: a sound installation is fine, and each thing that needs care is one sentence."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from studio import Settings, Studio, environment
from studio.doctor import PACKAGES, Finding, examine
from studio.supervisor import Supervisor
from tests.studio.conftest import write_model


def problems(settings: Settings) -> dict[str, str]:
    return {finding.name: finding.text for finding in examine(settings) if not finding.is_fine}


def found(settings: Settings, name: str) -> Finding:
    return next(finding for finding in examine(settings) if finding.name == name)


def test_a_new_installation_is_fine_and_stays_untouched(settings: Settings) -> None:
    findings = examine(settings)

    assert problems(settings) == {}
    assert {finding.name for finding in findings} == {
        *PACKAGES,
        *("studio", "sqlite", "memory", "device", "outputs", "database", "models", "server", "exposure", "leaves"),
    }
    assert not settings.outputs_dir.exists()


def test_a_used_installation_is_counted(settings: Settings, studio: Studio) -> None:
    studio.generate("a boat", num_images=2, progress=False)

    assert "1 jobs, 2 pictures" in found(settings, "database").text
    assert problems(settings) == {}


@pytest.mark.slow
def test_torch_is_asked_for_its_devices(settings: Settings) -> None:
    looked_for = settings.model_copy(update={"engine": "diffusers", "devices": ("cpu", "cuda:99")})

    devices = [finding for finding in examine(looked_for) if finding.name == "device"]

    assert any(finding.text.startswith("cpu") and finding.is_fine for finding in devices)
    assert "cuda:99 is set as a device but is not there" in problems(looked_for)["device"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "studio.example"])
def test_an_open_address_needs_care(settings: Settings, host: str) -> None:
    assert "without a password" in problems(settings.model_copy(update={"host": host}))["exposure"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1", "[::1]"])
def test_a_loopback_address_is_private(settings: Settings, host: str) -> None:
    assert problems(settings.model_copy(update={"host": host})) == {}


@pytest.mark.parametrize("name", environment.SILENT)
def test_a_switch_turned_the_other_way_needs_care(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for switch, value in environment.SILENT.items():
        monkeypatch.setenv(switch, value)
    monkeypatch.setenv(name, "other")

    assert f"{name}=other" in problems(settings)["leaves"]


def test_a_damaged_database_needs_care(settings: Settings) -> None:
    settings.outputs_dir.mkdir()
    (settings.outputs_dir / "studio.db").write_bytes(b"no database" * 1000)

    assert "damaged" in problems(settings)["database"]


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("url", ["nonsense", "magic://x", "postgresql+magic://anna:s3cret@host/studio"])
def test_a_database_that_cannot_be_needs_care(settings: Settings, url: str) -> None:
    text = problems(settings.model_copy(update={"database": url}))["database"]

    assert "give a URL such as sqlite:///studio.db" in text
    assert "s3cret" not in text


def test_a_database_in_memory_is_no_file(settings: Settings) -> None:
    assert found(settings.model_copy(update={"database": "sqlite://"}), "database").is_fine


def test_an_older_database_is_left_as_it_is(settings: Settings, studio: Studio) -> None:
    studio.close()
    with closing(sqlite3.connect(settings.outputs_dir / "studio.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    before = contents(settings.home)

    assert "an older version (0001)" in found(settings, "database").text
    assert contents(settings.home) == before


def test_looking_makes_nothing(settings: Settings, tmp_path: Path) -> None:
    (settings.outputs_dir / "run").mkdir(parents=True)
    (settings.outputs_dir / "studio.db").touch()
    before = contents(settings.home)

    assert "when first needed" in found(settings, "database").text
    assert contents(settings.home) == before


def test_models_that_cannot_be_used_are_named(settings: Settings) -> None:
    write_model(settings.models_dir / "broken")
    (settings.models_dir / "broken" / "unet" / "config.json").unlink()
    lacking = settings.model_copy(update={"default_model": "gone"})

    unusable, default = [f.text for f in examine(lacking) if f.name == "models" and not f.is_fine]

    assert "broken cannot be used" in unusable
    assert "config.json is missing" in unusable
    assert "'gone' is not among them" in default


def test_an_outputs_folder_that_is_a_file_needs_care(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert "not a folder" in problems(settings.model_copy(update={"outputs": tmp_path / "file"}))["outputs"]


def test_a_server_that_does_not_answer_needs_care(settings: Settings) -> None:
    supervisor = Supervisor(settings.model_copy(update={"port": 9}))
    supervisor.start()
    try:
        text = problems(settings)["server"]
    finally:
        supervisor.stop()

    assert f"runs at http://127.0.0.1:9 (process {os.getpid()})" in text
    assert "does not answer" in text


@pytest.mark.skipif(os.name == "nt", reason="there, a process cannot see what it was started with")
def test_the_command_prints_json_and_its_exit_code_tells(settings: Settings) -> None:
    variables = {"STUDIO_HOME": str(settings.home), "STUDIO_ENGINE": "fake", "STUDIO_DEFAULT_MODEL": "toy"}
    opened = {environment.UNSAFE[0]: "1"}

    fine, bad = (
        subprocess.run(
            [sys.executable, "-m", "studio.cli", "doctor", "--json"],
            env={**os.environ, **variables, **more},
            capture_output=True,
            text=True,
            check=False,
        )
        for more in ({}, opened)
    )

    assert (fine.returncode, fine.stderr, json.loads(fine.stdout)["is_fine"]) == (0, "", True)
    assert (bad.returncode, bad.stderr) == (1, "error: one thing needs care\n")
    needing_care = [finding for finding in json.loads(bad.stdout)["findings"] if not finding["is_fine"]]
    assert [finding["name"] for finding in needing_care] == ["variables"]
