"""The `studio` command as a user meets it: real processes, the fake engine."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipelines.spec.errors import AlreadyRunning, Cancelled, GenerationFailed, InvalidRequest, NotFound, StudioError
from pipelines.spec.request import field_names
from studio import JobState, Settings, Studio
from studio.cli import exit_code
from studio.supervisor import Supervisor


def command(settings: Settings, *arguments: str) -> tuple[list[str], dict[str, str]]:
    chosen = {
        "STUDIO_HOME": str(settings.home),
        "STUDIO_ENGINE": "fake",
        "STUDIO_DEFAULT_MODEL": "toy",
        "STUDIO_DEVICES": "cpu",
        "STUDIO_FAKE_STEP_SECONDS": str(settings.fake_step_seconds),
        "NO_COLOR": "1",
        "COLUMNS": "160",
    }
    return [sys.executable, "-m", "studio.cli", *arguments], {**os.environ, **chosen}


def run(settings: Settings, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    program, environment = command(settings, *arguments)
    return subprocess.run(program, env=environment, input=text, capture_output=True, text=True, timeout=60, check=False)


def test_generate_prints_nothing_but_the_path(settings: Settings) -> None:
    result = run(settings, "generate", "a blue boat", "--seed", "7")

    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.rstrip("\n")).suffix == ".png"
    assert result.stderr == ""


def test_generate_prints_json_and_copies_to_output(settings: Settings, tmp_path: Path) -> None:
    target = tmp_path / "boat.png"

    result = run(settings, "generate", "-", "--seed", "7", "--json", "--output", str(target), text="a boat\n")

    described = json.loads(result.stdout)
    assert described["path"] == str(target)
    assert described["request"]["prompt"] == "a boat"
    assert described["seed"] == 7
    assert json.loads(run(settings, "read", str(target), "--json").stdout)["request"] == described["request"]


def test_generate_numbers_several_outputs(settings: Settings, tmp_path: Path) -> None:
    result = run(settings, "generate", "x", "--num-images", "2", "--output", str(tmp_path / "x.png"))

    assert result.stdout.split() == [str(tmp_path / "x-0.png"), str(tmp_path / "x-1.png")]


def test_generate_takes_image_files(settings: Settings, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "in.png")

    result = run(settings, "generate", "x", "--init-image", str(tmp_path / "in.png"), "--strength", "0.5", "--json")

    assert json.loads(result.stdout)["request"]["strength"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", "x", "--width", "63"], ["width", "63", "64"]),
        (["generate", "x", "--num-inference-steps", "0"], ["num_inference_steps", "0", "at least 1"]),
        (["generate", "x", "--guidance-scale", "nan"], ["guidance_scale", "nan"]),
        (["generate", "x", "--seed", str(2**64)], ["seed", str(2**64)]),
        (["generate", "x", "--init-image", "gone.png"], ["init_image", "gone.png"]),
        (["generate", "x", "--model", "gone"], ["gone", "toy"]),
        (["generate", "x", "--scheduler", "gone"], ["scheduler", "gone", "euler"]),
        (["generate", "x", "--seed", "seven"], ["--seed", "integer"]),
        (["jobs", "--state", "gone"], ["state", "gone", "queued"]),
        (["cancel", "gone"], ["gone"]),
        (["gallery", "rm", "gone"], ["gone"]),
        (["read", "gone.png"], ["gone.png"]),
        (["gone"], ["gone"]),
    ],
)
def test_what_cannot_be_done_is_a_sentence_and_exit_code_2(
    settings: Settings, arguments: list[str], words: list[str]
) -> None:
    result = run(settings, *arguments)

    assert result.returncode == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert all(word in result.stderr for word in words), result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequest("x"), 2),
        (NotFound("x"), 2),
        (AlreadyRunning("x"), 3),
        (Cancelled("x"), 130),
        (GenerationFailed("x"), 1),
        (StudioError("x"), 1),
    ],
)
def test_exit_codes(error: StudioError, code: int) -> None:
    assert exit_code(error) == code


def test_every_request_field_is_an_option(settings: Settings) -> None:
    text = run(settings, "generate", "--help").stdout

    for name in field_names():
        assert name == "prompt" or f"--{name.replace('_', '-')} " in text


def test_ctrl_c_cancels_the_job(settings: Settings) -> None:
    slow = settings.model_copy(update={"fake_step_seconds": 0.2})
    program, environment = command(slow, "generate", "x", "--num-inference-steps", "200")
    process = subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    with Studio(settings) as studio:
        while not studio.jobs(states={JobState.RUNNING}):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)

        assert process.returncode == 130
        assert "cancelled" in errors
        assert "Traceback" not in errors
        assert studio.jobs()[0].state is JobState.CANCELLED


def test_generate_is_served_by_a_running_worker(settings: Settings) -> None:
    supervisor = Supervisor(settings)
    supervisor.start()
    try:
        with Studio(settings) as studio:
            while not studio.live_workers():
                time.sleep(0.05)
            result = run(settings, "generate", "x")

            assert result.returncode == 0, result.stderr
            assert studio.jobs()[0].state is JobState.DONE
    finally:
        supervisor.stop()


def test_jobs_gallery_and_rebuild_agree(settings: Settings, studio: Studio) -> None:
    image = studio.generate("a boat", seed=1, progress=False)[0]

    assert json.loads(run(settings, "jobs", "--json").stdout)["id"] == image.job_id
    assert json.loads(run(settings, "gallery", "--json").stdout)["path"] == str(image.path)
    assert "1 pictures found, 0 added" in run(settings, "gallery", "rebuild").stdout
    assert run(settings, "gallery", "rm", image.id).returncode == 0
    assert run(settings, "gallery", "--json").stdout == ""


def test_read_shows_what_other_programs_wrote(settings: Settings, tmp_path: Path) -> None:
    chunks = PngInfo()
    chunks.add_text("parameters", "a cat\nSteps: 20")
    Image.new("RGB", (8, 8)).save(tmp_path / "foreign.png", pnginfo=chunks)

    result = run(settings, "read", str(tmp_path / "foreign.png"))

    assert result.returncode == 0
    assert "a cat" in result.stdout


def test_list_names_models_and_licences(settings: Settings) -> None:
    models = [json.loads(line) for line in run(settings, "list", "--json").stdout.splitlines()]

    assert {"toy", "Apache-2.0"} <= {value for model in models for value in model.values()}


def test_damaged_database_is_a_sentence(settings: Settings) -> None:
    settings.outputs_dir.mkdir()
    (settings.outputs_dir / "studio.db").write_bytes(b"no database" * 1000)

    result = run(settings, "jobs")

    assert result.returncode == 1
    assert "damaged" in result.stderr
    assert "Traceback" not in result.stderr
