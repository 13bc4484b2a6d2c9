"""The shipped model folder: stock, small, half precision, and able to paint."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open

from pipelines.pocket.vae_training import new_vae
from pipelines.pocket.weights import WEIGHTS_FOLDER, normalise_latents

_SHIPPED_BYTES = 32 * 1024 * 1024


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    loaded = StableDiffusionPipeline.from_pretrained(WEIGHTS_FOLDER, local_files_only=True, dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_the_folder_is_small_and_half_precision() -> None:
    files = [path for path in WEIGHTS_FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= _SHIPPED_BYTES
    for path in WEIGHTS_FOLDER.rglob("*.safetensors"):
        with safe_open(path, "pt") as tensors:
            names = list(tensors.keys())
            assert {tensors.get_tensor(name).dtype for name in names} <= {torch.float16, torch.int64}


def test_it_is_a_plain_stable_diffusion(pipeline: StableDiffusionPipeline) -> None:
    assert pipeline.vae_scale_factor == 8
    assert pipeline.vae.config.latent_channels == 4
    assert pipeline.unet.config.sample_size == 16
    assert pipeline.scheduler.config.prediction_type == "epsilon"
    assert pipeline.scheduler.config.beta_schedule == "scaled_linear"
    assert pipeline.safety_checker is None


def test_stock_diffusers_paints_without_being_told_a_precision() -> None:
    stock = StableDiffusionPipeline.from_pretrained(WEIGHTS_FOLDER, local_files_only=True)
    stock.set_progress_bar_config(disable=True)
    assert {part.dtype for part in (stock.unet, stock.vae, stock.text_encoder)} == {torch.float32}
    assert stock("a boat", num_inference_steps=1).images[0].size == (128, 128)


@pytest.mark.parametrize(("width", "height"), [(128, 128), (192, 128)])
def test_it_paints_at_its_sizes(pipeline: StableDiffusionPipeline, width: int, height: int) -> None:
    picture = pipeline(
        "a red house 🏠 by the sea",
        width=width,
        height=height,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
    ).images[0]
    assert picture.size == (width, height)
    assert np.asarray(picture).std() > 5


def test_folding_a_scale_into_the_latents_keeps_the_reconstruction(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae, pixels = new_vae().eval(), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        before = vae.encode(pixels).latent_dist.mode()
        shown = vae.decode(before).sample
        mean, deviation = before.mean((0, 2, 3)), before.std((0, 2, 3))
        normalise_latents(vae, mean, deviation)
        after = vae.encode(pixels).latent_dist.mode()
        assert torch.allclose(after.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
        assert torch.allclose(after.std((0, 2, 3)), torch.ones(4), atol=1e-4)
        assert torch.allclose(vae.decode(after).sample, shown, atol=1e-4)
