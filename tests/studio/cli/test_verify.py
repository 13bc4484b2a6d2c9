"""A picture is what it says it is, or the difference is told."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipelines.spec.errors import InvalidRequest, NotFound
from studio import Studio, __version__, metadata
from studio.metadata import Record, native
from tests.studio.cli.conftest import Run


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_a_picture_of_ours_is_exact_and_nothing_is_left(studio: Studio, output_format: str) -> None:
    made = studio.generate("a {red|blue} boat", num_images=2, output_format=output_format, progress=False)

    results = [studio.verify(image.path, progress=False) for image in made]

    assert [(each.is_exact, each.max_difference, each.differences) for each in results] == [(True, 0, ())] * 2
    assert studio.gallery.count() == 2


def _rewrite(path: Path, *, paint: bool, **provenance: str) -> None:
    record = metadata.read(path)
    with Image.open(path) as image:
        picture = image.convert("RGB")
    if paint:
        picture.putpixel((3, 4), (1, 2, 3))
    changed = Record(**{**record.__dict__, "provenance": {**record.provenance, **provenance}})
    with path.open("wb") as file:
        metadata.save(picture, file, changed, output_format="png")


def test_an_edited_picture_is_found_out(studio: Studio) -> None:
    (image,) = studio.generate("a boat", progress=False)
    _rewrite(image.path, paint=True)

    result = studio.verify(image.path, progress=False)

    assert not result.is_exact
    assert result.max_difference is not None
    assert result.max_difference > 0
    assert result.differing_pixels == pytest.approx(1 / (image.request.width * image.request.height))
    assert result.differences == ()


def test_what_made_it_differently_is_named(studio: Studio, run: Run) -> None:
    (image,) = studio.generate("a boat", progress=False)
    _rewrite(image.path, paint=True, torch="1.0")

    done = run("verify", str(image.path))

    assert done.code == 1
    assert "less than 0.1% of the pixels differ, by up to" in done.out
    assert "torch was 1.0, is None" in done.out


def _with(path: Path, **texts: str) -> None:
    """Write some texts of a picture anew, and leave its pixels and its other texts."""
    chunks = PngInfo()
    for key, text in {**metadata.read_texts(path), **texts}.items():
        chunks.add_text(key, text)
    with Image.open(path) as image:
        image.load()
    image.save(path, pnginfo=chunks)


@pytest.mark.parametrize(
    ("old", "new", "note"),
    [
        ("Seed: 7,", "Seed: 8,", "its infotext says Seed 8, and its record 7"),
        ("a boat", "a car", "its infotext says prompt a car, and its record a boat"),
        ("fog", "rain", "its infotext says negative_prompt rain, and its record fog"),
        (", RNG: CPU", "", "its infotext says RNG nothing, and its record CPU"),
        ("Version", "Clip skip: 2, Version", "its infotext says Clip skip 2, and its record nothing"),
        ("Version: Open Weights Studio", "Version: Other", "its infotext says Version Other"),
    ],
)
def test_an_edited_infotext_is_told(studio: Studio, run: Run, old: str, new: str, note: str) -> None:
    (image,) = studio.generate("a boat", negative_prompt="fog", seed=7, progress=False)
    text = metadata.read_texts(image.path)["parameters"]
    _with(image.path, parameters=text.replace(old, new))

    done = run("verify", str(image.path))

    assert f"exact, every pixel is the same; {note}" in done.out
    assert note in run("verify", "--json", str(image.path)).out


def test_the_texts_of_an_enlarged_picture_are_compared_with_its_own_records(studio: Studio) -> None:
    (image,) = studio.generate("a boat", seed=7, hires_scale=2.0, progress=False)
    large = studio.upscale(image, progress=False)

    before = studio.verify(large.path, progress=False)
    text = metadata.read_texts(large.path)["parameters"]
    _with(large.path, parameters=text.replace("Seed: 7", "Seed: 8"), postprocessing="Postprocess upscaler: Magic")

    assert before.notes == ()
    assert [note.split(",")[0] for note in studio.verify(large.path, progress=False).notes] == [
        "its infotext says Seed 8",
        "its infotext says postprocessing Postprocess upscaler: Magic",
    ]


def test_an_infotext_of_another_version_may_say_less(studio: Studio) -> None:
    (image,) = studio.generate("a boat", seed=7, progress=False)
    record, text = metadata.read(image.path), metadata.read_texts(image.path)["parameters"]
    older = text.replace(f"Studio {__version__}", "Studio 0.0.9").replace("RNG: CPU, ", "Clip skip: 1, ")
    _with(image.path, parameters=older, studio=native.write(replace(record, software="Open Weights Studio 0.0.9")))

    assert studio.verify(image.path, progress=False).notes == ()
    _with(image.path, parameters=older.replace("Seed: 7", "Seed: 8"))
    assert len(studio.verify(image.path, progress=False).notes) == 1


@pytest.mark.parametrize(("alpha", "is_exact"), [(255, True), (0, False)])
def test_an_edited_transparency_is_found_out(studio: Studio, alpha: int, *, is_exact: bool) -> None:
    (image,) = studio.generate("a boat", progress=False)
    texts = metadata.read_texts(image.path)
    with Image.open(image.path) as picture:
        edited = picture.convert("RGBA")
    edited.putpixel((3, 4), (*edited.getpixel((3, 4))[:3], alpha))  # type: ignore[index]
    edited.save(image.path)
    _with(image.path, **texts)

    assert studio.verify(image.path, progress=False).is_exact is is_exact


def test_a_record_of_a_newer_version_is_told_in_words(studio: Studio, run: Run) -> None:
    (image,) = studio.generate("a boat", progress=False)
    newer = {**metadata.read(image.path).to_json(), "schema": 6, "software": "Open Weights Studio 9.0"}
    _with(image.path, studio=json.dumps(newer))

    done = run("verify", str(image.path))

    assert done.code == 2
    assert "it was made by a newer version, Open Weights Studio 9.0 (schema 6); this one, " in done.err
    assert "pydantic" not in done.err


def test_a_picture_of_ours_without_its_record_is_told_so(studio: Studio, run: Run) -> None:
    (image,) = studio.generate("a boat", seed=7, progress=False)
    chunks = PngInfo()
    chunks.add_text("parameters", metadata.read_texts(image.path)["parameters"])
    with Image.open(image.path) as picture:
        picture.load()
    picture.save(image.path, pnginfo=chunks)

    done = run("verify", str(image.path))

    assert done.code == 2
    assert "says that Open Weights Studio made it, but its record is gone" in done.err
    assert "seed                 7" in run("read", str(image.path)).out


def test_the_command_says_exact(studio: Studio, run: Run) -> None:
    (image,) = studio.generate("a boat", progress=False)

    assert run("verify", str(image.path)).out.endswith("exact, every pixel is the same\n")
    assert '"exact": true' in run("verify", "--json", str(image.path)).out


def test_what_cannot_be_made_again_is_told(studio: Studio, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.png")
    (image,) = studio.generate("a boat", init_image=tmp_path / "photo.png", progress=False)
    studio.inputs.path(str(image.request.init_image)).unlink()

    with pytest.raises(InvalidRequest, match="there is no stored input"):
        studio.verify(image.path, progress=False)
    with pytest.raises(NotFound, match="was not made by Open Weights Studio"):
        studio.verify(tmp_path / "photo.png", progress=False)
