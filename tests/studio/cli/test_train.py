"""`studio train`, with the pocket model."""

import json
import signal
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open

from studio.cli import train
from tests.studio.cli.conftest import Run, Start


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (128, 128), colour).save(folder / f"{colour}.png")
        (folder / f"{colour}.txt").write_text(f"a {colour} house")
    (folder / "broken.png").write_bytes(b"\x89PNG")
    return folder


def _arguments(data: Path, home: Path, *more: str) -> list[str]:
    prompt = ["--validation-prompt", "a red house"]
    return ["train", str(data), "--name", "my-style", "--model", "pocket", "--home", str(home), *prompt, *more]


def test_a_folder_of_pictures_becomes_a_lora(run: Run, data: Path, tmp_path: Path) -> None:
    done = run(*_arguments(data, tmp_path, "--steps", "2", "--rank", "2", "--trigger-word", "sks"))

    assert done.code == 0
    path = tmp_path / "loras" / "my-style.safetensors"
    assert done.out == f"{path}\n"
    assert "left out: broken.png: cannot be read as a picture" in done.err
    assert "3 pictures in sizes 128×128 (3); 2 steps" in done.err
    assert "training my-style, step " in done.err
    assert "loss 0." in done.err
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["modelspec.trigger_phrase"] == "sks"
    assert (tmp_path / "outputs" / "training" / "my-style" / "strengths.png").is_file()

    again = run(*_arguments(data, tmp_path, "--steps", "2", "--rank", "2"))
    assert again.code == 2
    assert "my-style.safetensors exists; choose another name, or existing: overwrite or resume" in again.err


def test_check_reads_and_predicts_only(run: Run, data: Path, tmp_path: Path) -> None:
    done = run(*_arguments(data, tmp_path, "--check"))

    assert done.code == 0
    assert done.out == ""
    assert "MiB of memory" in done.err
    assert not (tmp_path / "loras").exists()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--rank", "0"], "rank must be at least 1"),
        (["--optimizer", "adamw8bit"], "optimizer adamw8bit needs a CUDA card"),
        (["--resume"], "there is no checkpoint"),
        (["--network-dim", "4"], "say --rank"),
    ],
)
def test_a_refusal_is_a_sentence(run: Run, data: Path, tmp_path: Path, more: list[str], sentence: str) -> None:
    done = run(*_arguments(data, tmp_path, *more))

    assert done.code == 2
    assert sentence in done.err
    assert "Traceback" not in done.err


def test_ctrl_c_stops_and_keeps_and_resume_goes_on(
    start: Start, run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(*_arguments(data, tmp_path, "--steps", "400", "--lr-schedule", "constant"))
    assert process.stderr is not None
    for line in process.stderr:
        if "training my-style, step" in line:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)

    path = tmp_path / "loras" / "my-style.safetensors"
    assert process.returncode == 130
    assert out == f"{path}\n"
    assert "steps are learnt and kept; existing: resume" in err
    with safe_open(path, framework="pt") as file:
        kept = int(file.metadata()["ss_steps"])
    assert 0 <= kept < 400

    monkeypatch.setattr(train, "LINE_SECONDS", 0.0)
    checked = run(*_arguments(data, tmp_path, "--steps", "399", "--lr-schedule", "constant", "--resume"))
    assert checked.code == 2
    assert "steps: the checkpoint" in checked.err


def test_json_says_it_all(run: Run, data: Path, tmp_path: Path) -> None:
    done = run(*_arguments(data, tmp_path, "--steps", "1", "--rank", "1", "--json"))

    answer = json.loads(done.out)
    assert answer["steps"] == answer["num_steps"] == 1
    assert Path(answer["path"]).is_file()
    assert Path(answer["folder"]).is_dir()
