"""Every task, scheduler and noise schedule gives exactly the pixels of diffusers' own pipelines, on the processor."""

from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.engines.diffusers_engine import DiffusersEngine
from pipelines.spec.engine import Inputs
from pipelines.spec.geometry import paste_back, prepare_mask
from pipelines.spec.model import Model
from pipelines.spec.request import ResolvedRequest
from pipelines.spec.schedulers import NOISE_SCHEDULES, SCHEDULERS

STEPS = 5
TASKS = ("text-to-image", "image-to-image", "inpaint", "inpaint-9")
PAIRS = [
    (name, noise) for name, spec in SCHEDULERS.items() for noise in NOISE_SCHEDULES if noise in spec.noise_schedules
]
CLASSES = {
    ("sd1", "text-to-image"): diffusers.StableDiffusionPipeline,
    ("sd1", "image-to-image"): diffusers.StableDiffusionImg2ImgPipeline,
    ("sd1", "inpaint"): diffusers.StableDiffusionInpaintPipeline,
    ("sdxl", "text-to-image"): diffusers.StableDiffusionXLPipeline,
    ("sdxl", "image-to-image"): diffusers.StableDiffusionXLImg2ImgPipeline,
    ("sdxl", "inpaint"): diffusers.StableDiffusionXLInpaintPipeline,
}


class Bench:
    """Runs one request on the studio's engine and on diffusers' pipeline, each keeping its models loaded."""

    def __init__(self, models: dict[tuple[str, bool], Model], init_image: Image.Image, mask_image: Image.Image) -> None:
        self._models = models
        self._init_image = init_image
        self._mask_image = mask_image
        self._engine = DiffusersEngine(device="cpu")
        self._pipelines: dict[tuple[str, str], Any] = {}

    def ours(self, family: str, task: str, **changes: Any) -> Image.Image:
        inputs = self._inputs(family, task)
        request = self.request(task, **changes)
        (image,) = self._engine.generate([request], inputs, lambda step: None)
        assert image.request is request
        return image.image

    def theirs(self, family: str, task: str, **changes: Any) -> Image.Image:
        request = self.request(task, **changes)
        pipeline = self._pipeline(family, task)
        spec = SCHEDULERS[request.scheduler]
        config = {**spec.config, **NOISE_SCHEDULES[request.noise_schedule].config}
        pipeline.scheduler = getattr(diffusers, spec.class_name).from_config(self._scheduler_config, **config)
        kwargs: dict[str, Any] = {"width": request.width, "height": request.height}
        if task != "text-to-image":
            kwargs = {"image": self._init_image, "strength": request.strength}
        if task.startswith("inpaint"):
            kwargs |= {"mask_image": self._mask_image, "width": 64, "height": 64}
        image = pipeline(
            request.prompt,
            negative_prompt=request.negative_prompt or None,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(request.seed),
            **kwargs,
        ).images[0]
        if task.startswith("inpaint"):
            mask = prepare_mask(self._mask_image, init_size=(64, 64), width=64, height=64)
            image = paste_back(image, original=self._init_image, mask=mask)
        return image

    @staticmethod
    def request(task: str, **changes: Any) -> ResolvedRequest:
        values = {
            "prompt": "a red house",
            "negative_prompt": "",
            "model": "tiny",
            "init_image": None if task == "text-to-image" else "0" * 64,
            "mask_image": "1" * 64 if task.startswith("inpaint") else None,
            "width": 64,
            "height": 64,
            "num_inference_steps": STEPS,
            "guidance_scale": 5.0,
            "strength": None if task == "text-to-image" else 0.6,
            "scheduler": "euler",
            "noise_schedule": "default",
            "seed": 7,
            "output_format": "png",
        }
        return ResolvedRequest.model_validate({**values, **changes})

    def _inputs(self, family: str, task: str) -> Inputs:
        model = self._models[family, task == "inpaint-9"]
        init_image = None if task == "text-to-image" else self._init_image
        return Inputs(model, init_image, self._mask_image if task.startswith("inpaint") else None)

    def _pipeline(self, family: str, task: str) -> Any:
        if (family, task) not in self._pipelines:
            model = self._models[family, task == "inpaint-9"]
            options = {"safety_checker": None, "requires_safety_checker": False} if family == "sd1" else {}
            pipeline_class = CLASSES[family, task.removesuffix("-9")]
            pipeline = pipeline_class.from_pretrained(model.path, local_files_only=True, **options)
            pipeline.set_progress_bar_config(disable=True)
            _align(pipeline)
            self._scheduler_config = pipeline.scheduler.config
            self._pipelines[family, task] = pipeline
        return self._pipelines[family, task]


@pytest.fixture(scope="module")
def bench(
    sd1: Model, sd1_inpaint: Model, sdxl: Model, sdxl_inpaint: Model, init_image: Image.Image, mask_image: Image.Image
) -> Bench:
    models = {("sd1", False): sd1, ("sd1", True): sd1_inpaint, ("sdxl", False): sdxl, ("sdxl", True): sdxl_inpaint}
    return Bench(models, init_image, mask_image)


def _align(pipeline: Any) -> None:
    """Stock loading leaves weights at any offset of the mapped file, which changes the last bit of sums."""
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            for parameter in component.parameters():
                parameter.data = parameter.data.clone()


def assert_same_pixels(ours: Image.Image, theirs: Image.Image) -> None:
    assert np.asarray(theirs).std() > 5, "a flat picture proves nothing"
    differing = np.count_nonzero(np.asarray(ours) != np.asarray(theirs))
    assert differing == 0


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("scheduler", "noise_schedule"), PAIRS)
def test_sd1_is_diffusers_to_the_bit(bench: Bench, task: str, scheduler: str, noise_schedule: str) -> None:
    changes = {"scheduler": scheduler, "noise_schedule": noise_schedule}
    assert_same_pixels(bench.ours("sd1", task, **changes), bench.theirs("sd1", task, **changes))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_sdxl_is_diffusers_to_the_bit(bench: Bench, task: str, scheduler: str) -> None:
    assert_same_pixels(bench.ours("sdxl", task, scheduler=scheduler), bench.theirs("sdxl", task, scheduler=scheduler))


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "changes",
    [
        {"guidance_scale": 1.0},
        {"negative_prompt": "blurry"},
        {"prompt": "", "seed": 2**62},
        {"prompt": "a very long prompt " * 20},
    ],
    ids=["unguided", "negative prompt", "empty prompt", "longer than 77 tokens"],
)
def test_other_fields_are_diffusers_to_the_bit(bench: Bench, family: str, task: str, changes: dict[str, Any]) -> None:
    assert_same_pixels(bench.ours(family, task, **changes), bench.theirs(family, task, **changes))


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("task", TASKS[1:])
@pytest.mark.parametrize("scheduler", ["euler_a", "heun"])
def test_full_strength_is_diffusers_to_the_bit(bench: Bench, family: str, task: str, scheduler: str) -> None:
    changes = {"strength": 1.0, "scheduler": scheduler}
    assert_same_pixels(bench.ours(family, task, **changes), bench.theirs(family, task, **changes))


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_sides_that_halve_unevenly_are_diffusers_to_the_bit(bench: Bench, family: str) -> None:
    changes = {"width": 72, "height": 104}
    assert_same_pixels(bench.ours(family, "text-to-image", **changes), bench.theirs(family, "text-to-image", **changes))
