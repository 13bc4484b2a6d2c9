"""What the engine promises beside the right pixels: protocol, isolation, guards."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from pipelines.engines.diffusers_engine import DiffusersEngine
from pipelines.runtime.sampling import denoise
from pipelines.spec.engine import GeneratedImage, Inputs, Step
from pipelines.spec.errors import Cancelled, InvalidRequest, ModelError, NotANumber
from pipelines.spec.model import Model
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import resolve
from pipelines.spec.resolved import ResolvedRequest
from tests.pipelines import tiny_models

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT_ENCODER = "text_encoder/model.safetensors"
CopyModel = Callable[..., Model]


@pytest.fixture(scope="module")
def engine() -> DiffusersEngine:
    return DiffusersEngine(device="cpu")


def ask(model: Model, **fields: Any) -> tuple[ResolvedRequest, ...]:
    values = {"prompt": "a red house", "seed": 7, "num_inference_steps": 4, **fields}
    return resolve(GenerationRequest.parse(values), model)


def paint(engine: DiffusersEngine, model: Model, **fields: Any) -> list[GeneratedImage]:
    return list(engine.generate(ask(model, **fields), Inputs(model), lambda step: None))


def pixels(result: GeneratedImage) -> bytes:
    return result.image.tobytes()


def change_weights(model: Model, file: str, **tensors: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Rewrite named tensors of a copied model; dots in names are written as two underscores."""
    state = load_file(model.path / file)
    for name, change in tensors.items():
        state[name.replace("__", ".")] = change(state[name.replace("__", ".")])
    save_file(state, model.path / file, metadata={"format": "pt"})


# Protocol


@pytest.mark.parametrize("scheduler", ["euler", "heun"])
def test_every_step_is_told_from_zero_to_the_last(engine: DiffusersEngine, sd1: Model, scheduler: str) -> None:
    steps: list[Step] = []

    list(engine.generate(ask(sd1, scheduler=scheduler, num_images=2), Inputs(sd1), steps.append))

    assert steps == [Step(0, step, 4, images_at_once=2) for step in range(5)]


def test_image_to_image_counts_the_steps_it_really_runs(
    engine: DiffusersEngine, sd1: Model, init_image: Image.Image
) -> None:
    requests = ask(sd1, init_image="0" * 64, strength=0.5, num_inference_steps=5)
    steps: list[Step] = []

    (result,) = engine.generate(requests, Inputs(sd1, init_image), steps.append)

    assert [(step.step, step.num_steps) for step in steps] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert result.provenance["evaluations"] == 3


@pytest.mark.parametrize(("scheduler", "evaluations"), [("euler", 4), ("heun", 7)])
def test_provenance_says_what_the_pixels_depend_on(
    engine: DiffusersEngine, sd1: Model, scheduler: str, evaluations: int
) -> None:
    (result,) = paint(engine, sd1, scheduler=scheduler)

    assert result.provenance["evaluations"] == evaluations
    assert {"engine", "device", "dtype", "torch", "diffusers", "transformers", "threads"} < result.provenance.keys()
    assert {type(value) for value in result.provenance.values()} <= {str, int}
    assert not {"vae_upcast", "reduced_memory"} & result.provenance.keys()


def test_the_consumer_of_pictures_is_left_out_of_inference_mode(engine: DiffusersEngine, sd1: Model) -> None:
    for _ in engine.generate(ask(sd1, num_images=2), Inputs(sd1), lambda step: None):
        assert not torch.is_inference_mode_enabled()


def test_a_preview_is_drawn_only_when_asked_and_changes_nothing(engine: DiffusersEngine, sd1: Model) -> None:
    previews: list[Image.Image] = []

    def look(step: Step) -> None:
        if step.preview is not None:
            previews.append(step.preview())

    (watched,) = engine.generate(ask(sd1), Inputs(sd1), look)

    assert [preview.size for preview in previews] == [(8, 8)] * 4
    assert {preview.mode for preview in previews} == {"RGB"}
    assert pixels(watched) == pixels(*paint(engine, sd1))


def test_an_unknown_device_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match=r"'cuda:9' is not there; choose auto or one of .*cpu"):
        DiffusersEngine(device="cuda:9")


# The same request, the same pixels


@pytest.mark.parametrize("scheduler", ["euler_a", "dpmpp_2m_sde", "lcm", "ddim"])
def test_a_picture_is_the_same_alone_and_anywhere_in_a_batch(
    engine: DiffusersEngine, sd1: Model, scheduler: str
) -> None:
    together = paint(engine, sd1, scheduler=scheduler, num_images=3)
    alone = [paint(engine, sd1, scheduler=scheduler, seed=7 + index)[0] for index in range(3)]
    backwards = list(engine.generate([each.request for each in reversed(together)], Inputs(sd1), lambda step: None))

    assert len({pixels(each) for each in together}) == 3
    assert [pixels(each) for each in alone] == [pixels(each) for each in together]
    assert [pixels(each) for each in reversed(backwards)] == [pixels(each) for each in together]


def test_a_new_engine_gives_the_same_pixels(engine: DiffusersEngine, sd1: Model) -> None:
    assert pixels(*paint(DiffusersEngine(device="cpu"), sd1)) == pixels(*paint(engine, sd1))


@pytest.mark.parametrize("at_step", [0, 2, 4])
def test_cancelling_stops_within_one_step_and_leaves_no_trace(
    engine: DiffusersEngine, sd1: Model, at_step: int
) -> None:
    before = pixels(*paint(engine, sd1, scheduler="dpmpp_2m_sde"))
    seen: list[int] = []

    def cancel(step: Step) -> None:
        seen.append(step.step)
        if step.step == at_step:
            raise Cancelled("stopped by the user")

    with pytest.raises(Cancelled):
        list(engine.generate(ask(sd1, scheduler="dpmpp_2m_sde"), Inputs(sd1), cancel))

    assert seen == list(range(at_step + 1))
    assert pixels(*paint(engine, sd1, scheduler="dpmpp_2m_sde")) == before


def test_inpaint_keeps_the_unmasked_pixels_of_any_input_size(
    engine: DiffusersEngine, sd1: Model, init_image: Image.Image, mask_image: Image.Image
) -> None:
    wide = init_image.resize((200, 100))
    images = {"init_image": "0" * 64, "mask_image": "1" * 64, "width": 64, "height": 64}
    requests = ask(sd1, mask_blur_x=0.0, mask_blur_y=0.0, **images)

    (result,) = engine.generate(requests, Inputs(sd1, wide, mask_image), lambda step: None)

    fitted = np.asarray(wide.resize((64, 64), Image.Resampling.LANCZOS, box=(50, 0, 150, 100)))
    changed = (np.asarray(result.image) != fitted).any(axis=-1)
    assert changed[10:40, 24:40].mean() > 0.9
    assert not changed[48:].any()
    assert not changed[:4].any()


def test_a_blank_mask_on_an_inpaint_model_repaints_everything_and_says_so(
    engine: DiffusersEngine, sd1_inpaint: Model, init_image: Image.Image
) -> None:
    images = {"init_image": "0" * 64, "mask_image": "1" * 64, "width": 64, "height": 64}
    requests = ask(sd1_inpaint, inpaint_area="only_masked", **images)

    (result,) = engine.generate(requests, Inputs(sd1_inpaint, init_image, Image.new("L", (64, 64))), lambda step: None)

    assert result.provenance["blank_mask"] is True


def test_only_the_masked_region_is_painted_into_the_whole_picture(
    engine: DiffusersEngine, sd1: Model, init_image: Image.Image
) -> None:
    wide, mask = init_image.resize((200, 120)), Image.new("L", (200, 120))
    mask.paste(255, (60, 30, 90, 60))
    images = {"init_image": "0" * 64, "mask_image": "1" * 64, "width": 64, "height": 64}
    requests = ask(sd1, inpaint_area="only_masked", mask_padding=8, **images)

    (result,) = engine.generate(requests, Inputs(sd1, wide, mask), lambda step: None)

    changed = Image.fromarray((np.asarray(result.image) != np.asarray(wide)).any(axis=-1)).getbbox()
    assert result.image.size == (200, 120)
    assert changed is not None
    assert changed[0] >= 50
    assert changed[1] >= 20
    assert changed[2] <= 100
    assert changed[3] <= 70


MODES = ("hard", "soft", "differential")
IMAGES = {"init_image": "0" * 64, "mask_image": "1" * 64, "width": 64, "height": 64}


def gradient() -> Image.Image:
    """Black on the left third, then brighter and brighter."""
    levels = np.clip(np.arange(64) - 20, 0, None) * 255 // 43
    return Image.fromarray(np.tile(levels.astype(np.uint8), (64, 1)))


def repaint(
    engine: DiffusersEngine, model: Model, image: Image.Image, mask: Image.Image | None = None, **fields: Any
) -> list[GeneratedImage]:
    given = {name: value for name, value in IMAGES.items() if mask is not None or name != "mask_image"}
    requests = ask(model, **{**given, "strength": 1.0, **fields})
    return list(engine.generate(requests, Inputs(model, image, mask), lambda step: None))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("area", ["whole_picture", "only_masked"])
@pytest.mark.parametrize("content", ["fill", "latent_noise"])
@pytest.mark.parametrize("seen", [False, True], ids=["plain", "9 channels"])
def test_every_mode_of_a_mask_keeps_its_black_and_batches_exactly(
    engine: DiffusersEngine,
    sd1: Model,
    sd1_inpaint: Model,
    init_image: Image.Image,
    mode: str,
    area: str,
    content: str,
    seen: bool,
) -> None:
    model, mask = sd1_inpaint if seen else sd1, gradient()
    fields = {"mask_mode": mode, "inpaint_area": area, "masked_content": content, "mask_blur_x": 2.0}

    together = repaint(engine, model, init_image, mask, num_images=3, **fields)
    alone = [repaint(engine, model, init_image, mask, seed=7 + index, **fields)[0] for index in range(3)]

    assert [pixels(each) for each in alone] == [pixels(each) for each in together]
    for each in together:
        changed = (np.asarray(each.image) != np.asarray(init_image)).any(axis=-1)
        assert not changed[:, :15].any()
        assert changed[:, 56:].mean() > 0.9


def test_each_mode_paints_another_picture_and_soft_settings_count_in_soft_mode_only(
    engine: DiffusersEngine, sd1: Model, init_image: Image.Image
) -> None:
    def painted(**fields: Any) -> bytes:
        return pixels(*repaint(engine, sd1, init_image, gradient(), **fields))

    settings: list[dict[str, Any]] = [
        *({"soft_schedule_bias": 2.0}, {"soft_preservation": 2.0}, {"soft_contrast_boost": 1.0}),
        *({"soft_mask_influence": 1.0}, {"soft_difference_threshold": 4.0}, {"soft_difference_contrast": 8.0}),
    ]
    assert len({painted(mask_mode=mode) for mode in MODES}) == 3
    assert len({painted(mask_mode="soft", **each) for each in ({}, *settings)}) == 7
    for mode in ("hard", "differential"):
        assert {painted(mask_mode=mode, **each) for each in settings} == {painted(mask_mode=mode)}


@pytest.mark.parametrize("mode", MODES)
def test_a_white_mask_is_image_to_image_in_every_mode(
    engine: DiffusersEngine, sd1: Model, init_image: Image.Image, mode: str
) -> None:
    """Soft: what shows of the original is told by the difference, so with a threshold of 0 none. Its blend rounds."""
    (plain,) = repaint(engine, sd1, init_image)
    white = Image.new("L", (64, 64), 255)

    (masked,) = repaint(engine, sd1, init_image, white, mask_mode=mode, soft_difference_threshold=0.0)

    difference = np.abs(np.asarray(masked.image, dtype=int) - np.asarray(plain.image, dtype=int))
    assert difference.max() <= (1 if mode == "soft" else 0)


@pytest.mark.parametrize("scheduler", ["euler", "heun", "dpm_fast", "dpmpp_2m", "restart"])
def test_a_uniform_grey_runs_its_share_of_the_steps(
    engine: DiffusersEngine, sd1: Model, init_image: Image.Image, scheduler: str
) -> None:
    """What counts is how many steps set it free: greys between two of them paint the same."""

    def painted(grey: int) -> bytes:
        mask = Image.new("L", (64, 64), grey)
        fields = {"scheduler": scheduler, "num_inference_steps": 9, "mask_mode": "differential"}
        return pixels(*repaint(engine, sd1, init_image, mask, **fields))

    assert painted(0) == init_image.tobytes()
    assert painted(16) == painted(17)
    assert len({painted(grey) for grey in (0, 16, 90, 150, 255)}) == 5
    assert painted(255) == pixels(*repaint(engine, sd1, init_image, scheduler=scheduler, num_inference_steps=9))


def test_a_half_grey_over_two_steps_is_image_to_image_over_the_last(
    engine: DiffusersEngine, sd1: Model, init_image: Image.Image
) -> None:
    half = Image.new("L", (64, 64), 128)

    (masked,) = repaint(engine, sd1, init_image, half, num_inference_steps=2, mask_mode="differential")

    (plain,) = repaint(engine, sd1, init_image, num_inference_steps=2, strength=0.1)
    difference = np.abs(np.asarray(masked.image, dtype=int) - np.asarray(plain.image, dtype=int))
    assert difference.max() <= 2  # the noise of the first step is taken off with rounding


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seen", [False, True], ids=["plain", "9 channels"])
def test_outpaint_grows_the_picture_and_keeps_the_old_one(
    engine: DiffusersEngine, sd1: Model, sd1_inpaint: Model, init_image: Image.Image, mode: str, seen: bool
) -> None:
    model = sd1_inpaint if seen else sd1
    fields = {"outpaint_left": 16, "outpaint_bottom": 24, "mask_blur_x": 0.0, "mask_blur_y": 0.0, "mask_mode": mode}

    together = repaint(engine, model, init_image, width=80, height=88, num_images=2, **fields)
    (alone,) = repaint(engine, model, init_image, width=80, height=88, seed=8, **fields)

    assert pixels(alone) == pixels(together[1])
    assert alone.image.size == (80, 88)
    assert alone.image.crop((24, 0, 80, 56)).tobytes() == init_image.crop((8, 0, 64, 56)).tobytes()


@pytest.mark.parametrize("scheduler", ["euler", "dpm_fast", "heun", "plms"])
def test_prompt_editing_counts_what_the_scheduler_evaluates(
    engine: DiffusersEngine, sd1: Model, scheduler: str
) -> None:
    """From 0, and the step of a switch is the last one of the text before it."""
    fields = {"scheduler": scheduler, "guidance_scale": 30.0}
    (before,) = paint(engine, sd1, prompt="red", **fields)
    last = int(before.provenance["evaluations"]) - 1

    late, too_late = (pixels(*paint(engine, sd1, prompt=f"[red:blue:{step}]", **fields)) for step in (last - 1, last))

    assert late != pixels(before) == too_late


@pytest.mark.parametrize(
    "changes",
    [
        {"noise_source": "nv"},
        {"variation_seed": 3, "variation_strength": 0.5},
        {"seed_resize_width": 128, "seed_resize_height": 64},
        {"clip_skip": 2},
        {"scheduler": "euler_a", "eta_noise_seed_delta": 31337},
        {"scheduler": "euler_a", "eta": 0.5},
        {"scheduler": "euler", "s_churn": 5.0},
        {"sigma_min": 0.2},
        {"sigma_max": 9.0},
        {"rho": 4.0},
        {"prompt": "a (red:1.5) house"},
        {"prompt": "a red house AND fog"},
        {"prompt": "a red house BREAK fog"},
        {"prompt": "a [red|blue] house"},
        {"negative_prompt": "fog"},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_every_field_shows_in_the_pixels_and_gives_them_again(
    engine: DiffusersEngine, sd1: Model, changes: dict[str, Any]
) -> None:
    base = {name: value for name, value in changes.items() if name == "scheduler"}

    once, again, without = (pixels(*paint(engine, sd1, **fields)) for fields in (changes, changes, base))

    assert once == again
    assert once != without


def test_prompts_and_guidance_may_differ_within_a_batch(engine: DiffusersEngine, sd1: Model) -> None:
    requests = [
        ask(sd1, prompt=text, guidance_scale=scale, seed=seed)[0]
        for text, scale, seed in (("red", 3.0, 1), ("blue BREAK sky", 3.0, 2), ("fog AND sea", 5.0, 3), ("red", 1.0, 4))
    ]

    together = [pixels(each) for each in engine.generate(requests, Inputs(sd1), lambda step: None)]

    alone = [pixels(*engine.generate([request], Inputs(sd1), lambda step: None)) for request in requests]
    assert together == alone


def test_lack_of_memory_halves_a_batch_before_anything_else(sd1: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a small card: more than two pictures at once do not fit."""
    asked: list[int] = []

    def small(requests: Any, **options: Any) -> Any:
        asked.append(len(requests))
        if len(requests) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return denoise(requests, **options)

    monkeypatch.setattr("pipelines.engines.diffusers_engine.denoise", small)
    results = paint(DiffusersEngine(device="cpu"), sd1, num_images=4)

    assert asked[0] in {4, 1}, "one at a time only where no batch is safe"
    assert max(asked[1:], default=1) <= 2
    assert all("reduced_memory" not in each.provenance for each in results)
    assert [pixels(each) for each in results] == [
        pixels(*paint(DiffusersEngine(device="cpu"), sd1, seed=7 + index)) for index in range(4)
    ]


# What costs time happens once


@contextmanager
def calls_of(kind: type[torch.nn.Module]) -> Iterator[list[int]]:
    """Record the batch size of every call of one kind of module, whichever model it belongs to."""
    batches: list[int] = []

    def record(module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if isinstance(module, kind):
            batches.append(len(args[0]))

    handle = torch.nn.modules.module.register_module_forward_hook(record, with_kwargs=True)
    try:
        yield batches
    finally:
        handle.remove()


def test_a_known_prompt_makes_no_second_encoder_call(sd1: Model) -> None:
    engine = DiffusersEngine(device="cpu")
    with calls_of(CLIPTextModel) as calls:
        paint(engine, sd1, num_images=2)
        first = len(calls)
        paint(engine, sd1, seed=99)
        paint(engine, sd1, prompt="a blue boat")

    assert (first, len(calls)) == (2, 3), "prompt and negative prompt once, then the new prompt alone"


@pytest.mark.parametrize(("guidance_scale", "batch"), [(1.0, 1), (3.0, 2)])
def test_without_guidance_the_unconditional_branch_does_not_run(
    engine: DiffusersEngine, sd1: Model, guidance_scale: float, batch: int
) -> None:
    with calls_of(type(tiny_models.build_unet(cross_attention_dim=32))) as batches:
        paint(engine, sd1, guidance_scale=guidance_scale)

    assert batches == [batch] * 4


def test_models_are_kept_within_the_limit_and_never_twice(sd1: Model, sdxl: Model) -> None:
    roomy, narrow = DiffusersEngine(device="cpu"), DiffusersEngine(device="cpu", cache_bytes=1)
    for model in (sd1, sdxl, sd1):
        paint(roomy, model, num_inference_steps=1)
        paint(narrow, model, num_inference_steps=1)

    assert roomy.loaded_models == ("sdxl", "sd1")
    assert narrow.loaded_models == ("sd1",)


# Files change and break


def test_a_changed_file_is_noticed_before_the_next_job(
    engine: DiffusersEngine, sd1: Model, copy_model: CopyModel
) -> None:
    model = copy_model(sd1)
    before = paint(engine, model)[0]
    change_weights(model, UNET, conv_out__weight=lambda tensor: tensor * 3)
    after = paint(engine, model)[0]

    assert pixels(before) != pixels(after)
    assert before.provenance["model_fingerprint"] != after.provenance["model_fingerprint"]
    assert engine.loaded_models.count("copy") == 1


def test_a_file_cut_short_in_place_fails_the_job_and_not_the_process(
    engine: DiffusersEngine, sd1: Model, copy_model: CopyModel
) -> None:
    model = copy_model(sd1)
    whole = (model.path / UNET).read_bytes()
    before = pixels(*paint(engine, model))
    with (model.path / UNET).open("r+b") as file:
        file.truncate(len(whole) // 2)

    with pytest.raises(ModelError, match="cut short"):
        paint(engine, model)

    (model.path / UNET).write_bytes(whole)
    assert pixels(*paint(engine, model)) == before


# NaN


@pytest.mark.parametrize(
    ("file", "name", "part"), [(UNET, "conv_out__bias", "unet"), (VAE, "decoder__conv_out__bias", "vae")]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_in_float32_is_an_error_that_names_the_part(
    engine: DiffusersEngine, sd1: Model, copy_model: CopyModel, file: str, name: str, part: str, value: float
) -> None:
    model = copy_model(sd1)
    healthy = pixels(*paint(engine, sd1))
    change_weights(model, file, **{name: lambda tensor: tensor + value})

    with pytest.raises(NotANumber, match=f"the {part} of model copy produced NaN"):
        paint(engine, model)

    assert pixels(*paint(engine, sd1)) == healthy


def test_a_vae_that_overflows_in_float16_is_upcast_once_and_remembered(sd1: Model, copy_model: CopyModel) -> None:
    model = copy_model(sd1)
    (model.path / "vae/config.json").write_text(
        (model.path / "vae/config.json").read_text().replace('"force_upcast": true', '"force_upcast": false')
    )
    change_weights(model, VAE, decoder__conv_in__weight=lambda tensor: tensor * 1e6)
    engine = DiffusersEngine(device="cpu", dtype=torch.float16)
    steps: list[Step] = []

    first, second = engine.generate(ask(model, num_images=2), Inputs(model), steps.append)

    assert first.provenance["vae_upcast"] is True
    assert second.provenance["vae_upcast"] is True
    assert first.provenance["dtype"] == "float16"
    assert len(steps) == 5, "the finished latents are decoded again, not denoised again"
    assert pixels(*paint(engine, model)) == pixels(first)


def test_a_text_encoder_that_overflows_in_float16_runs_in_float32(sd1: Model, copy_model: CopyModel) -> None:
    model = copy_model(sd1)
    name = next(key for key in load_file(model.path / TEXT_ENCODER) if key.endswith("final_layer_norm.weight"))
    change_weights(model, TEXT_ENCODER, **{name: lambda old: old * 1e6})

    (result,) = paint(DiffusersEngine(device="cpu", dtype=torch.float16), model)

    assert result.provenance["dtype"] == "float32"


def test_a_unet_that_overflows_in_float16_runs_in_float32(sd1: Model, copy_model: CopyModel) -> None:
    model = copy_model(sd1)
    change_weights(model, UNET, conv_in__weight=lambda tensor: tensor * 1e6, conv_in__bias=lambda tensor: tensor * 1e6)
    (result,) = paint(DiffusersEngine(device="cpu", dtype=torch.float16), model)

    assert result.provenance["dtype"] == "float32"
    assert "vae_upcast" not in result.provenance
    assert pixels(result) == pixels(*paint(DiffusersEngine(device="cpu"), model))


def test_half_precision_paints_nearly_the_same(engine: DiffusersEngine, sd1: Model) -> None:
    (half,) = paint(DiffusersEngine(device="cpu", dtype=torch.bfloat16), sd1, guidance_scale=2.0)
    (full,) = paint(engine, sd1, guidance_scale=2.0)

    difference = np.abs(np.asarray(half.image, dtype=int) - np.asarray(full.image, dtype=int))
    assert half.provenance["dtype"] == "bfloat16"
    assert 0 < difference.mean() < 4, "bfloat16 has eight bits; a wrong dtype somewhere would be far off or identical"


def test_black_is_a_legal_picture(engine: DiffusersEngine, sd1: Model, copy_model: CopyModel) -> None:
    model = copy_model(sd1)
    change_weights(
        model,
        VAE,
        decoder__conv_out__weight=torch.zeros_like,
        decoder__conv_out__bias=lambda tensor: torch.full_like(tensor, -1),
    )
    (result,) = paint(engine, model)

    assert result.image.getextrema() == ((0, 0),) * 3
    assert "vae_upcast" not in result.provenance
