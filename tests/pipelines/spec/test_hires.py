"""The second pass as it is asked and resolved: sizes, what it inherits, what is refused."""

from typing import Any

import pytest

from pipelines.spec.errors import InvalidRequest
from pipelines.spec.families.sdxl import SDXL
from pipelines.spec.hires import HIRES_FIELDS, Enlargement, second_pass
from pipelines.spec.model import Model
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import check_prompts, resolve
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.upscalers import UPSCALERS
from tests.pipelines.spec.conftest import make_model

ID = "a" * 64


def resolved(model: Model | None = None, hires_model: Model | None = None, **fields: Any) -> ResolvedRequest:
    (one,) = resolve(GenerationRequest.parse(fields), model or make_model(), hires_model=hires_model)
    return one


@pytest.mark.parametrize(
    ("first", "asked", "stretched", "final"),
    [
        ((512, 512), {"hires_scale": 2.0}, (1024, 1024), (1024, 1024)),
        ((512, 768), {"hires_scale": 1.3}, (664, 992), (664, 992)),
        ((512, 768), {"hires_scale": 1.0}, (512, 768), (512, 768)),
        ((512, 512), {"hires_width": 1024}, (1024, 1024), (1024, 1024)),
        ((512, 768), {"hires_width": 1000}, (1000, 1496), (1000, 1496)),
        ((512, 768), {"hires_height": 1000}, (664, 1000), (664, 1000)),
        ((512, 512), {"hires_width": 1000, "hires_height": 600}, (1000, 1000), (1000, 600)),
        ((512, 512), {"hires_width": 600, "hires_height": 1000}, (1000, 1000), (600, 1000)),
        ((768, 512), {"hires_width": 1024, "hires_height": 1024}, (1536, 1024), (1024, 1024)),
        ((512, 768), {"hires_width": 1024, "hires_height": 1536}, (1024, 1536), (1024, 1536)),
    ],
)
def test_sizes_follow_a1111(
    first: tuple[int, int], asked: dict[str, Any], stretched: tuple[int, int], final: tuple[int, int]
) -> None:
    one = resolved(width=first[0], height=first[1], **asked)

    assert one.enlargement == Enlargement(*stretched, *final)
    assert one.final_size == final
    assert one.asked().model_dump().items() >= asked.items()


def test_without_a_size_there_is_no_second_pass() -> None:
    one = resolved(width=512, height=256)

    assert {getattr(one, name) for name in HIRES_FIELDS} == {None}
    assert one.enlargement is None
    assert one.final_size == (512, 256)


def test_what_is_not_said_is_as_in_the_first_pass() -> None:
    one = resolved(prompt="a boat", hires_scale=2.0, num_inference_steps=9, guidance_scale=3.0, scheduler="lms", seed=5)

    second = second_pass(one)

    assert second.model_dump() == one.model_dump() | dict.fromkeys(HIRES_FIELDS) | {
        "width": 1024,
        "height": 1024,
        "strength": 0.7,
        "step_rule": "exact",
    }
    assert (one.hires_upscaler, one.hires_steps, one.hires_scheduler) == ("latent_bilinear", 9, "lms")


def test_what_is_said_holds_for_the_second_pass_alone() -> None:
    asked: dict[str, Any] = {
        "hires_steps": 5,
        "hires_strength": 0.4,
        "hires_scheduler": "Euler a",
        "hires_noise_schedule": "Karras",
        "hires_guidance_scale": 2.0,
        "hires_prompt": "a ship",
        "hires_negative_prompt": "rain",
    }
    one = resolved(prompt="a boat", scheduler="ddim", hires_scale=2.0, **asked)

    second = second_pass(one)

    assert (one.num_inference_steps, one.scheduler, one.prompt, one.strength) == (20, "ddim", "a boat", None)
    assert (second.num_inference_steps, second.strength, second.guidance_scale) == (5, 0.4, 2.0)
    assert (second.scheduler, second.noise_schedule, second.eta) == ("euler_a", "karras", 1.0)
    assert (second.prompt, second.negative_prompt) == ("a ship", "rain")


def test_an_eta_that_was_asked_holds_for_both_passes() -> None:
    one = resolved(scheduler="ddim", eta=0.5, hires_scale=2.0, hires_scheduler="euler_a")

    assert second_pass(one).eta == 0.5


@pytest.mark.parametrize(
    ("asked", "noise_schedule"),
    [
        ({"scheduler": "dpmpp_2m"}, "karras"),
        ({"scheduler": "dpmpp_2m", "hires_scheduler": "euler"}, "uniform"),
        ({"scheduler": "dpmpp_2m", "noise_schedule": "beta", "hires_scheduler": "euler"}, "beta"),
        ({"scheduler": "dpmpp_2m", "noise_schedule": "beta", "hires_scheduler": "ddim"}, "ddim_timesteps"),
        ({"scheduler": "ddim", "hires_scheduler": "dpmpp_2m"}, "karras"),
        ({"scheduler": "euler", "hires_noise_schedule": "simple"}, "simple"),
        ({"scheduler": "euler", "noise_schedule": "beta", "hires_noise_schedule": "Automatic"}, "beta"),
    ],
)
def test_the_noise_schedule_is_the_same_or_the_samplers_own(asked: dict[str, Any], noise_schedule: str) -> None:
    assert resolved(hires_scale=2.0, **asked).hires_noise_schedule == noise_schedule


@pytest.mark.parametrize(("key", "label"), [(key, row.label) for key, row in UPSCALERS.items()])
def test_upscalers_go_by_a1111s_names_too(key: str, label: str) -> None:
    assert resolved(hires_scale=2.0, hires_upscaler=label.upper()).hires_upscaler == key


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"hires_strength": 0.5}, "hires_strength", "hires_strength 0.5 needs a second pass: give hires_scale, or"),
        ({"hires_prompt": "x"}, "hires_prompt", "hires_prompt 'x' needs a second pass"),
        ({"hires_scale": 2.0, "init_image": ID}, "hires_scale", "hires_scale is for text-to-image; take it out"),
        ({"hires_scale": 2.0, "hires_width": 1024}, "hires_width", "both say how large; give only one of them"),
        ({"hires_width": 256}, "hires_width", "hires_width 256 makes 512×512 into 256×256, which is smaller"),
        ({"hires_width": 1024, "hires_height": 256}, "hires_width", "into 1024×256, which is smaller"),
        ({"hires_scale": 9.0}, "hires_scale", "hires_scale 9 makes 512×512 into 4608×4608, stretched to 4608×4608"),
        ({"width": 64, "hires_width": 4096}, "hires_width", "and 4096 is the most"),
        ({"width": 64, "hires_width": 4096, "hires_height": 4096}, "hires_width", "stretched to 4096×32768"),
        ({"hires_width": 1001}, "hires_width", "hires_width must be a multiple of 8, got 1001; try 1000 or 1008"),
        ({"hires_scale": 0.5}, "hires_scale", "hires_scale must be at least 1"),
        (
            {"hires_scale": 2.0, "hires_scheduler": "ddim", "hires_noise_schedule": "karras"},
            "hires_noise_schedule",
            "hires_noise_schedule karras does not exist for scheduler ddim; leave it empty",
        ),
        (
            {"hires_scale": 2.0, "hires_scheduler": "lcm", "num_inference_steps": 40, "hires_strength": 0.5},
            "hires_strength",
            "hires_strength 0.5 with 40 exact steps would divide the noise",
        ),
        (
            {"hires_scale": 2.0, "hires_scheduler": "ddim", "hires_steps": 1},
            "hires_steps",
            "hires_steps must be at least 2 for scheduler ddim, got 1",
        ),
        ({"hires_scale": 2.0, "hires_scheduler": "gits"}, "hires_scheduler", "'gits' is not known"),
    ],
)
def test_what_cannot_work_is_refused_by_name(fields: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        resolve(GenerationRequest.parse(fields), make_model(), input_size=(512, 512))

    assert caught.value.field == field
    assert message in str(caught.value)


def test_another_model_paints_the_second_pass() -> None:
    fields = {"prompt": "a boat", "hires_scale": 2.0}

    assert resolved(hires_model=make_model(name="other"), **fields).hires_model == "other"
    assert resolved(hires_model=make_model(), **fields).hires_model is None
    assert second_pass(resolved(hires_model=make_model(name="other"), **fields)).model == "other"


@pytest.mark.parametrize(
    ("changes", "upscaler", "field"),
    [
        ({"unet_in_channels": 9}, "lanczos", "hires_model"),
        ({"family": SDXL}, "Latent", "hires_upscaler"),
        ({"text_encoder_layers": 1}, "lanczos", "clip_skip"),
    ],
)
def test_a_model_that_cannot_go_on_is_refused(changes: dict[str, Any], upscaler: str, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        resolved(hires_model=make_model(name="other", **changes), hires_scale=2.0, hires_upscaler=upscaler, clip_skip=2)

    assert caught.value.field == field


def test_a_model_of_another_family_goes_on_by_way_of_the_picture() -> None:
    one = resolved(hires_model=make_model(name="xl", family=SDXL), hires_scale=2.0, hires_upscaler="lanczos")

    assert one.hires_model == "xl"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": "[a:b:1.5]", "hires_scheduler": "dpm_adaptive"}, "prompt"),
        ({"hires_prompt": "[a:b:0.5]", "hires_scheduler": "dpm_adaptive"}, "hires_prompt"),
    ],
)
def test_prompts_of_the_second_pass_are_checked(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_prompts(resolved(hires_scale=2.0, **fields))

    assert caught.value.field == field
