"""Larger pictures without painting, through the studio: sizes, what the new picture says, what is refused."""

import json
from pathlib import Path

import pytest
from PIL import Image

from pipelines.spec.errors import InvalidRequest
from studio import Studio
from studio.metadata import Outcome, a1111, import_request, read_texts
from tests.studio.cli.conftest import Run


def test_what_a_picture_says_of_its_painting_stays(studio: Studio) -> None:
    (small,) = studio.generate("a {red|blue} boat", seed=5, width=64, height=128, hires_scale=1.5, progress=False)

    large = studio.upscale(small, scale=3, upscaler="Nearest", progress=False)

    assert large.image.size == (96 * 3, 192 * 3)
    changed = {name for name, value in large.request if value != getattr(small.request, name)}
    assert changed == {
        *("init_image", "strength", "upscaler", "width", "height"),
        *("hires_scale", "hires_upscaler", "hires_steps", "hires_strength"),
        *("hires_scheduler", "hires_noise_schedule", "hires_guidance_scale"),
    }
    assert (large.request.strength, large.request.upscaler) == (0, "nearest")
    assert studio.verify(large.path, progress=False).is_exact


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ({}, (200, 128)),
        ({"scale": 4}, (400, 264)),
        ({"width": 296}, (296, 192)),
        ({"height": 128}, (192, 128)),
        ({"width": 256, "height": 256}, (256, 256)),
    ],
)
def test_any_file_becomes_so_large(
    studio: Studio, tmp_path: Path, asked: dict[str, int], size: tuple[int, int]
) -> None:
    Image.new("RGB", (100, 66)).save(tmp_path / "photo.png")

    assert studio.upscale(tmp_path / "photo.png", progress=False, **asked).image.size == size


def test_one_size_only(studio: Studio) -> None:
    (small,) = studio.generate("a boat", progress=False)

    with pytest.raises(InvalidRequest, match="scale and width both say how large"):
        studio.upscale(small, scale=2, width=128)


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"upscaler": "latent_bilinear"}, "upscaler", "latents are stretched by resize_mode latent alone"),
        ({"upscaler": "nearest", "resize_mode": "latent", "strength": 0.5}, "upscaler", "resize_mode latent alone"),
        ({"strength": 0.0, "resize_mode": "latent"}, "resize_mode", "strength 0 paints nothing"),
        ({"strength": 0.0, "outpaint_left": 64}, "strength", "strength 0 paints nothing, and inpaint"),
        ({"upscaler": "nearest", "outpaint_left": 64}, "upscaler", "this is inpaint; take it out"),
        ({"upscaler": "nearest", "init_image": None}, "upscaler", "this is text-to-image; take it out"),
        ({"upscaler": "4x"}, "upscaler", "upscaler '4x' is not there; there are "),
    ],
)
def test_what_would_be_ignored_is_refused(studio: Studio, fields: dict[str, object], field: str, message: str) -> None:
    request = studio.request({"prompt": "a boat", "init_image": Image.new("RGB", (64, 64)), **fields})

    with pytest.raises(InvalidRequest) as caught:
        studio.check(request)

    assert caught.value.field == field
    assert message in str(caught.value)


def test_a1111_reads_strength_and_upscaler(studio: Studio) -> None:
    (small,) = studio.generate("a boat", progress=False)
    large = studio.upscale(small, upscaler="nearest", progress=False)

    text = read_texts(large.path)[a1111.KEY]

    assert "Denoising strength: 0," in text
    assert "Image upscaler: Nearest" in text
    fields = import_request({a1111.KEY: text}, find_model=lambda name, _: name).request_fields
    assert (fields["strength"], fields["upscaler"]) == (0, "nearest")


def test_it_is_told_in_the_words_of_a1111s_extras_tab(studio: Studio) -> None:
    (small,) = studio.generate("a boat", width=64, height=64, progress=False)
    painted = studio.generate("a boat", init_image=small.path, strength=0.5, upscaler="nearest", progress=False)[0]
    cropped, stretched = (studio.upscale(small, resize_mode=mode, progress=False) for mode in ("crop", "stretch"))

    said = [read_texts(image.path)[a1111.KEY] for image in (cropped, stretched, painted)]

    whole = "Postprocess upscale to: 128x128, Postprocess crop to: 128x128, Postprocess upscaler: Lanczos"
    assert whole in said[0]
    assert "Postprocess upscaler: Lanczos" in said[1]
    assert "Postprocess upscale to" not in said[1]
    assert "Postprocess" not in said[2]
    notes = {note.field: note for note in import_request({a1111.KEY: said[0]}).notes}
    assert {notes[key].outcome for key in a1111.ENLARGED if key in notes} == {Outcome.USED}
    assert notes["Postprocess upscale to"].value == "128x128"


EXTRAS = "Postprocess upscale by: 4, Postprocess upscaler: R-ESRGAN 4x+, Postprocess upscaler 2: Lanczos"
MADE = "a boat\nSteps: 20, Sampler: Euler, Seed: 1, Size: 512x512"


@pytest.mark.parametrize(
    ("texts", "prompt"),
    [
        ({a1111.KEY: MADE, "postprocessing": EXTRAS}, "a boat"),
        ({a1111.KEY: f"{MADE}, {EXTRAS}"}, "a boat"),
        ({"postprocessing": EXTRAS, "extras": EXTRAS}, ""),
        ({a1111.KEY: "Postprocess upscale by: 4, Postprocess upscaler: R-ESRGAN 4x+"}, ""),
    ],
)
def test_what_a1111s_extras_tab_did_is_told(texts: dict[str, str], prompt: str) -> None:
    imported = import_request(texts)

    notes = {note.field: note for note in imported.notes}
    assert imported.request_fields.get("prompt", "") == prompt
    assert (notes["Postprocess upscale by"].value, notes["Postprocess upscaler"].value) == ("4", "R-ESRGAN 4x+")
    assert notes["Postprocess upscale by"].outcome is Outcome.IGNORED
    assert "then enlarge it (`studio upscale`)" in notes["Postprocess upscaler"].why


def test_the_command_prints_the_path_of_the_larger_picture(run: Run, studio: Studio) -> None:
    (small,) = studio.generate("a boat", width=64, height=64, progress=False)

    done = run("upscale", str(small.path), "--scale", "4", "--upscaler", "nearest", "--json")
    copied = run("upscale", str(small.path), "--output", str(studio.settings.home / "large.webp"))

    request = json.loads(done.out)["request"]
    assert (request["width"], request["height"], request["upscaler"], request["strength"]) == (256, 256, "nearest", 0)
    assert copied.out.strip().endswith("large.webp")
