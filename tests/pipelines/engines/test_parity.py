"""With the same noise levels, prompts and start, the engine paints what diffusers' own pipelines paint.

Samplers are compared with k-diffusion elsewhere; here Euler stands for all, and everything around it is compared:
encoding, guidance, SDXL's conditions, timesteps, decoding.
"""

import json
import shutil
from dataclasses import replace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.engines.diffusers_engine import DiffusersEngine
from pipelines.runtime.sigmas import ModelSigmas, make_sigmas
from pipelines.spec.engine import Inputs
from pipelines.spec.model import Model
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import resolve
from pipelines.spec.resolved import ResolvedRequest

STEPS = 5
CLASSES = {
    ("sd1", "text-to-image"): diffusers.StableDiffusionPipeline,
    ("sd1", "image-to-image"): diffusers.StableDiffusionImg2ImgPipeline,
    ("sd1-v", "text-to-image"): diffusers.StableDiffusionPipeline,
    ("sdxl", "text-to-image"): diffusers.StableDiffusionXLPipeline,
    ("sdxl", "image-to-image"): diffusers.StableDiffusionXLImg2ImgPipeline,
}
CASES: dict[str, dict[str, Any]] = {
    "guided": {},
    "unguided": {"guidance_scale": 1.0},
    "negative prompt": {"negative_prompt": "blurry"},
    "empty prompt": {"prompt": "", "seed": 2**62},
    "karras": {"noise_schedule": "karras"},
    "beta": {"noise_schedule": "beta"},
}


class Bench:
    """Runs one request on the studio's engine and on diffusers' pipeline, each keeping its models loaded."""

    def __init__(self, models: dict[str, Model], init_image: Image.Image) -> None:
        self._models = models
        self._init_image = init_image
        self._engine = DiffusersEngine(device="cpu")
        self._pipelines: dict[tuple[str, str], Any] = {}

    def ours(self, family: str, task: str, **changes: Any) -> Image.Image:
        inputs = Inputs(self._models[family], None if task == "text-to-image" else self._init_image)
        (image,) = self._engine.generate([self._request(family, task, **changes)], inputs, lambda step: None)
        return image.image

    def theirs(self, family: str, task: str, **changes: Any) -> Image.Image:
        request, pipeline = self._request(family, task, **changes), self._pipeline(family, task)
        pipeline.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
        trained = diffusers.DDPMScheduler.from_config(pipeline.scheduler.config).alphas_cumprod
        levels = make_sigmas(request.noise_schedule, ModelSigmas.from_alphas_cumprod(trained), STEPS)
        options: dict[str, Any] = {"width": request.width, "height": request.height}
        if task == "image-to-image":
            levels = levels[-4:]  # int(0.6 * 5) = 3 and one more level
            options = {"image": self._latents(pipeline), "strength": 1.0}
        image: Image.Image = pipeline(
            request.prompt,
            negative_prompt=request.negative_prompt or None,
            sigmas=levels.tolist(),
            num_inference_steps=len(levels) - 1,
            guidance_scale=request.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(request.seed),
            **options,
        ).images[0]
        return image

    def _request(self, family: str, task: str, **changes: Any) -> ResolvedRequest:
        values = {
            "prompt": "a red house",
            "num_inference_steps": STEPS,
            "guidance_scale": 5.0,
            "scheduler": "euler",
            "seed": 7,
            "width": 64,
            "height": 64,
            **({} if task == "text-to-image" else {"init_image": "0" * 64, "strength": 0.5}),
        }
        return resolve(GenerationRequest(**{**values, **changes}), self._models[family], input_size=(64, 64))[0]

    def _latents(self, pipeline: Any) -> torch.Tensor:
        """The middle of the posterior, which the engine takes; the pipelines draw from it."""
        pixels = torch.from_numpy(np.asarray(self._init_image, dtype=np.float32) / 127.5 - 1)
        with torch.inference_mode():
            posterior = pipeline.vae.encode(pixels.permute(2, 0, 1)[None]).latent_dist
        latents: torch.Tensor = posterior.mode() * pipeline.vae.config.scaling_factor
        return latents

    def _pipeline(self, family: str, task: str) -> Any:
        if (family, task) not in self._pipelines:
            options = {"safety_checker": None, "requires_safety_checker": False} if family != "sdxl" else {}
            pipeline = CLASSES[family, task].from_pretrained(
                self._models[family].path, local_files_only=True, **options
            )
            pipeline.set_progress_bar_config(disable=True)
            self._pipelines[family, task] = pipeline
        return self._pipelines[family, task]


@pytest.fixture(scope="module")
def bench(sd1: Model, sdxl: Model, init_image: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    predicts_v = tmp_path_factory.mktemp("models") / "sd1-v"
    shutil.copytree(sd1.path, predicts_v)
    config = predicts_v / "scheduler" / "scheduler_config.json"
    facts = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    config.write_text(json.dumps(json.loads(config.read_text()) | facts))
    return Bench({"sd1": sd1, "sdxl": sdxl, "sd1-v": replace(sd1, name="sd1-v", path=predicts_v)}, init_image)


def assert_same_pixels(ours: Image.Image, theirs: Image.Image) -> None:
    """Noise levels and timesteps are float32 on both sides, but not rounded at the same places."""
    assert np.asarray(theirs).std() > 5, "a flat picture proves nothing"
    difference = np.abs(np.asarray(ours, dtype=int) - np.asarray(theirs, dtype=int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.08


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("task", ["text-to-image", "image-to-image"])
@pytest.mark.parametrize("case", CASES)
def test_the_engine_paints_what_diffusers_paints(bench: Bench, family: str, task: str, case: str) -> None:
    ours, theirs = (paint(family, task, **CASES[case]) for paint in (bench.ours, bench.theirs))

    assert_same_pixels(ours, theirs)


@pytest.mark.parametrize("noise_schedule", ["uniform", "karras"])
def test_velocity_and_a_last_level_of_pure_noise(bench: Bench, noise_schedule: str) -> None:
    """arXiv:2305.08891, as models say it in scheduler_config.json: v_prediction with rescale_betas_zero_snr."""
    ours, theirs = (
        paint("sd1-v", "text-to-image", noise_schedule=noise_schedule) for paint in (bench.ours, bench.theirs)
    )

    assert_same_pixels(ours, theirs)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_sides_that_halve_unevenly(bench: Bench, family: str) -> None:
    changes = {"width": 72, "height": 104}
    assert_same_pixels(bench.ours(family, "text-to-image", **changes), bench.theirs(family, "text-to-image", **changes))
