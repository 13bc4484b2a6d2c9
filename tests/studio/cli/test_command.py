"""The `studio` command as a whole: help, exit codes, settings, what it imports."""

import json
import pickle
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import studio as package
from pipelines.spec.errors import (
    AlreadyRunning,
    Cancelled,
    GenerationFailed,
    InvalidRequest,
    ModelError,
    NotFound,
    StorageError,
    StudioError,
)
from pipelines.spec.values import MAX_SEED
from studio import Settings
from studio.cli import exit_code
from studio.cli.output import printable
from studio.supervisor import Supervisor
from tests.studio.cli.conftest import Run, Start

HEAVY = ("torch", "diffusers", "gradio", "sqlalchemy", "fastapi", "numpy", "PIL", "rich")


def test_help_and_version(run: Run) -> None:
    version = run("--version")

    assert (version.code, version.out) == (0, f"Open Weights Studio {package.__version__}\n")
    assert run("--help").out == run().out
    assert re.findall(r"^  (\w+)  ", run("--help").out, re.MULTILINE) == [
        *("serve", "generate", "hires", "upscale", "batch", "train", "jobs", "cancel", "read", "verify", "strip"),
        *("convert", "list", "embeddings", "doctor", "styles", "gallery", "loras"),
    ]
    assert run().code == 0


def test_help_imports_nothing_heavy() -> None:
    program = "import sys; from studio.cli import main; main(['--help']); print(*sys.modules)"

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()

    assert set(HEAVY).isdisjoint(loaded)


def test_the_installed_command_is_main() -> None:
    project = tomllib.loads((Path(package.__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))

    assert project["project"]["scripts"] == {"studio": "studio.cli:main"}


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (InvalidRequest, 2),
        (NotFound, 2),
        (AlreadyRunning, 3),
        (Cancelled, 130),
        (GenerationFailed, 1),
        (ModelError, 1),
        (StorageError, 1),
        (StudioError, 1),
    ],
)
def test_every_error_has_its_exit_code(kind: type[StudioError], code: int) -> None:
    assert exit_code(kind("x")) == code


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gone"], ["gone", "studio --help"]),
        (["--gone"], ["--gone"]),
        (["generate", "x", "--steps", "4"], ["--steps", "say --num-inference-steps"]),
        (["generate", "x", "--size", "64x64"], ["--size", "say --width and --height"]),
        (["generate"], ["prompt", "studio generate --help"]),
        (["jobs", "--limit", "0"], ["--limit must be at least 1, got '0'; see `studio jobs --help`"]),
        (["gallery", "--limit", "x"], ["--limit must be a whole number, got 'x'"]),
        (["gallery", "--limit", "100001"], ["--limit must be at most 100000, got '100001'"]),
        (["generate", "x", "--seed", "abc"], [f"--seed must be a whole number from 0 to {MAX_SEED}, got 'abc'"]),
        (["generate", "x", "--num-inference-steps", "7.5"], ["--num-inference-steps must be a whole number from 1 to"]),
        (["generate", "x", "--guidance-scale", "7,5"], ["--guidance-scale must be a number from 1 to 50, got '7,5'"]),
        (["hires", "x.png", "--steps", "many"], ["--steps must be a whole number from 1 to 200, got 'many'"]),
        (["serve", "--port", "99999"], ["port", "99999", "STUDIO_PORT"]),
        (["list", "--engine", "magic"], ["engine", "magic", "--engine"]),
    ],
)
def test_what_the_command_line_cannot_mean_is_one_sentence(run: Run, arguments: list[str], words: list[str]) -> None:
    done = run(*arguments)

    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert all(word in done.err for word in words), done.err


def test_every_setting_is_an_option_of_serve(run: Run) -> None:
    text = " ".join(run("serve", "--help").out.split())

    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')} " in text
        assert str(field.description) in text


def test_settings_are_options_of_the_other_commands(run: Run, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"

    assert run("generate", "x", "--outputs", str(elsewhere)).out.startswith(str(elsewhere))
    assert run("gallery", "--json").out == ""
    assert run("gallery", "--json", "--outputs", str(elsewhere)).out.count("\n") == 1


def test_a_second_server_is_refused_with_the_address_of_the_first(run: Run, settings: Settings) -> None:
    supervisor = Supervisor(settings.model_copy(update={"port": 7999}))
    supervisor.start()
    try:
        done = run("serve", "--port", str(_free_port()))
    finally:
        supervisor.stop()

    assert (done.code, done.out) == (3, "")
    assert "http://127.0.0.1:7999" in done.err


def test_a_port_in_use_is_refused(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = run("serve", "--port", str(other.getsockname()[1]))

    assert done.code == 3
    assert "--port" in done.err


def test_models_are_listed_with_their_licences(run: Run) -> None:
    models = {model["name"]: model for model in map(json.loads, run("list", "--json").out.splitlines())}

    assert models["toy"]["licence"] == "Apache-2.0"
    assert models["toy"]["native_width"] == 128
    assert models["toy"]["sha256"] is None  # nothing is read for a list
    assert "128×128" in run("list").out


def test_models_are_listed_with_the_hash_that_their_pictures_say(run: Run, settings: Settings) -> None:
    (settings.models_dir / "toy/unet/model.safetensors").write_bytes(b"weights")
    record = json.loads(run("generate", "a boat", "--json").out)

    model = next(model for model in map(json.loads, run("list", "--json").out.splitlines()) if model["name"] == "toy")

    assert model["sha256"] == record["provenance"]["model_hash"]
    assert model["sha256"][:10] in run("list").out


def test_a_damaged_database_is_a_sentence(run: Run, settings: Settings) -> None:
    settings.outputs_dir.mkdir()
    (settings.outputs_dir / "studio.db").write_bytes(b"no database" * 1000)

    done = run("jobs")

    assert (done.code, done.out) == (1, "")
    assert "damaged" in done.err
    assert "studio gallery rebuild" in done.err


def test_a_terminal_that_cannot_write_a_sign_gets_it_escaped(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    process = start("jobs", "--state", "⛵")

    _, err = process.communicate(timeout=60)

    assert process.returncode == 2
    assert r"\u26f5" in err


def test_text_from_outside_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[31m\x9b2J\r\u202eb\tc\nd é⛵") == "a�[31m�2J��b\tc\nd é⛵"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_embeddings_are_listed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "embeddings").mkdir()
    save_file({"emb_params": np.ones((2, 768), np.float32)}, tmp_path / "embeddings" / "mine.safetensors")
    (tmp_path / "embeddings" / "old.pt").write_bytes(pickle.dumps({}))

    table, (mine, old) = run("embeddings").out, map(json.loads, run("embeddings", "--json").out.splitlines())

    assert "Stable Diffusion 1.x (768)" in table
    assert (mine["name"], mine["vectors"], len(mine["sha256"]), mine["problem"]) == ("mine", 2, 64, "")
    assert "is a pickle" in old["problem"]
