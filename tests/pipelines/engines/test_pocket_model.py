"""The model that ships with the project runs as diffusers runs it, and its previews have its colours."""

from functools import partial
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.engines.diffusers_engine import DiffusersEngine
from pipelines.runtime.sigmas import ModelSigmas, make_sigmas
from pipelines.spec.engine import Inputs, Step
from pipelines.spec.model import Model
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import resolve
from studio.store import find_model

PROMPT = "a red house on a green hill at night"


@pytest.fixture(scope="module")
def pocket(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return find_model("pocket", tmp_path_factory.mktemp("no-other-models"))


def test_the_pocket_model_paints_what_it_paints_in_diffusers(pocket: Model) -> None:
    requests = resolve(GenerationRequest(prompt=PROMPT, seed=7, num_inference_steps=6, scheduler="euler"), pocket)
    (ours,) = DiffusersEngine(device="cpu").generate(requests, Inputs(pocket), lambda step: None)

    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(pocket.path, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    levels = make_sigmas("uniform", ModelSigmas.from_alphas_cumprod(pipeline.scheduler.alphas_cumprod), 6)
    theirs = pipeline(
        PROMPT,
        num_inference_steps=6,
        sigmas=levels.tolist(),
        guidance_scale=requests[0].guidance_scale,
        generator=torch.Generator("cpu").manual_seed(7),
    ).images[0]

    difference = np.abs(np.asarray(ours.image, dtype=int) - np.asarray(theirs, dtype=int))
    assert (difference > 2).mean() < 0.02, "the VAE makes one rounding of a latent into several of a pixel"
    assert difference.mean() < 0.1


def test_previews_have_the_colours_of_the_picture(pocket: Model, tmp_path: Path) -> None:
    """Image-to-image at little strength, so that the latents are those of a picture the VAE knows."""
    rows, columns = np.mgrid[0:128, 0:128]
    bands = np.where((rows < 64)[..., None], (90, 160, 230), (60, 140, 70))
    bands[(rows - 70) ** 2 + (columns - 64) ** 2 < 700] = (210, 40, 40)
    inputs = Inputs(pocket, Image.fromarray(bands.astype(np.uint8)))
    request = GenerationRequest(prompt=PROMPT, seed=7, strength=0.1, init_image="0" * 64)
    previews: list[Image.Image] = []

    def look(step: Step) -> None:
        if step.preview is not None:
            previews.append(step.preview())

    (result,) = DiffusersEngine(device="cpu").generate(resolve(request, pocket), inputs, look)

    small = np.asarray(result.image.resize(previews[-1].size, Image.Resampling.BOX), dtype=float)
    error = np.abs(np.asarray(previews[-1], dtype=float) - small).mean()
    assert error < 40, f"off by {error:.0f} of 255"
    correlate = partial(np.corrcoef, np.asarray(previews[-1], dtype=float).ravel())
    assert correlate(small.ravel())[0, 1] > 0.8
