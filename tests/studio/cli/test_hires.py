"""`studio hires`: a finished picture, larger."""

import json

import pytest

from studio import Studio, metadata
from tests.studio.cli.conftest import Run


def test_the_command_prints_the_path_of_the_larger_picture(run: Run, studio: Studio) -> None:
    (small,) = studio.generate("a boat", progress=False)

    done = run("hires", str(small.path), "--scale", "1.5", "--upscaler", "Lanczos", "--steps", "3", "--json")
    copied = run("hires", str(small.path), "--output", str(studio.settings.home / "large.webp"))

    request = json.loads(done.out)["request"]
    assert (request["hires_scale"], request["hires_upscaler"], request["hires_steps"]) == (1.5, "lanczos", 3)
    assert copied.out.strip().endswith("large.webp")
    assert metadata.read(studio.settings.home / "large.webp").request.hires_scale == 2.0


def test_what_is_no_picture_of_ours_is_refused(run: Run, studio: Studio) -> None:
    done = run("hires", str(studio.settings.home / "none.png"))

    assert done.code == 2
    assert "none.png" in done.err


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (("--scale", "0.5"), "--scale must be at least 1 and at most 16, got 0.5"),
        (("--noise-schedule", "kerras"), "--noise-schedule 'kerras' is not known; did you mean karras?"),
        (("--model", "gone"), "model 'gone' is not installed"),
    ],
)
def test_what_is_refused_has_the_name_of_its_option(
    run: Run, studio: Studio, option: tuple[str, str], sentence: str
) -> None:
    (small,) = studio.generate("a boat", progress=False)

    done = run("hires", str(small.path), *option)

    assert done.code == 2
    assert sentence in done.err
    assert "hires_" not in done.err
