"""Asked -> what will run: defaults, sizes, schedules, seeds, and what is refused before anything loads."""

import re
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipelines.spec.errors import InvalidRequest
from pipelines.spec.families import FAMILIES
from pipelines.spec.families.sd1 import SD1
from pipelines.spec.model import Model
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import check_prompts, resolve
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.schedulers import NOISE_SCHEDULES, RHO, SCHEDULERS, SPANNED
from pipelines.spec.templates import TEMPLATES
from pipelines.spec.values import MAX_SEED, MAX_SIDE
from tests.pipelines.spec.conftest import make_model
from tests.pipelines.spec.test_request import REQUESTS

ID, OTHER_ID = "a" * 64, "b" * 64


@pytest.mark.parametrize(("field", "of_family"), SD1.defaults.items())
def test_a_default_comes_from_the_request_then_the_model_then_the_family(field: str, of_family: Any) -> None:
    of_model, asked = OTHER_VALUES[field]
    images = {"init_image": ID} if field == "strength" else {}

    def resolved(model: Model, **fields: Any) -> Any:
        return getattr(resolve(GenerationRequest(**images, **fields), model, input_size=(512, 512))[0], field)

    assert resolved(make_model()) == of_family
    assert resolved(make_model(defaults={field: of_model})) == of_model
    assert resolved(make_model(defaults={field: of_model}), **{field: asked}) == asked


OTHER_VALUES: dict[str, tuple[Any, Any]] = {
    "negative_prompt": ("blurry", ""),
    "num_inference_steps": (4, 9),
    "guidance_scale": (3.0, 1.0),
    "strength": (0.5, 1.0),
    "scheduler": ("euler", "unipc"),
    "clip_skip": (2, 3),
}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_has_a_default_for_every_field_that_may_be_left_empty(family: Any) -> None:
    by_the_scheduler, not_used = {"noise_schedule", "eta", "rho"}, {"variation_seed", "s_tmax", "upscaler"}
    not_used |= set(TEMPLATES.values())
    by_the_model = {"model", "init_image", "mask_image", "width", "height", "seed", "sigma_min", "sigma_max"}
    may_be_empty = {
        name
        for name, field in GenerationRequest.model_fields.items()
        if field.default is None and not name.startswith(("seed_resize", "hires_", "tile_"))
    }
    assert set(family.defaults) == may_be_empty - by_the_scheduler - by_the_model - not_used
    assert GenerationRequest.parse(family.defaults).model_dump(exclude_unset=True) == dict(family.defaults)
    (resolved,) = resolve(GenerationRequest(prompt="a boat"), make_model(family=family))
    assert resolved.noise_schedule in SCHEDULERS[resolved.scheduler].noise_schedules


def test_image_i_has_seed_plus_i(model: Model) -> None:
    resolved = resolve(GenerationRequest(prompt="a boat", seed=7, num_images=4), model)
    assert [one.seed for one in resolved] == [7, 8, 9, 10]
    assert len({one.model_copy(update={"seed": 0}).model_dump_json() for one in resolved}) == 1


def test_without_a_seed_all_images_follow_one_drawn_seed(model: Model) -> None:
    first, second = resolve(GenerationRequest(num_images=2), model)
    assert second.seed == first.seed + 1


def test_every_image_of_the_highest_seed_can_be_asked_again(model: Model) -> None:
    try:
        resolved = resolve(GenerationRequest(seed=MAX_SEED, num_images=100), model)
    except InvalidRequest as error:
        assert error.field == "seed"  # noqa: PT017 - either answer is right, a picture that cannot be repeated is not
    else:
        assert [one.asked().seed for one in resolved] == [one.seed for one in resolved]


@pytest.mark.parametrize(
    ("asked", "input_size", "size"),
    [
        ({}, None, (512, 512)),
        ({"width": 768}, None, (768, 512)),
        ({"height": 64}, None, (512, 64)),
        ({}, (512, 512), (512, 512)),
        ({}, (1024, 1024), (512, 512)),
        ({}, (1920, 1080), (680, 384)),
        ({}, (1080, 1920), (384, 680)),
        ({}, (100, 100), (512, 512)),
        ({"width": 768}, (1920, 1080), (768, 512)),
        ({"width": 256, "height": 320}, (1920, 1080), (256, 320)),
    ],
)
def test_size_is_as_asked_else_the_inputs_shape_at_the_models_area(
    asked: dict[str, int], input_size: tuple[int, int] | None, size: tuple[int, int], model: Model
) -> None:
    images = {} if input_size is None else {"init_image": ID}
    (resolved,) = resolve(GenerationRequest(**images, **asked), model, input_size=input_size)
    assert (resolved.width, resolved.height) == size


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ({"outpaint_left": 64}, (264, 104)),
        ({"outpaint_left": 60, "outpaint_right": 1, "outpaint_top": 30, "outpaint_bottom": 30}, (264, 160)),
        ({"outpaint_top": 100, "width": 512, "height": 512}, (512, 512)),
        ({"outpaint_top": 100, "inpaint_area": "only_masked"}, (512, 512)),
    ],
)
def test_a_picture_that_grows_is_painted_at_its_own_scale(
    asked: dict[str, Any], size: tuple[int, int], model: Model
) -> None:
    (resolved,) = resolve(GenerationRequest(init_image=ID, **asked), model, input_size=(200, 100))

    assert (resolved.width, resolved.height) == size
    assert resolved.strength == 1.0, "what is new has nothing to keep"
    assert resolve(resolved.asked(), model, input_size=(200, 100)) == (resolved,)


def test_a_picture_that_grows_too_large_is_refused_with_a_way_out(model: Model) -> None:
    with pytest.raises(InvalidRequest, match="width and height must be given for 4500×3000 pixels"):
        resolve(GenerationRequest(init_image=ID, outpaint_left=500), model, input_size=(4000, 3000))


@given(width=st.integers(8, 16384), height=st.integers(8, 16384))
def test_an_input_of_any_shape_gives_a_size_that_could_be_asked_or_is_refused(width: int, height: int) -> None:
    try:
        (resolved,) = resolve(GenerationRequest(init_image=ID), make_model(), input_size=(width, height))
    except InvalidRequest as error:
        assert max(width, height) / min(width, height) > 60
        assert f"{width}×{height}" in str(error)  # noqa: PT017
        assert error.field in {"width", "height"}  # noqa: PT017
    else:
        assert resolved.asked().width == resolved.width <= MAX_SIDE
        assert resolved.asked().height == resolved.height <= MAX_SIDE


@pytest.mark.parametrize(
    ("fields", "changes", "field", "message"),
    [
        ({"mask_image": ID}, {}, "mask_image", "mask_image needs init_image: give the picture it masks"),
        ({"strength": 0.5}, {}, "strength", "strength 0.5 needs init_image: text-to-image has no input to keep"),
        ({}, {"unet_in_channels": 9}, "model", "model toy is made for inpaint; give init_image and mask_image"),
        (
            {"scheduler": "ddim", "noise_schedule": "karras"},
            {},
            "noise_schedule",
            "noise_schedule karras does not exist for scheduler ddim; leave it empty",
        ),
        (
            {"scheduler": "unipc", "noise_schedule": "ddim_timesteps"},
            {},
            "noise_schedule",
            "noise_schedule ddim_timesteps does not exist for scheduler unipc; leave it empty",
        ),
        (
            {"init_image": ID, "strength": 0.01, "step_rule": "exact"},
            {},
            "strength",
            "strength 0.01 with 20 exact steps would divide the noise into more than 1000 levels; "
            "try strength 0.02 or num_inference_steps 10",
        ),
        ({"clip_skip": 5}, {"text_encoder_layers": 4}, "clip_skip", "clip_skip must be at most 4 for model toy, got 5"),
        (
            {"variation_seed": 5},
            {},
            "variation_seed",
            "variation_seed 5 needs variation_strength above 0, the share of it that is blended in",
        ),
        (
            {"seed_resize_width": 512},
            {},
            "seed_resize_height",
            "seed_resize_height is missing: the size of a seed has a width and a height",
        ),
        (
            {"init_image": ID, "mask_image": ID, "resize_mode": "latent"},
            {},
            "resize_mode",
            "resize_mode latent does not go with mask_image; choose stretch, crop or fill",
        ),
        (
            {"init_image": ID, "outpaint_top": 8, "resize_mode": "latent"},
            {},
            "resize_mode",
            "resize_mode latent does not go with outpaint; choose stretch, crop or fill",
        ),
        (
            {"outpaint_right": 64, "outpaint_bottom": 8},
            {},
            "outpaint_right",
            "outpaint_right 64 needs init_image: give the picture that grows",
        ),
        (
            {"init_image": ID, "mask_image": ID, "mask_mode": "differential", "scheduler": "dpm_adaptive"},
            {},
            "mask_mode",
            "mask_mode differential counts steps, and scheduler dpm_adaptive has no fixed number of them; choose "
            "another scheduler",
        ),
        (
            {"scheduler": "plms", "num_inference_steps": 1},
            {},
            "num_inference_steps",
            "num_inference_steps must be at least 2 for scheduler plms, got 1; take another number or another "
            "scheduler",
        ),
        (
            {"scheduler": "lcm", "num_inference_steps": 51},
            {},
            "num_inference_steps",
            "num_inference_steps must be at most 50 for scheduler lcm, got 51; take another number or another "
            "scheduler",
        ),
    ],
)
def test_what_cannot_work_with_this_model_is_refused(
    fields: dict[str, Any], changes: dict[str, Any], field: str, message: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        resolve(GenerationRequest(**fields), make_model(**changes), input_size=(512, 512))
    assert caught.value.field == field
    assert str(caught.value) == message


@given(
    strength=st.floats(0, 1, exclude_min=True), steps=st.integers(1, 200), scheduler=st.sampled_from(list(SCHEDULERS))
)
def test_the_way_out_of_too_many_exact_steps_leads_out(strength: float, steps: int, scheduler: str) -> None:
    asked = GenerationRequest(
        init_image=ID, strength=strength, num_inference_steps=steps, step_rule="exact", scheduler=scheduler
    )
    try:
        resolve(asked, make_model(), input_size=(512, 512))
    except InvalidRequest as error:
        if error.field != "strength":
            return
        proposals = re.findall(r"(strength|num_inference_steps) ([\d.]+)(?: or|$)", str(error).partition("try ")[2])
        assert proposals[0][0] == "strength"
        for field, value in proposals:
            better = {**asked.model_dump(), field: float(value) if field == "strength" else int(value)}
            try:
                resolve(GenerationRequest.parse(better), make_model(), input_size=(512, 512))
            except InvalidRequest as other:
                assert other.field == "num_inference_steps"  # noqa: PT017 - too few or too many for the scheduler itself


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"prompt": "a [boat:car:0.5]", "scheduler": "dpm_adaptive"},
            "prompt changes with the steps, and scheduler dpm_adaptive has no fixed number of them; choose another",
        ),
    ],
)
def test_what_a_prompt_cannot_get_is_refused(fields: dict[str, Any], message: str, model: Model) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(message)):
        check_prompts(resolve(GenerationRequest(**fields), model)[0])


@pytest.mark.parametrize("prompt", ["a < b", "a [boat:car:0.5]", "a (boat:1.2) [x]"])
def test_other_signs_in_a_prompt_are_fine(prompt: str, model: Model) -> None:
    check_prompts(resolve(GenerationRequest(prompt=prompt, negative_prompt=prompt), model)[0])


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_chosen_scheduler_always_has_a_noise_schedule(scheduler: str, model: Model) -> None:
    own = SCHEDULERS[scheduler]
    assert resolve(GenerationRequest(scheduler=scheduler), model)[0].noise_schedule == own.noise_schedule
    preferring = make_model(defaults={"noise_schedule": "beta"})
    (resolved,) = resolve(GenerationRequest(scheduler=scheduler), preferring)
    assert resolved.noise_schedule == (own.noise_schedule if own.ignores_schedule else "beta")


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_eta_is_the_schedulers_own_unless_asked(scheduler: str, model: Model) -> None:
    assert resolve(GenerationRequest(scheduler=scheduler), model)[0].eta == SCHEDULERS[scheduler].eta
    own = resolve(GenerationRequest(scheduler=scheduler, eta=SCHEDULERS[scheduler].eta), model)[0]
    assert own == resolve(own.asked(), model)[0]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(("field", "value"), [("eta", 0.6), ("s_churn", 2.0), ("s_tmin", 0.5), ("s_noise", 1.05)])
def test_noise_settings_are_refused_where_they_would_be_ignored(
    field: str, value: float, scheduler: str, model: Model
) -> None:
    asked = GenerationRequest(scheduler=scheduler, **{field: value})

    if field in SCHEDULERS[scheduler].takes:
        assert getattr(resolve(asked, model)[0], field) == value
        return
    with pytest.raises(InvalidRequest, match=f"{field} .* means nothing to scheduler {scheduler}; .*choose") as refusal:
        resolve(asked, model)
    assert refusal.value.field == field


def test_what_the_second_pass_heeds_is_not_refused(model: Model) -> None:
    asked = GenerationRequest(scheduler="euler", hires_scale=2.0, hires_scheduler="euler_a", eta=0.5, s_churn=1.0)

    assert resolve(asked, model)[0].eta == 0.5


def test_with_a_variation_the_seed_stays_and_the_variation_goes_on(model: Model) -> None:
    request = GenerationRequest(seed=7, variation_seed=20, variation_strength=0.1, num_images=3)
    resolved = resolve(request, model)
    assert [(one.seed, one.variation_seed) for one in resolved] == [(7, 20), (7, 21), (7, 22)]
    drawn = resolve(GenerationRequest(seed=7, variation_strength=0.1), model)[0]
    assert drawn.variation_seed is not None


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("noise_schedule", NOISE_SCHEDULES)
def test_each_combination_runs_as_asked_or_is_refused_by_name(
    scheduler: str, noise_schedule: str, model: Model
) -> None:
    request = GenerationRequest(scheduler=scheduler, noise_schedule=noise_schedule)
    if noise_schedule in SCHEDULERS[scheduler].noise_schedules:
        assert resolve(request, model)[0].noise_schedule == noise_schedule
    else:
        with pytest.raises(InvalidRequest, match=f"{noise_schedule} does not exist for scheduler {scheduler}"):
            resolve(request, model)


@given(REQUESTS)
def test_a_resolved_request_asks_for_itself_and_survives_json(request: GenerationRequest) -> None:
    assume(request.mask_image is None or request.init_image is not None)
    try:
        resolved = resolve(request, make_model(), input_size=(640, 480) if request.init_image else None)
    except InvalidRequest:
        assume(False)
    assert len(resolved) == request.num_images
    for one in (resolved[0], resolved[-1]):
        assert resolve(one.asked(), make_model(), input_size=(640, 480)) == (one,)
        assert ResolvedRequest.model_validate_json(one.model_dump_json()) == one


def test_a_record_with_values_that_cannot_be_asked_is_refused_by_name(model: Model) -> None:
    (resolved,) = resolve(GenerationRequest(seed=1), model)
    foreign = resolved.model_copy(update={"num_inference_steps": 10**6})
    with pytest.raises(InvalidRequest, match="num_inference_steps must be at least 1 and at most 200, got 1000000"):
        foreign.asked()


@pytest.mark.parametrize("noise_schedule", SCHEDULERS["euler"].noise_schedules)
@pytest.mark.parametrize("field", ["sigma_min", "sigma_max", "rho"])
def test_noise_levels_are_refused_where_they_would_be_ignored(field: str, noise_schedule: str) -> None:
    asked = GenerationRequest(scheduler="euler", noise_schedule=noise_schedule, **{field: 2.0})
    takers = frozenset(RHO) if field == "rho" else SPANNED

    if noise_schedule in takers:
        assert getattr(resolve(asked, make_model())[0], field) == 2.0
        return
    with pytest.raises(InvalidRequest, match=f"{field} 2 means nothing to noise_schedule .*choose one of") as refusal:
        resolve(asked, make_model())
    assert refusal.value.field == field


def test_the_last_noise_level_is_below_the_first() -> None:
    with pytest.raises(InvalidRequest, match="sigma_min must be below sigma_max, got 2 and 1"):
        resolve(GenerationRequest(noise_schedule="karras", sigma_min=2.0, sigma_max=1.0), make_model())
