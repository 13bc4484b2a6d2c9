"""`studio gallery` and `studio read`."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from studio import Settings, Studio
from studio.api.views import ImageView
from studio.ui import markup
from tests.studio.cli.conftest import Run


def test_pictures_are_listed_newest_first_and_in_pages(run: Run, studio: Studio) -> None:
    images = studio.generate("a boat", seed=1, num_images=3, progress=False)

    page = run("gallery", "--limit", "2")
    rest = [json.loads(line) for line in run("gallery", "--offset", "2", "--json").out.splitlines()]

    assert [line.split()[0] for line in page.out.splitlines()] == ["id", images[2].id, images[1].id]
    assert "2 of 3 pictures; the next: studio gallery --limit 2 --offset 2" in page.err
    assert [image["id"] for image in rest] == [images[0].id]
    assert rest[0]["path"] == str(images[0].path)
    assert rest[0]["request"]["prompt"] == "a boat"


def test_pictures_are_listed_with_the_size_of_their_file(run: Run, settings: Settings, studio: Studio) -> None:
    image = studio.generate("a boat", progress=False)[0]
    with closing(sqlite3.connect(settings.outputs_dir / "studio.db")) as connection, connection:
        connection.execute("UPDATE image SET width = 300, height = 200")

    assert " 300×200 " in run("gallery").out
    assert "300 × 200" in markup.caption(studio.gallery.get(image.id))
    assert 'width="300" height="200"' in markup.picture(studio.gallery.get(image.id))
    view = ImageView.of(studio.gallery.get(image.id))
    assert (view.width, view.height) == (300, 200)


def test_an_empty_gallery_is_no_error(run: Run) -> None:
    assert run("gallery", "--json").out == ""
    assert run("gallery").code == 0


def test_rebuild_makes_the_list_anew(run: Run, studio: Studio) -> None:
    studio.generate("a boat", num_images=2, progress=False)
    gone = studio.gallery.page()[0]
    gone.path.unlink()
    (studio.gallery.images_dir / "foreign.png").write_bytes(b"no picture")

    done = run("gallery", "rebuild")

    assert done.code == 0
    assert "0 added to the list, 1 no longer there" in done.out
    assert "foreign.png" in done.err


def test_rm_deletes_all_or_nothing(run: Run, studio: Studio) -> None:
    first, second = studio.generate("a boat", num_images=2, progress=False)

    assert run("gallery", "rm", first.id, "gone").code == 2
    assert studio.gallery.count() == 2
    assert run("gallery", "rm", first.id, second.id).code == 0
    assert studio.gallery.count() == 0
    assert not first.path.exists()


def test_an_option_before_the_subcommand_is_refused(run: Run, studio: Studio, tmp_path: Path) -> None:
    image = studio.generate("a boat", progress=False)[0]

    done = run("gallery", "--home", str(tmp_path / "other"), "rm", image.id)

    assert done.code == 2
    assert "studio gallery rm --home" in done.err
    assert image.path.exists()


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp", "avif"])
def test_read_tells_how_our_pictures_were_made(run: Run, studio: Studio, output_format: str) -> None:
    image = studio.generate("a boat\x1b]0;x", seed=7, output_format=output_format, progress=False)[0]

    text = run("read", str(image.path)).out
    described = json.loads(run("read", str(image.path), "--json").out)

    assert "a boat�]0;x" in text
    assert "num_inference_steps  4" in text
    assert "mask_blur_x" not in text
    assert described["record"]["request"]["seed"] == 7
    assert described["texts"]["parameters"].startswith("a boat")


def test_read_shows_what_other_programs_wrote(run: Run, tmp_path: Path) -> None:
    chunks = PngInfo()
    chunks.add_text("parameters", "a cat\nSteps: 20\x1b[2J")
    Image.new("RGB", (8, 8)).save(tmp_path / "foreign.png", pnginfo=chunks)

    text = run("read", str(tmp_path / "foreign.png")).out
    described = json.loads(run("read", str(tmp_path / "foreign.png"), "--json").out)

    assert text.startswith("program          A1111\nprompt           a cat\nSteps: 20�[2J\n")
    assert described["record"] is None
    assert described["texts"] == {"parameters": "a cat\nSteps: 20\x1b[2J"}


def test_read_takes_a_text_from_standard_input_or_a_file(run: Run, studio: Studio, tmp_path: Path) -> None:
    infotext = "a cat 🐈\nSteps: 20, Seed: 5, Size: 64x64"
    (tmp_path / "theirs.TXT").write_text(infotext, encoding="utf-8-sig")
    image = studio.generate("a boat", seed=7, progress=False)[0]
    ours = json.loads(run("read", str(image.path), "--json").out)

    typed = json.loads(run("read", "-", "--json", text=infotext.encode()).out)
    from_file = json.loads(run("read", str(tmp_path / "theirs.TXT"), "--json").out)
    record = json.loads(run("read", "-", "--json", text=ours["texts"]["studio"].encode()).out)

    assert typed["import"]["request"]["seed"] == 5
    assert from_file["import"] == typed["import"]
    assert (record["record"], record["import"]) == (ours["record"], ours["import"])
    (tmp_path / "theirs.TXT").write_text("", encoding="utf-8")
    assert run("read", str(tmp_path / "theirs.TXT")).out == "This text is empty.\n"
    assert run("read", "-", text=b"\xff").code == 2
    cut = run("read", "-", text=b'{"schema": 5}')
    assert (cut.code, cut.err[:56]) == (2, "error: standard input: its record cannot be read: job: f")
    assert run("read", "-", text=b" \n").out == "This text is empty.\n"


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_read_of_a_bare_picture_says_so(run: Run, tmp_path: Path, suffix: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / f"bare.{suffix}")

    assert run("read", str(tmp_path / f"bare.{suffix}")).out == "This picture carries no metadata.\n"


BROKEN = [
    ('{"schema": 99, "software": "Later"}', "its record cannot be read: it was made by a newer version, Later (schema"),
    ('{"schema": 5, "job"', "its record cannot be read: Expecting ':' delimiter"),
    ('{"schema": 5, "job": "x"}', "its record cannot be read: job: string should match pattern '^[0-9a-f]{16}$', got"),
    ("[]", "its record cannot be read: it: input should be a valid dictionary"),
]


@pytest.mark.parametrize(("text", "why"), BROKEN)
@pytest.mark.parametrize("infotext", ["", "a cat\nSteps: 20, Seed: 5, Size: 64x64"])
def test_read_of_a_broken_record_says_why_and_falls_back_to_the_infotext(
    run: Run, tmp_path: Path, text: str, why: str, infotext: str
) -> None:
    chunks = PngInfo()
    chunks.add_text("studio", text)
    if infotext:
        chunks.add_text("parameters", infotext)
    Image.new("RGB", (8, 8)).save(tmp_path / "broken.png", pnginfo=chunks)

    done = run("read", str(tmp_path / "broken.png"))
    as_json = run("read", str(tmp_path / "broken.png"), "--json")

    assert why in done.err
    assert done.code == (0 if infotext else 2)
    assert ("a cat" in done.out) == bool(infotext)
    assert why in as_json.err
    assert json.loads(as_json.out)["texts"]["studio"] == text


@pytest.mark.parametrize("name", ["gone.png", "model_index.json", ""])
def test_read_refuses_what_is_no_picture(run: Run, settings: Settings, name: str) -> None:
    done = run("read", str(settings.models_dir / "toy" / name))

    assert (done.code, done.out) == (2, "")
    assert str(settings.models_dir) in done.err


GRAPH = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "Toy.safetensors"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a boat", "clip": ["1", 1]}},
    "3": {
        "class_type": "KSampler",
        "inputs": {"seed": 9, "steps": 8, "cfg": 2, "sampler_name": "res_2m", "scheduler": "karras", "denoise": 1,
                   "model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["9", 0]},
    },
    "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0]}},
}  # fmt: skip


def test_read_turns_foreign_pictures_into_a_request_of_ours(run: Run, tmp_path: Path) -> None:
    chunks = PngInfo()
    chunks.add_text("prompt", json.dumps(GRAPH))
    Image.new("RGB", (8, 8)).save(tmp_path / "foreign.png", pnginfo=chunks)

    text = run("read", str(tmp_path / "foreign.png")).out
    described = json.loads(run("read", str(tmp_path / "foreign.png"), "--json").out)

    assert text.startswith("program              ComfyUI\nprompt               a boat\n")
    assert "\nmodel                toy\n" in text
    assert "\nused:\n  prompt a boat: as it is\n" in text
    assert "\nmissing:\n  scheduler res_2m: there is no sampler 'res_2m'; choose one of " in text
    assert described["import"]["program"] == "ComfyUI"
    assert described["import"]["request"]["num_inference_steps"] == 8
    assert {"field": "seed", "value": "9", "outcome": "used", "why": "as it is"} in described["import"]["notes"]


def test_read_of_ours_imports_without_notes(run: Run, studio: Studio) -> None:
    image = studio.generate("a boat", seed=7, progress=False)[0]

    described = json.loads(run("read", str(image.path), "--json").out)

    assert described["import"]["program"] == "Open Weights Studio"
    assert described["import"]["request"]["seed"] == 7
    assert described["import"]["notes"] == []


def test_read_prints_half_of_a_surrogate_pair_as_a_mark(run: Run, tmp_path: Path) -> None:
    chunks = PngInfo()
    chunks.add_text("invokeai_metadata", '{"positive_prompt": "a\\ud800", "steps": 3}')
    Image.new("RGB", (8, 8)).save(tmp_path / "foreign.png", pnginfo=chunks)

    assert "prompt a�: prompt holds half of a surrogate pair" in run("read", str(tmp_path / "foreign.png")).out
