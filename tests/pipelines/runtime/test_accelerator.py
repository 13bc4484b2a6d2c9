"""A batch on its way through denoiser and samplers, on torch's meta device: an accelerator, as far as that goes.

A meta tensor has no content: to read a number of it raises, and so does an operation with one of the processor. So no
sampler waits in its loop, and nothing it makes lies on the wrong device or comes out in the precision of the U-Net.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch

from pipelines.runtime.conditioning import Branch, Conditioning, EncodedPrompt
from pipelines.runtime.denoiser import Denoiser, Guidance
from pipelines.runtime.keeping import DifferentialKeep, HardKeep, Keep, SoftKeep
from pipelines.runtime.loading import Components, ModelCache
from pipelines.runtime.noise import ImageNoise
from pipelines.runtime.samplers import SAMPLERS, SamplerOptions
from pipelines.runtime.sampling import noise_levels, step_noise
from pipelines.runtime.tiling import Tiles
from pipelines.spec.model import Model
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import resolve
from pipelines.spec.schedulers import SCHEDULERS

META = torch.device("meta")
WITHOUT_NUMBERS = [name for name, row in SCHEDULERS.items() if not row.one_image_at_a_time]
"""A sampler that chooses its steps by the picture has to read from it."""
ORIGINAL, REPAINT = torch.zeros(1, 4, 8, 8, device=META), torch.zeros(1, 1, 8, 8, device=META)
KEPT: dict[str, Keep | None] = {
    "nothing": None,
    "hard": HardKeep(ORIGINAL, REPAINT),
    "soft": SoftKeep(ORIGINAL, REPAINT, schedule_bias=1.0, preservation=0.5, contrast_boost=4.0),
    "differential": DifferentialKeep(ORIGINAL, REPAINT, num_steps=4),
}


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def model(request: pytest.FixtureRequest) -> tuple[Model, Components]:
    """In bfloat16, and its U-Net on the meta device."""
    model = request.getfixturevalue(request.param)
    components = ModelCache(torch.device("cpu"), dtype=torch.bfloat16, max_bytes=10**9).get(model)
    components.unet.to(META)
    return model, replace(components, device=META)


def led(components: Components) -> Guidance:
    width, pools = components.unet.config.cross_attention_dim, len(components.text_encoders) == 2
    told: dict[str, Any] = {"device": META, "dtype": torch.bfloat16}
    one, two = (Conditioning(torch.zeros(1, 77 * n, width, **told), _pooled(pools, **told)) for n in (1, 2))
    changing = EncodedPrompt((Branch(1.0, ((2, one), (9, two))), Branch(0.5, ((9, one),))))
    return Guidance(changing, EncodedPrompt((Branch(1.0, ((9, one),)),)), 7.0)


def _pooled(pools: bool, **told: Any) -> torch.Tensor | None:
    return torch.zeros(1, 32, **told) if pools else None


def walk(model: tuple[Model, Components], scheduler: str, *, keep: Keep | None, tile: int | None) -> torch.Tensor:
    asked, components = model
    values = {"seed": 1, "num_inference_steps": 4, "scheduler": scheduler}
    (request,) = resolve(GenerationRequest.parse(values), asked)
    noises, levels = [ImageNoise(request, device=META) for _ in range(2)], noise_levels(request, components)
    denoiser = Denoiser(
        components,
        guidance=[led(components)] * 2,
        size=(64, 64),
        tiles=Tiles.cover(8, 8, size=tile, overlap=2),
        keep=keep,
        extra_channels=None,
    )
    with torch.inference_mode():
        return SAMPLERS[scheduler](
            denoiser,
            torch.cat([each.initial((1, 4, 8, 8)) for each in noises]),
            levels,
            noise=step_noise([request] * 2, noises, levels, shape=(4, 8, 8), device=META),
            options=SamplerOptions(model_sigmas=components.sigmas),
            on_step=lambda _, denoised: None,
        )


@pytest.mark.parametrize("scheduler", WITHOUT_NUMBERS)
def test_no_sampler_reads_numbers_or_leaves_the_device(model: tuple[Model, Components], scheduler: str) -> None:
    latents = walk(model, scheduler, keep=None, tile=None)

    assert (latents.device, latents.dtype, latents.shape) == (META, torch.float32, (2, 4, 8, 8))


@pytest.mark.parametrize("tile", [None, 6])
@pytest.mark.parametrize("kept", KEPT)
def test_nor_do_masks_and_tiles(model: tuple[Model, Components], kept: str, tile: int | None) -> None:
    latents = walk(model, "euler_a", keep=KEPT[kept], tile=tile)

    assert (latents.device, latents.dtype) == (META, torch.float32)
