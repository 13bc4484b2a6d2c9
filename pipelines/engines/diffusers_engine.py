"""The engine that paints: diffusers' components under the studio's own denoising loop."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import diffusers
import torch
import transformers
from PIL import Image

from pipelines.runtime import autoencoding
from pipelines.runtime.conditioning import PromptEncoder
from pipelines.runtime.device import DeviceInfo, describe_device
from pipelines.runtime.loading import Components, ModelCache
from pipelines.runtime.recovery import Attempts
from pipelines.runtime.sampling import Denoised, Progress, denoise
from pipelines.runtime.starting import Canvas
from pipelines.spec.engine import GeneratedImage, Inputs, Step
from pipelines.spec.geometry import fit, paste_back, prepare_mask
from pipelines.spec.request import ResolvedRequest


class DiffusersEngine:
    """Runs Stable Diffusion 1.x and XL: text-to-image, image-to-image, inpaint.

    Pictures are made one at a time, each from its own generator: the same request gives the same pixels alone, in any
    batch and at any position.

    Args:
        device: "auto", "cpu", "mps", "cuda:0", …
        dtype: what U-Net and text encoders run in; None is the best of the device.
        cache_bytes: how much memory loaded models may hold together; None is half of the device's.
    """

    def __init__(
        self, *, device: str = "auto", dtype: torch.dtype | None = None, cache_bytes: int | None = None
    ) -> None:
        self._device = describe_device(device)
        self._models = ModelCache(
            self._device.device,
            dtype=self._device.dtypes[0] if dtype is None else dtype,
            max_bytes=self._device.total_bytes // 2 if cache_bytes is None else cache_bytes,
        )
        self._prompts = PromptEncoder()

    @property
    def loaded_models(self) -> tuple[str, ...]:
        """Names of the models in memory, the one used last at the end."""
        return self._models.names

    def generate(
        self, requests: Sequence[ResolvedRequest], inputs: Inputs, on_step: Callable[[Step], None]
    ) -> Iterator[GeneratedImage]:
        """Yield one picture per request; see `pipelines.spec.engine.Engine.generate`."""
        canvas = _fit_inputs(inputs, width=requests[0].width, height=requests[0].height)
        attempts = Attempts(self._models, inputs.model, device=str(self._device.device))
        for index, request in enumerate(requests):
            progress = _reporter(on_step, index)
            # 1. Denoise: NaN or lack of memory may cost a second attempt.
            denoised = attempts.run(partial(self._denoise, request, canvas=canvas, progress=progress))
            # 2. Decode: the same, without denoising again.
            picture, provenance = attempts.run(partial(self._develop, denoised))
            # 3. Put back, bit for bit, what the mask keeps.
            if canvas.init_image is not None and canvas.mask_image is not None:
                picture = paste_back(picture, original=canvas.init_image, mask=canvas.mask_image)
            if attempts.reduced_memory:
                provenance["reduced_memory"] = True
            yield GeneratedImage(index, request, picture, provenance)

    def _denoise(
        self, request: ResolvedRequest, components: Components, *, canvas: Canvas, progress: Progress
    ) -> Denoised:
        is_guided = request.guidance_scale != 1
        return denoise(
            request,
            components=components,
            canvas=canvas,
            prompt=self._prompts.encode(request.prompt, components=components),
            negative_prompt=self._prompts.encode(request.negative_prompt, components=components, negative=True)
            if is_guided
            else None,
            progress=progress,
        )

    def _develop(
        self, denoised: Denoised, components: Components
    ) -> tuple[Image.Image, dict[str, str | int | float | bool]]:
        pixels = autoencoding.decode(denoised.latents, components=components)
        return autoencoding.to_image(pixels), self._provenance(components, evaluations=denoised.evaluations)

    def _provenance(self, components: Components, *, evaluations: int) -> dict[str, str | int | float | bool]:
        """Return what the pixels depend on beside the request."""
        precision = components.precision
        return {
            "engine": "diffusers",
            "device": self._device.name,
            "dtype": str(precision.dtype).removeprefix("torch."),
            "model_fingerprint": components.fingerprint,
            "evaluations": evaluations,
            "torch": str(torch.__version__),
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
            **_processor(self._device),
            **({"vae_upcast": True} if precision.vae_upcast else {}),
        }


def _processor(device: DeviceInfo) -> dict[str, str | int | float | bool]:
    """How sums are split among threads and vector lanes shows in their last bit, and so in single pixels."""
    if device.kind != "cpu":
        return {}
    return {"threads": torch.get_num_threads(), "instructions": torch.backends.cpu.get_cpu_capability()}


def _reporter(on_step: Callable[[Step], None], index: int) -> Progress:
    """Return what tells the caller about the steps of one picture."""

    def progress(step: int, num_steps: int, preview: Callable[[], Image.Image] | None) -> None:
        on_step(Step(index, step, num_steps, preview))

    return progress


def _fit_inputs(inputs: Inputs, *, width: int, height: int) -> Canvas:
    """Return the input images at the size of the request."""
    if inputs.init_image is None:
        return Canvas()
    mask = inputs.mask_image
    if mask is not None:
        mask = prepare_mask(mask, init_size=inputs.init_image.size, width=width, height=height)
    return Canvas(fit(inputs.init_image, width=width, height=height), mask)
