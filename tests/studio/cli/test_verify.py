"""A picture is what it says it is, or the difference is told."""

from pathlib import Path

import pytest
from PIL import Image

from pipelines.spec.errors import InvalidRequest, NotFound
from studio import Studio, metadata
from studio.metadata import Record
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
    assert "0.0% of the pixels differ, by up to" in done.out
    assert "torch was 1.0, is None" in done.out


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
