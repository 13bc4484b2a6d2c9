"""Guidance as A1111 has it, whatever the U-Net predicts; and rows that do not know of each other."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipelines.runtime.batching import BatchTrials, is_same
from pipelines.runtime.conditioning import Branch, Conditioning, EncodedPrompt, PromptEncoder
from pipelines.runtime.denoiser import Denoiser, Guidance
from pipelines.runtime.keeping import HardKeep
from pipelines.runtime.loading import Components, ModelCache
from pipelines.runtime.tiling import Tiles
from pipelines.spec.model import Model
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import resolve

LATENTS = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def components(sd1: Model) -> Components:
    return ModelCache(torch.device("cpu"), dtype=torch.float32, max_bytes=10**9).get(sd1)


def guidance(components: Components, model: Model, prompt: str, scale: float) -> Guidance:
    request = resolve(GenerationRequest(prompt=prompt, negative_prompt="fog", num_inference_steps=4), model)[0]
    encoder = PromptEncoder()
    encoded = encoder.encode(request, components=components)
    return Guidance(encoded, encoder.encode_negative(request, components=components), scale)


def predict(components: Components, *led: Guidance, latents: torch.Tensor = LATENTS, **options: Any) -> torch.Tensor:
    whole = Tiles.cover(*latents.shape[2:], size=None)
    values: dict[str, Any] = {"size": (64, 64), "tiles": whole, "keep": None, "extra_channels": None, **options}
    with torch.inference_mode():
        return Denoiser(components, guidance=led, **values)(latents, 2.0)


def test_and_adds_what_each_branch_differs_from_the_negative_prompt(components: Components, sd1: Model) -> None:
    negative, red, blue = (predict(components, guidance(components, sd1, text, 1.0)) for text in ("fog", "red", "blue"))

    both = predict(components, guidance(components, sd1, "red AND blue :0.5", 3.0))

    torch.testing.assert_close(both, negative + 3 * ((red - negative) + 0.5 * (blue - negative)), rtol=1e-4, atol=1e-4)


def test_without_guidance_only_the_prompt_is_asked(components: Components, sd1: Model) -> None:
    plain = guidance(components, sd1, "red", 1.0)

    assert [weight for _, weight in plain.rows(1)] == [1.0]
    assert [weight for _, weight in guidance(components, sd1, "red", 3.0).rows(1)] == [-2.0, 3.0]


def test_prompts_of_different_lengths_are_not_padded(components: Components, sd1: Model) -> None:
    short, long = guidance(components, sd1, "red", 3.0), guidance(components, sd1, "red BREAK blue", 3.0)
    assert short.shapes() == ((0, (77, 77)),)
    assert long.shapes() == ((0, (77, 154)),)

    together = predict(components, short, long, latents=torch.cat([LATENTS, LATENTS]))

    torch.testing.assert_close(together[:1], predict(components, short), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together[1:], predict(components, long), rtol=1e-4, atol=1e-5)


def test_a_prompt_that_is_repeated_to_the_length_of_another_predicts_the_same(
    components: Components, sd1: Model
) -> None:
    """Forge pads so; a picture that was made there comes out the same here, where nothing is padded."""
    short = guidance(components, sd1, "red", 3.0)
    (negative,) = short.negative_prompt.branches
    ((until, conditioning),) = negative.scheduled
    repeated = replace(conditioning, prompt_embeds=conditioning.prompt_embeds.repeat(1, 2, 1))
    padded = replace(short, negative_prompt=EncodedPrompt((replace(negative, scheduled=((until, repeated),)),)))
    assert padded.shapes() == ((0, (154, 77)),)

    torch.testing.assert_close(predict(components, padded), predict(components, short), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_every_kind_of_prediction_shows_the_original(prediction_type: str) -> None:
    """A model that knows the truth answers in its own way; the denoiser makes the same picture of it."""
    original, noise = torch.randn((2, 1, 4, 8, 8), generator=torch.Generator().manual_seed(5))
    sigma = 2.0
    signal, level = 1 / (sigma**2 + 1) ** 0.5, sigma / (sigma**2 + 1) ** 0.5
    truth = {"epsilon": noise, "v_prediction": signal * noise - level * original, "sample": original}[prediction_type]
    text = Conditioning(torch.zeros((1, 77, 4)), None)
    prompt = EncodedPrompt((Branch(1.0, ((1, text),)),))

    class Knowing:
        scheduler_config = None
        precision = type("Precision", (), {"dtype": torch.float32})
        sigmas = type("Sigmas", (), {"sigma_to_t": staticmethod(lambda sigma: 500.0)})

        @staticmethod
        def unet(batch: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor]:
            return (truth.expand(len(batch), -1, -1, -1),)

    knowing: Any = Knowing()
    knowing.prediction_type = prediction_type
    denoiser = Denoiser(
        knowing,
        guidance=[Guidance(prompt, prompt, 1.0)],
        size=(64, 64),
        tiles=Tiles.cover(8, 8, size=None),
        keep=None,
        extra_channels=None,
    )

    torch.testing.assert_close(denoiser(original + sigma * noise, sigma), original)


def test_what_is_kept_is_shown_as_it_is(components: Components, sd1: Model) -> None:
    original, repaint = torch.full((1, 4, 8, 8), 0.25), torch.zeros((1, 1, 8, 8))
    repaint[..., 4:] = 1

    shown = predict(components, guidance(components, sd1, "red", 3.0), keep=HardKeep(original, repaint))

    assert torch.equal(shown[..., :4], original[..., :4])
    assert (shown[..., 4:] != 0.25).all()


def test_a_batch_is_as_large_as_changes_no_bit(components: Components, sd1: Model) -> None:
    led = [guidance(components, sd1, "red", 3.0)] * 8
    number = BatchTrials().most(components, led, size=(8, 8))
    latents = torch.randn((number, 4, 8, 8), generator=torch.Generator().manual_seed(2))

    together = predict(components, *led[:number], latents=latents)

    assert number in {1, 2, 4, 8}
    for place in range(number):
        assert torch.equal(together[place], predict(components, led[0], latents=latents[place : place + 1])[0])


@pytest.mark.parametrize(("error", "exact", "rounded"), [(0.0, True, True), (1e-3, False, True), (0.1, False, False)])
def test_accelerators_may_round_in_a_batch_and_processors_may_not(error: float, exact: bool, rounded: bool) -> None:
    alone = torch.randn((4, 4, 8, 8), generator=torch.Generator().manual_seed(3))
    together = alone * (1 + error)

    assert is_same(together, alone, is_exact=True) is exact
    assert is_same(together, alone, is_exact=False) is rounded


def test_pictures_whose_prompts_differ_in_shape_do_not_share_a_batch(components: Components, sd1: Model) -> None:
    led = [guidance(components, sd1, text, 3.0) for text in ("red", "red BREAK blue", "red")]

    assert BatchTrials().most(components, led, size=(8, 8)) == 1


class Operations(TorchDispatchMode):
    """Notes the names of all operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def test_no_step_waits_for_an_accelerator(components: Components, sd1: Model) -> None:
    """What lies on the processor, numbers or indexes, is copied, and a copy waits for all that was begun before."""
    led = guidance(components, sd1, "red", 3.0)
    with torch.inference_mode():
        denoiser = Denoiser(
            components,
            guidance=(led, led),
            size=(64, 64),
            tiles=Tiles.cover(8, 8, size=None),
            keep=None,
            extra_channels=None,
        )
        with Operations() as operations:
            denoiser(LATENTS.repeat(2, 1, 1, 1), 2.0)

    assert "aten.cat.default" in operations.names
    assert operations.names.isdisjoint(
        {"aten.lift_fresh.default", "aten.index.Tensor", "aten._local_scalar_dense.default"}
    )


def test_sdxl_is_told_sizes_that_bfloat16_does_not_hold(sdxl: Model) -> None:
    half = ModelCache(torch.device("cpu"), dtype=torch.bfloat16, max_bytes=10**9).get(sdxl)
    told: list[list[float]] = []
    hook = half.unet.register_forward_pre_hook(
        lambda _, __, named: told.extend(named["added_cond_kwargs"]["time_ids"].tolist()), with_kwargs=True
    )

    predict(half, guidance(half, sdxl, "red", 1.0), size=(2056, 2312))
    hook.remove()

    assert told == [[2056, 2312, 0, 0, 64, 64]]


class LargestTensor(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.elements = max(self.elements, made.numel())
        return made


def largest(components: Components, led: Guidance, *, side: int, tile: int | None) -> int:
    latents = torch.randn((1, 4, side, side), generator=torch.Generator().manual_seed(3))
    with LargestTensor() as noted:
        predict(components, led, latents=latents, tiles=Tiles.cover(side, side, size=tile, overlap=4))
    return noted.elements


def test_no_tensor_grows_with_a_picture_in_tiles(components: Components, sd1: Model) -> None:
    led = guidance(components, sd1, "red", 3.0)

    of_a_tile = largest(components, led, side=8, tile=None)

    assert largest(components, led, side=24, tile=8) == of_a_tile
    assert largest(components, led, side=24, tile=None) >= 9 * of_a_tile


def test_a_model_that_looks_at_single_latents_does_not_notice_tiles(components: Components, sd1: Model) -> None:
    led = guidance(components, sd1, "red", 3.0)
    latents = torch.randn((2, 4, 12, 20), generator=torch.Generator().manual_seed(4))

    class Local:
        prediction_type, precision, sigmas = components.prediction_type, components.precision, components.sigmas

        @staticmethod
        def unet(batch: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor]:
            return (batch.tanh(),)

    local: Any = Local()
    whole = predict(local, led, led, latents=latents)
    tiled = predict(local, led, led, latents=latents, tiles=Tiles.cover(12, 20, size=8, overlap=4))

    torch.testing.assert_close(tiled, whole, rtol=1e-5, atol=1e-5)


def test_a_model_is_shown_the_part_of_a_tile_and_told_its_place(sdxl: Model, sdxl_inpaint: Model) -> None:
    """Original size, crop and target size, in pixels; and beside the latents the mask and picture of the tile."""
    components = ModelCache(torch.device("cpu"), dtype=torch.float32, max_bytes=10**9).get(sdxl_inpaint)
    seen: list[tuple[float, list[float]]] = []

    def note(_: Any, arguments: tuple[torch.Tensor, ...], named: dict[str, Any]) -> None:
        seen.append((float(arguments[0][0, 4, 0, 0]), named["added_cond_kwargs"]["time_ids"][0].tolist()))

    place = torch.arange(16.0).expand(1, 5, 8, 16)
    handle = components.unet.register_forward_pre_hook(note, with_kwargs=True)
    try:
        predict(
            components,
            guidance(components, sdxl, "red", 1.0),
            latents=torch.zeros(1, 4, 8, 16),
            size=(64, 128),
            extra_channels=place,
            tiles=Tiles.cover(8, 16, size=8, overlap=4),
        )
    finally:
        handle.remove()

    assert seen == [(left, [64, 128, 0, 8 * left, 64, 64]) for left in (0, 4, 8)]
