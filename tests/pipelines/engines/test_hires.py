"""The second pass of the engine: the right pixels, told steps, isolation, both models, guards."""

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.engines.diffusers_engine import DiffusersEngine
from pipelines.runtime import autoencoding
from pipelines.runtime.adapters.applied import AppliedLoras
from pipelines.runtime.conditioning import PromptEncoder
from pipelines.runtime.denoiser import Guidance
from pipelines.runtime.hires import stretch_latents
from pipelines.runtime.loading import Components, ModelCache
from pipelines.runtime.sampling import denoise
from pipelines.spec.canvas import Canvas
from pipelines.spec.engine import GeneratedImage, Inputs, Step
from pipelines.spec.errors import Cancelled, ModelError
from pipelines.spec.hires import Enlargement, second_pass
from pipelines.spec.model import Model
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import resolve
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.schedulers import SCHEDULERS
from pipelines.spec.upscalers import UPSCALERS, LatentUpscaler
from tests.pipelines.engines.test_diffusers_engine import VAE, CopyModel, change_weights, pixels

LATENT = {name: row for name, row in UPSCALERS.items() if isinstance(row, LatentUpscaler)}


@pytest.fixture(scope="module")
def engine() -> DiffusersEngine:
    return DiffusersEngine(device="cpu")


def ask(model: Model, *, hires_model: Model | None = None, **fields: Any) -> tuple[ResolvedRequest, ...]:
    values = {"prompt": "a red house", "seed": 7, "num_inference_steps": 3, "hires_scale": 2.0, **fields}
    return resolve(GenerationRequest.parse(values), model, hires_model=hires_model)


def paint(engine: DiffusersEngine, model: Model, **fields: Any) -> list[GeneratedImage]:
    return list(engine.generate(ask(model, **fields), Inputs(model), lambda step: None))


@pytest.mark.parametrize("upscaler", UPSCALERS)
def test_every_upscaler_gives_a_picture_of_its_own_at_the_final_size(
    engine: DiffusersEngine, sd1: Model, upscaler: str
) -> None:
    (result,) = paint(engine, sd1, hires_upscaler=upscaler)
    (other,) = paint(engine, sd1, hires_upscaler="lanczos" if upscaler != "lanczos" else "nearest")

    assert result.image.size == result.request.final_size == (128, 128)
    assert pixels(result) != pixels(other)


def test_the_second_pass_is_the_loop_over_stretched_latents(sd1: Model, engine: DiffusersEngine) -> None:
    """Put together from the parts, as the words of A1111 have it."""
    (request,) = ask(sd1, hires_strength=0.5, hires_steps=4, scheduler="euler", hires_guidance_scale=2.0)
    (result,) = engine.generate((request,), Inputs(sd1), lambda step: None)

    components = ModelCache(torch.device("cpu"), dtype=torch.float32, max_bytes=2**30).get(sd1)
    prompts = PromptEncoder()

    def run(one: ResolvedRequest, begun: torch.Tensor | None = None) -> torch.Tensor:
        guidance = Guidance(
            prompts.encode(one, components=components),
            prompts.encode_negative(one, components=components),
            one.guidance_scale,
        )
        return denoise(
            [one],
            components=components,
            canvas=Canvas(),
            guidance=[guidance],
            loras=AppliedLoras(),
            progress=lambda *_: None,
            begun=begun,
        ).latents

    larger = torch.nn.functional.interpolate(run(request), (16, 16), mode="bilinear")
    again = autoencoding.to_image(autoencoding.decode(run(second_pass(request), larger), components=components))

    assert pixels(result) == again.tobytes()
    assert result.provenance["evaluations"] == 3 + 4


def test_the_second_pass_draws_fresh_noise_of_the_same_seed(engine: DiffusersEngine, sd1: Model) -> None:
    """At strength 1 nearly nothing of the first pass is left: it is the picture of that seed at the larger size."""
    (large,) = paint(engine, sd1, width=128, height=128, hires_scale=None, num_inference_steps=12, scheduler="euler")
    (second,) = paint(engine, sd1, hires_strength=1.0, num_inference_steps=12, scheduler="euler")
    (other,) = paint(engine, sd1, width=128, height=128, hires_scale=None, num_inference_steps=12, seed=8)

    def distance(a: GeneratedImage, b: GeneratedImage) -> float:
        return float(np.abs(np.asarray(a.image, dtype=float) - np.asarray(b.image, dtype=float)).mean())

    assert distance(large, second) < distance(large, other) / 2


def test_what_overhangs_is_cropped_from_the_middle() -> None:
    latents = torch.arange(16.0).view(1, 1, 4, 4)
    row = LATENT["latent_nearest"]

    cropped = stretch_latents(latents, row, Enlargement(64, 64, 64, 40), pixels_per_latent=8)
    whole = stretch_latents(latents, row, Enlargement(64, 64, 64, 64), pixels_per_latent=8)

    assert torch.equal(cropped, whole[:, :, 1:6])


@pytest.mark.parametrize(
    "fields",
    [
        {"scheduler": "euler_a"},
        {"scheduler": "dpmpp_2m_sde", "hires_upscaler": "lanczos"},
        {"hires_scheduler": "dpm_adaptive"},
        {"hires_width": 136, "hires_height": 128, "hires_scale": None, "variation_strength": 0.3, "variation_seed": 5},
    ],
)
def test_a_picture_is_the_same_alone_and_anywhere_in_a_batch(
    engine: DiffusersEngine, sd1: Model, fields: dict[str, Any]
) -> None:
    together = paint(engine, sd1, num_images=3, **fields)

    alone = [next(engine.generate((result.request,), Inputs(sd1), lambda step: None)) for result in reversed(together)]

    assert [pixels(each) for each in together] == [pixels(each) for each in reversed(alone)]
    assert [each.provenance["evaluations"] for each in together] == [
        each.provenance["evaluations"] for each in reversed(alone)
    ]


def test_pictures_may_differ_in_the_prompt_of_the_second_pass(engine: DiffusersEngine, sd1: Model) -> None:
    (one,), (other,) = ask(sd1, hires_prompt="a tree"), ask(sd1, hires_guidance_scale=2.0)

    both = list(engine.generate((one, other), Inputs(sd1), lambda step: None))

    assert [pixels(each) for each in both] == [
        pixels(*paint(engine, sd1, hires_prompt="a tree")),
        pixels(*paint(engine, sd1, hires_guidance_scale=2.0)),
    ]


@pytest.mark.parametrize("hires_scheduler", SCHEDULERS)
def test_steps_of_both_passes_are_one_count(engine: DiffusersEngine, sd1: Model, hires_scheduler: str) -> None:
    steps: list[Step] = []

    list(
        engine.generate(
            ask(sd1, scheduler="euler", hires_steps=6, hires_scheduler=hires_scheduler), Inputs(sd1), steps.append
        )
    )

    counts = [step.step for step in steps]
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] == steps[0].num_steps > 3
    assert len({(step.num_steps, step.image_index) for step in steps}) == 1


def test_the_count_never_falls_where_a_batch_is_parted_for_the_second_pass(engine: DiffusersEngine, sd1: Model) -> None:
    steps: list[Step] = []

    list(engine.generate(ask(sd1, num_images=2, hires_scheduler="dpm_adaptive"), Inputs(sd1), steps.append))

    counts = [step.step for step in steps]
    assert counts == sorted(counts)
    assert {(step.image_index, step.images_at_once) for step in steps} == {(0, 2)}


def test_prompts_change_in_the_second_pass_by_its_own_clock(engine: DiffusersEngine, sd1: Model) -> None:
    changing = paint(engine, sd1, prompt="a [cat:dog:1.0]", hires_steps=3)
    as_said = paint(engine, sd1, prompt="a cat", hires_prompt="a dog", hires_steps=3)
    by_step = paint(engine, sd1, prompt="a [cat:dog:3]", hires_steps=3)
    late = paint(engine, sd1, prompt="a [cat:dog:1.5]", hires_steps=3)
    doubled = [
        pixels(*paint(engine, sd1, prompt=f"a [cat:dog:{step}]", hires_steps=3, hires_scheduler="heun"))
        for step in (3, 6, 7)
    ]

    assert pixels(*changing) == pixels(*as_said) == pixels(*by_step)
    cat = {
        name: pixels(*paint(engine, sd1, prompt="a cat", hires_steps=3, hires_scheduler=name))
        for name in ("euler", "heun")
    }
    assert pixels(*late) not in {pixels(*changing), cat["euler"]}
    assert len(set(doubled)) == 3
    assert doubled[-1] == cat["heun"]


def test_another_model_paints_the_second_pass(
    engine: DiffusersEngine, sd1: Model, sdxl: Model, copy_model: CopyModel
) -> None:
    for upscaler, other in (("lanczos", sdxl), ("latent_bilinear", copy_model(sd1))):
        if other is not sdxl:
            change_weights(other, "unet/diffusion_pytorch_model.safetensors", conv_out__weight=lambda old: old * 0.5)
        requests = ask(sd1, hires_model=other, hires_upscaler=upscaler, num_images=2)

        made = list(engine.generate(requests, Inputs(sd1, hires_model=other), lambda step: None))
        (alone,) = engine.generate(requests[1:], Inputs(sd1, hires_model=other), lambda step: None)

        assert pixels(made[1]) == pixels(alone) != pixels(*paint(engine, sd1, seed=8, hires_upscaler=upscaler))
        assert made[0].provenance["hires_model_fingerprint"] != made[0].provenance["model_fingerprint"]


def test_two_models_share_a_cache_that_holds_only_one(sd1: Model, sdxl: Model) -> None:
    small = DiffusersEngine(device="cpu", cache_bytes=1)
    requests = ask(sd1, hires_model=sdxl, hires_upscaler="lanczos")

    (made,) = small.generate(requests, Inputs(sd1, hires_model=sdxl), lambda step: None)

    assert small.loaded_models == (sdxl.name,)
    (usual,) = DiffusersEngine(device="cpu").generate(requests, Inputs(sd1, hires_model=sdxl), lambda step: None)
    assert pixels(made) == pixels(usual)


def test_two_models_never_lie_beside_each_other_where_only_one_fits(sd1: Model, sdxl: Model) -> None:
    small = DiffusersEngine(device="cpu", cache_bytes=1, batch_size=1)
    requests = ask(sd1, hires_model=sdxl, hires_upscaler="lanczos", num_images=2)
    before, held = {id(each) for each in _loaded()}, []

    def look(step: Step) -> None:
        held.append((step.image_index, len([each for each in _loaded() if id(each) not in before])))

    list(small.generate(requests, Inputs(sd1, hires_model=sdxl), look))

    assert set(held) == {(0, 1), (1, 1)}


def _loaded() -> list[Components]:
    return [each for each in gc.get_objects() if type(each) is Components]


def test_cancelling_in_the_second_pass_leaves_the_engine_unharmed(engine: DiffusersEngine, sd1: Model) -> None:
    expected = pixels(*paint(engine, sd1))

    def cancel(step: Step) -> None:
        if step.step == 5:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        list(engine.generate(ask(sd1), Inputs(sd1), cancel))

    assert pixels(*paint(engine, sd1)) == expected


def test_a_vae_that_overflows_between_the_passes_is_run_in_float32(sd1: Model, copy_model: CopyModel) -> None:
    model = copy_model(sd1)
    (model.path / "vae/config.json").write_text(
        (model.path / "vae/config.json").read_text().replace('"force_upcast": true', '"force_upcast": false')
    )
    change_weights(model, VAE, decoder__conv_in__weight=lambda old: old * 1e6)
    steps: list[Step] = []

    (result,) = DiffusersEngine(device="cpu", dtype=torch.float16).generate(
        ask(model, hires_upscaler="lanczos"), Inputs(model), steps.append
    )

    assert result.provenance["vae_upcast"] is True
    assert [step.step for step in steps] == [0, 1, 2, 3, 3, 4, 5, 6], "nothing is denoised again"


def test_a_model_file_that_is_none_is_an_error_in_words(engine: DiffusersEngine, sd1: Model, tmp_path: Path) -> None:
    file = tmp_path / "4x.safetensors"
    file.write_bytes(b"none")

    with pytest.raises(ModelError, match=r"4x\.safetensors .*(spandrel|no safetensors file)"):
        list(engine.generate(ask(sd1, hires_upscaler="4x"), Inputs(sd1, hires_upscaler=file), lambda step: None))


def test_the_first_pass_is_that_of_the_picture_alone(engine: DiffusersEngine, sd1: Model) -> None:
    """Seen through the preview of its last step."""
    seen: dict[str, Image.Image] = {}

    def look(name: str, step: Step) -> None:
        if step.step == 3 and step.preview is not None:
            seen.setdefault(name, step.preview())

    list(engine.generate(ask(sd1), Inputs(sd1), lambda step: look("both", step)))
    list(engine.generate(ask(sd1, hires_scale=None), Inputs(sd1), lambda step: look("alone", step)))

    assert seen["both"].tobytes() == seen["alone"].tobytes()
