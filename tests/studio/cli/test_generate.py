"""`studio generate`: what it prints, copies and refuses, and how it is interrupted."""

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from pipelines.spec.request import GenerationRequest, field_names
from studio import JobState, Settings, Studio
from studio.supervisor import Supervisor
from tests.studio.cli.conftest import Run, Start
from tests.studio.conftest import write_model

SECONDS = 60


def test_standard_output_carries_the_paths_and_nothing_else(start: Start, settings: Settings) -> None:
    out, err = start("generate", "a blue boat", "--num-images", "2").communicate(timeout=SECONDS)

    with Studio(settings) as studio:
        assert out.splitlines() == [str(image.path) for image in reversed(studio.gallery.page())]
    assert len(out.splitlines()) == 2
    assert "done" in err
    assert "\x1b" not in err


def test_every_field_of_a_request_is_an_option_with_its_description(run: Run) -> None:
    text = " ".join(run("generate", "--help").out.split())

    for name in field_names():
        described = GenerationRequest.model_fields[name].description
        option = {"loras": "lora", "styles": "style"}.get(name, name.replace("_", "-"))
        assert name == "prompt" or (f"--{option} " in text and str(described) in text)
    assert "(64 to 4096; multiples of 8)" in text
    assert "(above 0 to 1)" in text
    assert "(png, jpeg, webp, avif; default png)" in text


def test_every_option_reaches_the_request(run: Run, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "in.png")
    asked = {
        "negative_prompt": "fog",
        "model": "toy",
        "width": 64,
        "height": 72,
        "num_inference_steps": 8,
        "guidance_scale": 3.5,
        "strength": 0.5,
        "scheduler": "heun",
        "noise_schedule": "polyexponential",
        "sigma_min": 0.1,
        "sigma_max": 10.0,
        "rho": 2.0,
        "seed": 7,
        "step_rule": "exact",
        "resize_mode": "fill",
        "invert_mask": True,
        "mask_blur_x": 2.5,
        "mask_blur_y": 0.0,
        "masked_content": "latent_noise",
        "inpaint_area": "only_masked",
        "mask_padding": 8,
        "mask_mode": "soft",
        "soft_schedule_bias": 1.5,
        "soft_preservation": 0.25,
        "soft_contrast_boost": 3.0,
        "soft_mask_influence": 0.5,
        "soft_difference_threshold": 0.75,
        "soft_difference_contrast": 1.0,
        "outpaint_left": 8,
        "outpaint_top": 16,
        "outpaint_right": 24,
        "outpaint_bottom": 32,
        "eta": 0.0,
        "s_churn": 1.0,
        "s_tmin": 0.5,
        "s_tmax": 9.0,
        "s_noise": 1.05,
        "clip_skip": 2,
        "emphasis": "comfy",
        "prompt_comments": False,
        "variation_seed": 8,
        "variation_strength": 0.25,
        "seed_resize_width": 128,
        "seed_resize_height": 64,
        "noise_source": "nv",
        "eta_noise_seed_delta": 31337,
        "tile_size": 128,
        "tile_overlap": 32,
        "output_format": "webp",
        "template": "a {boat|car}",
        "negative_template": "{fog|rain}",
    }
    written = {True: "--{}", False: "--no-{}"}
    options = [
        written[value].format(name.replace("_", "-"))
        if isinstance(value, bool)
        else f"--{name.replace('_', '-')}={value}"
        for name, value in asked.items()
    ]
    files = [f"--{name}={tmp_path / 'in.png'}" for name in ("init-image", "mask-image")]

    done = run("generate", "a boat", "--json", *options, *files)

    described = json.loads(done.out)
    assert described["request"].items() >= asked.items()
    assert described["request"]["init_image"] == described["request"]["mask_image"] is not None
    assert described.keys() == {"id", "path", "seed", "request", "provenance"}
    assert {
        *asked,
        *HIRES,
        "hires_width",
        "hires_height",
        "prompt",
        "styles",
        "loras",
        "init_image",
        "mask_image",
        "num_images",
        "upscaler",
    } == set(field_names())


HIRES = {
    "hires_scale": 1.5,
    "hires_upscaler": "lanczos",
    "hires_steps": 3,
    "hires_strength": 0.4,
    "hires_scheduler": "euler",
    "hires_noise_schedule": "simple",
    "hires_guidance_scale": 2.0,
    "hires_prompt": "a ship",
    "hires_template": "a {ship|boat}",
    "hires_negative_template": "{fog|rain}",
    "hires_negative_prompt": "rain",
    "hires_model": "other",
}


def test_every_option_of_the_second_pass_reaches_the_request(run: Run, settings: Settings) -> None:
    write_model(settings.home / "models" / "other")
    options = [f"--{name.replace('_', '-')}={value}" for name, value in HIRES.items()]

    done = run("generate", "a boat", "--json", *options)
    sized = run("generate", "a boat", "--json", "--hires-width=192", "--hires-height=256")

    assert json.loads(done.out)["request"].items() >= HIRES.items()
    assert json.loads(sized.out)["request"].items() >= {"hires_width": 192, "hires_height": 256}.items()


def test_a_stored_input_is_named_by_its_id(run: Run, studio: Studio) -> None:
    stored = studio.inputs.put(Image.new("RGB", (64, 64)))

    assert json.loads(run("generate", "x", "--init-image", stored, "--json").out)["request"]["init_image"] == stored


def test_a_dash_reads_the_prompt_from_standard_input(run: Run) -> None:
    done = run("generate", "-", "--json", text="\ufeffa boat,\n blue ⛵\r\n".encode())

    assert json.loads(done.out)["request"]["prompt"] == "a boat,\n blue ⛵"


def test_a_prompt_that_is_no_text_is_refused(run: Run) -> None:
    done = run("generate", "-", text=b"\xff\xfe")

    assert (done.code, done.out) == (2, "")
    assert "standard input is not UTF-8" in done.err


def test_output_is_a_byte_copy_that_keeps_its_record(run: Run, studio: Studio, tmp_path: Path) -> None:
    target = tmp_path / "new" / "boat.png"

    done = run("generate", "a boat", "--output", str(target))

    assert done.out == f"{target}\n"
    assert target.read_bytes() == studio.gallery.page()[0].path.read_bytes()
    assert json.loads(run("read", str(target), "--json").out)["record"]["request"]["prompt"] == "a boat"


@pytest.mark.parametrize(
    ("name", "kind"), [("x.jpg", "JPEG"), ("x.JPEG", "JPEG"), ("x.webp", "WEBP"), ("x.avif", "AVIF"), ("x.png", "PNG")]
)
def test_the_ending_of_output_chooses_the_format(run: Run, tmp_path: Path, name: str, kind: str) -> None:
    assert run("generate", "x", "--output", str(tmp_path / name)).code == 0

    with Image.open(tmp_path / name) as image:
        assert image.format == kind


def test_several_pictures_are_numbered(run: Run, tmp_path: Path) -> None:
    done = run("generate", "x", "--num-images", "2", "--output", str(tmp_path / "x.png"))

    assert done.out.splitlines() == [str(tmp_path / "x-00.png"), str(tmp_path / "x-01.png")]


@pytest.mark.parametrize("exists", [True, False])
def test_output_may_be_a_folder(run: Run, studio: Studio, tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "some pictures"
    if exists:
        folder.mkdir()

    done = run("generate", "x", "--output", str(folder))

    assert done.out == f"{folder / studio.gallery.page()[0].path.name}\n"


def test_a_file_is_replaced_only_when_asked(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "x.png"
    target.write_bytes(b"dear to me")

    refused = run("generate", "x", "--output", str(target))

    assert refused.code == 2
    assert "exists already" in refused.err
    assert "--overwrite" in refused.err
    assert target.read_bytes() == b"dear to me"
    assert run("generate", "x", "--output", str(target), "--overwrite").code == 0
    assert target.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--output", "x.png", "--output-format", "webp"], ["output_format webp", "x.png"]),
        (["--output", "x.gif"], ["--output: x.gif is not written; end it in .png, .jpg, .jpeg, .webp, .avif"]),
        (["--output", "studio.toml/x.png"], ["studio.toml", "is not a folder"]),
        (["--output", "studio.toml"], ["studio.toml", "is not a folder"]),
        (["--width", "63"], ["width", "63", "64"]),
        (["--num-inference-steps", "0"], ["num_inference_steps", "at least 1", "0"]),
        (["--guidance-scale", "nan"], ["guidance_scale", "nan"]),
        (["--seed", str(2**64)], ["seed", str(2**64)]),
        (["--seed", "seven"], ["--seed must be a whole number", "seven"]),
        (["--init-image", "gone.png"], ["init_image", "gone.png"]),
        (["--init-image", "studio.toml"], ["init_image", "PNG, JPEG, WebP or AVIF"]),
        (["--init-image", "0" * 64], ["no stored input"]),
        (["--strength", "0.5"], ["strength", "needs init_image"]),
        (["--model", "gone"], ["gone", "toy"]),
        (["--scheduler", "gone"], ["scheduler", "gone", "euler"]),
        (["--output-format", "gif"], ["output_format", "gif", "webp"]),
        (["--widht", "64"], ["--widht", "--width"]),
        (["--devices", "cpu,cpu"], ["devices", "twice"]),
    ],
)
def test_what_cannot_be_made_is_refused_before_a_job_exists(
    run: Run, studio: Studio, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: list[str]
) -> None:
    monkeypatch.chdir(studio.settings.home)
    Path("studio.toml").touch()

    done = run("generate", "x", *arguments)

    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert all(word in done.err for word in words), done.err
    assert studio.jobs() == []


def test_a_job_that_fails_says_why_and_prints_what_was_made(run: Run, settings: Settings) -> None:
    settings.outputs_dir.mkdir()
    (settings.outputs_dir / "images").write_text("in the way")

    done = run("generate", "x")

    assert (done.code, done.out) == (1, "")
    assert "images" in done.err.splitlines()[-1]
    assert "Traceback" not in done.err


@pytest.mark.skipif(os.name == "nt", reason="there, Ctrl-C reaches the whole console, pytest included")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_job_is_cancelled_in_order(start: Start, settings: Settings, number: signal.Signals) -> None:
    with Studio(settings) as studio:
        process = start("generate", "x", "--num-inference-steps", "200", step_seconds=0.1)
        _until_running(studio)

        process.send_signal(number)
        out, err = process.communicate(timeout=SECONDS)

        assert (process.returncode, out) == (130, "")
        assert "was cancelled" in err
        assert "Traceback" not in err
        assert studio.jobs()[0].state is JobState.CANCELLED
        assert studio.gallery.count() == 0


@pytest.mark.skipif(os.name == "nt", reason="there, Ctrl-C reaches the whole console, pytest included")
def test_a_running_server_does_the_work_and_is_told_to_cancel(start: Start, run: Run, settings: Settings) -> None:
    supervisor = Supervisor(settings.model_copy(update={"fake_step_seconds": 0.05}))
    supervisor.start()
    try:
        with Studio(settings) as studio:
            while not studio.live_workers():
                time.sleep(0.05)
            # The engine of this name does not exist here: only the server's worker can have done it.
            assert run("generate", "x", "--engine", "diffusers", "--num-inference-steps", "2").code == 0

            process = start("generate", "x", "--num-inference-steps", "200")
            _until_running(studio)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=SECONDS)

            assert process.returncode == 130
            assert [job.state for job in studio.jobs()] == [JobState.CANCELLED, JobState.DONE]
            assert run("generate", "x").code == 0
    finally:
        supervisor.stop()


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_a_terminal_sees_a_bar_and_standard_output_stays_clean(start: Start) -> None:
    import pty

    ours, theirs = pty.openpty()
    process = start("generate", "x", "--num-inference-steps", "20", step_seconds=0.1, stderr=theirs)
    os.close(theirs)
    out, _ = process.communicate(timeout=SECONDS)

    seen = _drain(ours)
    assert process.returncode == 0
    assert out.count("\n") == 1
    assert re.search(r"step \d+/20", seen)
    assert "s left" in seen


def _until_running(studio: Studio) -> None:
    while not any(job.step for job in studio.jobs(states={JobState.RUNNING})):
        time.sleep(0.02)


def _drain(descriptor: int) -> str:
    pieces = []
    try:
        while piece := os.read(descriptor, 65536):
            pieces.append(piece)
    except OSError:  # Linux reports the closed other end so
        assert sys.platform == "linux"
    os.close(descriptor)
    return b"".join(pieces).decode()


def test_what_is_likely_not_meant_in_a_prompt_is_told_and_done_all_the_same(run: Run) -> None:
    done = run("generate", "a (boat [car:tree:99]", "--num-inference-steps", "8")

    assert done.code == 0
    assert done.out.endswith(".png\n")
    assert done.err.count("note: prompt: ") == 2
    assert "note" not in run("generate", "a (red:1.2) boat").err


def test_from_takes_the_settings_of_a_picture_and_what_is_given_replaces_them(run: Run, tmp_path: Path) -> None:
    first = run("generate", "a {red|red} boat", "--seed", "7", "--width", "64", "--scheduler", "heun").out.strip()

    again = json.loads(run("generate", "--from", first, "--json").out)
    other = json.loads(run("generate", "a {green|green} boat", "--from", first, "--seed", "8", "--json").out)

    assert [again["request"][name] for name in ("prompt", "seed", "width")] == ["a red boat", 7, 64]
    assert [other["request"][name] for name in ("prompt", "seed", "width")] == ["a green boat", 8, 64]
    assert other["request"]["template"] == "a {green|green} boat"
    assert other["request"]["scheduler"] == "heun"


def test_from_tells_what_of_another_program_is_not_as_it_was(run: Run, tmp_path: Path) -> None:
    text = "a boat\nSteps: 4, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x64, Face restoration: GFPGAN"
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")

    result = run("generate", "--from", str(tmp_path / "a.txt"), "--json")

    assert json.loads(result.out)["request"]["prompt"] == "a boat"
    assert "ignored: Face restoration GFPGAN" in result.err


def test_generate_wants_a_prompt_or_a_picture(run: Run) -> None:
    result = run("generate")

    assert result.code == 2
    assert "prompt is missing" in result.err
    assert "--from IMAGE" in result.err
