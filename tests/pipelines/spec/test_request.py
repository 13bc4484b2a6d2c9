"""What can be asked: bounds, messages, and that a request survives any journey as JSON."""

import json
from typing import Any

import pytest
from hypothesis import Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipelines.spec.errors import InvalidRequest
from pipelines.spec.loras import LoraSpec
from pipelines.spec.request import GenerationRequest, bounds, field_names
from pipelines.spec.resolve import resolve
from pipelines.spec.schedulers import NOISE_SCHEDULES, SCHEDULERS
from pipelines.spec.upscalers import PICTURE_UPSCALERS, UPSCALERS
from pipelines.spec.values import MAX_IMAGES, MAX_PROMPT_CHARACTERS, MAX_SEED, OTHER_NAMES, RANDOM_SEEDS, Task
from tests.pipelines.spec.conftest import make_model

INPUT_ID = "0123456789abcdef" * 4

REFUSED: list[tuple[str, Any, str]] = [
    ("width", 0, "width must be at least 64 and at most 4096, got 0"),
    ("width", 63, "width must be a multiple of 8, got 63; try 64"),
    ("height", 65, "height must be a multiple of 8, got 65; try 64 or 72"),
    ("height", 4097, "height must be a multiple of 8, got 4097; try 4096"),
    ("width", 4104, "width must be at least 64 and at most 4096, got 4104"),
    ("width", -512, "width must be at least 64 and at most 4096, got -512"),
    ("width", 512.5, "width must be a whole number from 64 to 4096, got 512.5"),
    ("width", "512", "width must be a whole number from 64 to 4096, got '512'"),
    ("width", True, "width must be a whole number from 64 to 4096, got True"),
    ("num_inference_steps", 0, "num_inference_steps must be at least 1 and at most 200, got 0"),
    ("num_inference_steps", -1, "num_inference_steps must be at least 1 and at most 200, got -1"),
    ("num_inference_steps", 201, "num_inference_steps must be at least 1 and at most 200, got 201"),
    ("guidance_scale", float("nan"), "guidance_scale must be a finite number, got nan"),
    ("guidance_scale", float("inf"), "guidance_scale must be a finite number, got inf"),
    ("guidance_scale", 0.5, "guidance_scale must be at least 1 and at most 50, got 0.5"),
    ("strength", -0.1, "strength must be at least 0 and at most 1, got -0.1"),
    ("strength", 1.01, "strength must be at least 0 and at most 1, got 1.01"),
    ("strength", float("-inf"), "strength must be a finite number, got -inf"),
    ("seed", 2**64, f"seed must be at least 0 and at most {MAX_SEED}, got {2**64}"),
    ("seed", -2, f"seed must be at least 0 and at most {MAX_SEED}, got -2"),
    ("seed", 10**5000, f"seed must be at least 0 and at most {MAX_SEED}, got a number of 16610 bits"),
    ("width", 10**5000 + 1, "width must be a multiple of 8, got a number of 16610 bits; try 4096"),
    ("num_images", 0, f"num_images must be at least 1 and at most {MAX_IMAGES}, got 0"),
    ("num_images", 101, f"num_images must be at least 1 and at most {MAX_IMAGES}, got 101"),
    ("num_images", None, "num_images must be a whole number from 1 to 100, got None"),
    ("prompt", "x" * (MAX_PROMPT_CHARACTERS + 1), "prompt must have at most 8000 characters, got 'xxx"),
    ("prompt", "half \ud83d", r"prompt holds half of a surrogate pair, got 'half \ud83d'; remove it"),
    ("model", "\udcff", "model holds half of a surrogate pair"),
    ("negative_prompt", "a\0b", "negative_prompt holds a NUL character at position 1; remove it"),
    ("prompt", 5, "prompt must be a text, got 5"),
    ("prompt", None, "prompt must be a text, got None"),
    ("model", "", "model must not be empty, got ''"),
    ("scheduler", "magic", "scheduler 'magic' is not known; choose one of euler, euler_a,"),
    ("scheduler", "dpm++ 2n", "scheduler 'dpm++ 2n' is not known; did you mean dpmpp_2m"),
    (
        "scheduler",
        "eulr",
        "scheduler 'eulr' is not known; did you mean euler or euler_a? There are euler, euler_a, heun,",
    ),
    (
        "noise_schedule",
        "kerras",
        "noise_schedule 'kerras' is not known; did you mean karras? There are uniform, karras,",
    ),
    ("noise_schedule", "", "noise_schedule '' is not known; choose one of uniform, karras,"),
    ("guidance_scale", "7,5", "guidance_scale must be a number from 1 to 50, got '7,5'"),
    ("sigma_min", "0", "sigma_min must be a number above 0 to 10000, got '0'"),
    ("loras", "ink", "loras must be a list, got 'ink'; give a list: [\"ink\"]"),
    ("loras", [5], "loras[0] must be a text such as ink:0.8, or its parts by name, got 5"),
    ("loras", [{"weight": 1.0}], "loras[0].name is missing"),
    ("loras", [{"name": "x", "colour": 1}], "loras[0].colour is unknown, got 1; leave it out"),
    ("styles", ["\n"], "styles[0]: string should match pattern"),
    ("styles", "Night", "styles must be a list, got 'Night'; give a list: [\"Night\"]"),
    ("invert_mask", "yes", "invert_mask must be true or false, got 'yes'"),
    ("output_format", "gif", "output_format must be 'png', 'jpeg', 'webp' or 'avif', got 'gif'"),
    ("init_image", "../../etc/passwd", "init_image must be the id of a stored input (64 hexadecimal digits), got"),
    ("init_image", INPUT_ID.upper(), "init_image must be the id of a stored input (64 hexadecimal digits), got"),
    ("mask_image", INPUT_ID + "\n", "mask_image must be the id of a stored input (64 hexadecimal digits), got"),
]


@pytest.mark.parametrize(("field", "value", "message"), REFUSED, ids=[f"{r[0]}-{i}" for i, r in enumerate(REFUSED)])
def test_a_bad_value_is_refused_with_field_value_and_way_out(field: str, value: object, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        GenerationRequest.parse({field: value})
    assert caught.value.field == field
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 300
    str(caught.value).encode()


def test_an_unknown_field_is_refused_with_the_list_of_fields() -> None:
    with pytest.raises(InvalidRequest, match="colour is not a field of a request; the fields are prompt, "):
        GenerationRequest.parse({"prompt": "a boat", "colour": "red"})


@pytest.mark.parametrize(("foreign", "name"), OTHER_NAMES.items())
def test_a_field_by_the_name_other_programs_use_is_told_its_name_here(foreign: str, name: str) -> None:
    assert foreign not in GenerationRequest.model_fields
    assert set(name.split(" and ")) <= set(GenerationRequest.model_fields)
    with pytest.raises(InvalidRequest, match=f"^{foreign} is not a field of a request; say {name}$"):
        GenerationRequest.parse({"prompt": "a boat", foreign: 7})


@pytest.mark.parametrize("field", ["width", "height"])
@given(value=st.integers(64, 4096))
def test_every_size_that_a_message_proposes_is_accepted(field: str, value: int) -> None:
    try:
        GenerationRequest.parse({field: value})
    except InvalidRequest as error:
        proposals = [int(word) for word in str(error).rpartition("; try ")[2].split(" or ")]
        assert all(getattr(GenerationRequest.parse({field: side}), field) == side for side in proposals)
        assert any(abs(side - value) < 8 for side in proposals)
    else:
        assert value % 8 == 0


@pytest.mark.parametrize("field", [name for name in field_names() if "minimum" in bounds(name)])
def test_both_bounds_themselves_are_accepted(field: str) -> None:
    for value in (bounds(field)["minimum"], bounds(field)["maximum"]):
        assert getattr(GenerationRequest.parse({field: value}), field) == value


@pytest.mark.parametrize("field", list(field_names()))
def test_every_field_is_described_in_a_sentence(field: str) -> None:
    assert bounds(field)["description"].endswith(".")


SIDES_TO_GROW = ("left", "top", "right", "bottom")


@pytest.mark.parametrize(
    ("images", "task"),
    [
        ({}, Task.TEXT_TO_IMAGE),
        ({"init_image": INPUT_ID}, Task.IMAGE_TO_IMAGE),
        ({"init_image": INPUT_ID, "mask_image": INPUT_ID}, Task.INPAINT),
        *(({"init_image": INPUT_ID, f"outpaint_{side}": 8}, Task.INPAINT) for side in SIDES_TO_GROW),
    ],
)
def test_the_task_follows_from_the_images(images: dict[str, Any], task: Task) -> None:
    assert GenerationRequest.parse(images).task is task


@pytest.mark.parametrize(("name", "row"), SCHEDULERS.items())
def test_a_scheduler_is_found_by_its_name_and_its_a1111_label(name: str, row: Any) -> None:
    for spelling in (name, row.label, row.label.upper(), f" {name} "):
        assert GenerationRequest(scheduler=spelling).scheduler == name


@pytest.mark.parametrize(("name", "label"), NOISE_SCHEDULES.items())
def test_a_noise_schedule_is_found_by_its_name_and_its_a1111_label(name: str, label: str) -> None:
    for spelling in (name, f" {name} ", label, label.upper()):
        found = GenerationRequest(noise_schedule=spelling).noise_schedule
        assert found == (None if spelling.lower() == "automatic" else name)


def test_the_old_name_of_the_automatic_schedule_is_understood() -> None:
    assert GenerationRequest(noise_schedule="default").noise_schedule is None


def test_a_request_without_a_seed_gets_one_that_other_programs_can_type() -> None:
    request = GenerationRequest(prompt="a boat")
    seeds = {request.with_seeds().seed for _ in range(20)}
    assert len(seeds) > 1
    assert all(seed is not None and 0 <= seed < RANDOM_SEEDS for seed in seeds)
    assert GenerationRequest(seed=0).with_seeds().seed == 0
    assert GenerationRequest.parse({"seed": -1, "variation_seed": -1}) == GenerationRequest(), "A1111's random"


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        GenerationRequest(prompt="a boat").prompt = "a ship"


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200) | st.sampled_from(
    ["👩\u200d🚀 über die Brücke", "שלום\u202eabc", "line\nline\r\nline\ttab", '"quoted", key: value', "\ufeff\u2028"]
)


def shares(low: float, high: float) -> st.SearchStrategy[float]:
    """Return numbers that somebody types."""
    return st.integers(round(low * 1e5), round(high * 1e5)).map(lambda number: number / 1e5)


MODEL_FILES = ["4x-UltraSharp", "ü, larger"]
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "styles": st.lists(st.sampled_from(["Ink", "Soft, warm", "ü"]), unique=True).map(tuple),
    "loras": st.lists(
        st.builds(
            LoraSpec,
            name=st.sampled_from(["ink", "oil paint", "ü_1.0"]),
            weight=shares(-10, 10),
            text_encoder_weight=shares(-10, 10),
            block_weights=st.dictionaries(st.sampled_from(["mid_block", "up_blocks.1"]), shares(-10, 10)),
            start=shares(0, 0.5),
            end=shares(0.50001, 1),
        ),
        max_size=3,
        unique_by=lambda lora: lora.name,
    ).map(tuple),
    "model": TEXTS.filter(bool),
    "hires_model": st.sampled_from(["other", "ü, [0123456789]"]),
    "init_image": st.just(INPUT_ID),
    "mask_image": st.just(INPUT_ID[::-1]),
    "width": st.integers(8, 128).map(lambda n: n * 8),
    "height": st.integers(8, 128).map(lambda n: n * 8),
    "hires_scale": st.floats(1, 4),
    "scheduler": st.sampled_from(sorted(SCHEDULERS)),
    "noise_schedule": st.sampled_from(sorted(NOISE_SCHEDULES)),
    "hires_scheduler": st.sampled_from(sorted(SCHEDULERS)),
    "hires_noise_schedule": st.sampled_from(sorted(NOISE_SCHEDULES)),
    "upscaler": st.sampled_from([*PICTURE_UPSCALERS, *MODEL_FILES]),
    "hires_upscaler": st.sampled_from([*UPSCALERS, *MODEL_FILES, "Latent (antialiased)"]),
}
"""Where the rules of a field do not tell which values make sense."""


def values_of(field: str) -> st.SearchStrategy[Any]:
    """Return what a field may be: its default, or anything that its rules allow."""
    rules = bounds(field)
    step, above = rules.get("multipleOf", 1), rules.get("exclusiveMinimum")
    low, high = rules.get("minimum", above), rules.get("maximum")
    values: st.SearchStrategy[Any]
    if field in VALUES:
        values = VALUES[field]
    elif "enum" in rules:
        values = st.sampled_from(rules["enum"])
    elif rules["type"] == "boolean":
        values = st.booleans()
    elif rules["type"] == "integer":
        values = st.integers(low // step, high // step).map(lambda number: number * step)
    elif rules["type"] == "number":
        values = st.floats(low, high, exclude_min=above is not None)
    else:
        values = TEXTS
    return st.just(GenerationRequest.model_fields[field].get_default(call_default_factory=True)) | values


def possible(**fields: Any) -> GenerationRequest:
    """Take back, one field after the other, what no model could do; hardly any request stays that cannot run."""
    if None in (fields["seed_resize_width"], fields["seed_resize_height"]):
        fields |= {"seed_resize_width": None, "seed_resize_height": None}
    while True:
        request = GenerationRequest(**fields)
        hires_model = make_model(name=request.hires_model) if request.hires_model else None
        input_size = (640, 480) if request.init_image else None
        try:
            resolve(request.with_seeds(), make_model(), input_size=input_size, hires_model=hires_model)
        except InvalidRequest as error:
            if error.field not in fields:
                return request
            del fields[error.field]
        else:
            return request


REQUESTS = st.fixed_dictionaries({field: values_of(field) for field in field_names()}).map(
    lambda fields: possible(**fields)
)


def test_every_field_is_varied_in_requests_that_can_run() -> None:
    varied: set[str] = set()

    @hypothesis_settings(max_examples=1000, phases=[Phase.generate], derandomize=True, database=None)
    @given(REQUESTS)
    def look(request: GenerationRequest) -> None:
        varied.update(request.model_dump(exclude_defaults=True))

    look()

    assert varied == set(field_names())


@given(REQUESTS)
def test_a_request_survives_json_unchanged(request: GenerationRequest) -> None:
    assert GenerationRequest.model_validate_json(request.model_dump_json()) == request
    assert GenerationRequest.parse(json.loads(json.dumps(request.model_dump(mode="json")))) == request
    assert GenerationRequest.parse(request.model_dump(mode="json", exclude_defaults=True)) == request
