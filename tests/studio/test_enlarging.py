"""A second pass through the studio: a finished picture again and larger, upscale models by name, the record."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from pipelines.spec.errors import InvalidRequest, NotFound
from pipelines.spec.request import GenerationRequest
from studio import Settings, Studio
from studio.metadata import a1111_keys, import_request, read_texts
from studio.store import upscaler_finder
from tests.studio.conftest import write_model


def test_a_picture_becomes_twice_as_large_and_the_request_stays(studio: Studio) -> None:
    (small,) = studio.generate("a {red|blue} boat", seed=5, width=64, height=128, progress=False)

    large = studio.hires(small, hires_strength=0.4, progress=False)

    assert large.image.size == large.request.final_size == (128, 256)
    changed = {name for name, value in large.request if value != getattr(small.request, name)}
    assert changed == {
        *("hires_scale", "hires_upscaler", "hires_steps", "hires_strength"),
        *("hires_scheduler", "hires_noise_schedule", "hires_guidance_scale"),
    }
    assert studio.verify(large.path, progress=False).is_exact


def test_a_second_time_a_new_size_replaces_the_old_one_and_the_rest_stays(studio: Studio) -> None:
    (small,) = studio.generate("a boat", hires_scale=2.0, hires_steps=3, progress=False)

    other = studio.hires(small.path, hires_width=192, progress=False)
    same = studio.hires(small.path, hires_prompt="a ship", progress=False)

    assert (other.request.hires_scale, other.request.hires_width, other.request.hires_steps) == (None, 192, 3)
    assert (same.request.hires_scale, same.request.hires_prompt) == (2.0, "a ship")


def test_only_a_picture_of_ours_and_only_text_to_image(studio: Studio, tmp_path: Path) -> None:
    (small,) = studio.generate("a boat", progress=False)
    (repainted,) = studio.generate("a boat", init_image=small.path, progress=False)

    with pytest.raises(NotFound):
        studio.hires(tmp_path / "none.png")
    with pytest.raises(InvalidRequest, match="hires_scale is for text-to-image"):
        studio.hires(repainted, progress=False)


# Upscale models


@pytest.mark.parametrize(
    ("file", "asked", "message"),
    [
        (None, "4x-UltraSharp", "hires_upscaler '4x-UltraSharp' is not there; there are latent_bilinear, "),
        ("4x.pth", "4x", "4x.pth is no safetensors file, and others can run code"),
        ("4x.safetensors", "../upscalers/4x", "is not there"),
    ],
)
def test_a_model_file_that_cannot_be_used_is_refused_by_name(
    studio: Studio, file: str | None, asked: str, message: str
) -> None:
    folder = studio.settings.upscalers_dir
    folder.mkdir()
    if file is not None:
        (folder / file).write_bytes(b"")

    with pytest.raises(InvalidRequest) as caught:
        studio.check(GenerationRequest(prompt="a boat", hires_scale=2.0, hires_upscaler=asked))

    assert caught.value.field == "hires_upscaler"
    assert message in str(caught.value)


def test_a_model_file_is_found_by_its_name_and_needs_spandrel(studio: Studio) -> None:
    studio.settings.upscalers_dir.mkdir()
    (studio.settings.upscalers_dir / "4x-Test.safetensors").write_bytes(b"")
    request = GenerationRequest(prompt="a boat", hires_scale=2.0, hires_upscaler="4x-Test")

    assert studio.upscalers()[-1] == "4x-Test"
    if find_spec("spandrel") is None:
        with pytest.raises(
            InvalidRequest, match=r"needs spandrel: .*pip install -c constraints.txt -e '\.\[upscale\]'"
        ):
            studio.check(request)
    else:
        studio.check(request)


def test_other_programs_names_find_a_model_file_that_is_called_almost_so(tmp_path: Path) -> None:
    (tmp_path / "4x_UltraSharp.safetensors").write_bytes(b"")
    find = upscaler_finder(tmp_path)

    can_run = find_spec("spandrel") is not None
    assert find("4x-ultrasharp.pth") == ("4x_UltraSharp" if can_run else None)
    assert find("4x-AnimeSharp") is None


def test_a_model_of_the_second_pass_must_be_there(studio: Studio, settings: Settings) -> None:
    write_model(settings.home / "models" / "other")

    (made,) = studio.generate("a boat", hires_scale=2.0, hires_model="other", progress=False)

    assert made.request.hires_model == "other"
    with pytest.raises(InvalidRequest, match="'gone' is not installed") as caught:
        studio.check(GenerationRequest(prompt="a boat", hires_scale=2.0, hires_model="gone"))
    assert caught.value.field == "hires_model"


# What the picture says


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"hires_scale": 2.0}, "Denoising strength: 0.7, Hires upscale: 2, Hires upscaler: Latent"),
        ({"hires_width": 256, "hires_upscaler": "nearest"}, "Denoising strength: 0.7, Hires resize: 256x0"),
        (
            {
                "hires_scale": 1.5,
                "hires_upscaler": "lanczos",
                "hires_steps": 3,
                "hires_strength": 0.4,
                "hires_scheduler": "euler_a",
                "hires_noise_schedule": "beta",
                "hires_guidance_scale": 2.5,
                "hires_prompt": "a ship, sharp",
                "hires_negative_prompt": "rain",
                "hires_model": "other",
            },
            "Hires upscale: 1.5, Hires steps: 3, Hires upscaler: Lanczos, Hires sampler: Euler a, "
            'Hires schedule type: Beta, Hires CFG Scale: 2.5, Hires prompt: "a ship, sharp", '
            "Hires negative prompt: rain, Hires checkpoint: other",
        ),
    ],
)
def test_a1111_reads_what_differs_from_the_first_pass(
    studio: Studio, settings: Settings, fields: dict[str, Any], said: str
) -> None:
    write_model(settings.home / "models" / "other")
    (made,) = studio.generate("a boat", progress=False, **fields)
    text = read_texts(made.path)[a1111_keys.KEY]

    imported = import_request({a1111_keys.KEY: text}, find_model=lambda name, _: name)

    pairs = text.rpartition("\n")[2]
    assert all(part in pairs for part in said.split(", Hires")[:1])
    assert said.partition("Hires")[2] in pairs
    (again,) = studio.generate(imported.request_fields, progress=False)
    assert again.request == made.request


@pytest.mark.parametrize(
    ("pairs", "noise_schedule"),
    [
        ("Sampler: DPM++ 2M, Schedule type: Automatic, Hires sampler: Euler", "uniform"),
        ("Sampler: DPM++ 2M, Schedule type: Karras, Hires sampler: Euler", None),
        (
            "Sampler: DPM++ 2M, Schedule type: Karras, Hires sampler: DDIM, Hires schedule type: Automatic",
            "ddim_timesteps",
        ),
        ("Sampler: DPM++ 2M, Schedule type: Automatic", None),
    ],
)
def test_the_same_schedule_means_what_it_means_in_a1111(pairs: str, noise_schedule: str | None) -> None:
    rest = "Seed: 1, Size: 512x512, Hires upscale: 2, Hires upscaler: Latent, Version: v1.10.1"
    text = f"a boat\nSteps: 20, {pairs}, {rest}"

    fields = import_request({a1111_keys.KEY: text}).request_fields

    assert fields.get("hires_noise_schedule") == noise_schedule
    assert fields["hires_upscaler"] == "latent_bilinear"


def test_a_picture_of_ours_can_be_enlarged_in_each_of_its_formats(studio: Studio) -> None:
    for output_format in ("png", "jpeg", "webp", "avif"):
        (small,) = studio.generate(
            "a boat", width=64, height=64, num_inference_steps=1, output_format=output_format, progress=False
        )

        large = studio.upscale(small, scale=2, progress=False)

        assert large.image.size == (128, 128)
