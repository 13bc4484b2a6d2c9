"""`studio hires`: a finished picture, larger."""

import json

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
