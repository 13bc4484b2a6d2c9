"""The engine that paints: diffusers' models under the studio's own denoising loop and samplers."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby

import diffusers
import torch
import transformers
from PIL import Image

from pipelines.runtime import autoencoding
from pipelines.runtime.batching import BatchTrials
from pipelines.runtime.conditioning import PromptEncoder
from pipelines.runtime.denoiser import Guidance
from pipelines.runtime.device import DeviceInfo, describe_device
from pipelines.runtime.loading import Components, ModelCache
from pipelines.runtime.recovery import Attempts
from pipelines.runtime.sampling import Denoised, denoise
from pipelines.spec.canvas import Canvas, prepare_canvas
from pipelines.spec.engine import GeneratedImage, Inputs, Step
from pipelines.spec.request import ResolvedRequest
from pipelines.spec.schedulers import SCHEDULERS

BATCH_SIZE = 8
"""Pictures that may share a call of the U-Net."""

OWN_FIELDS = frozenset(
    {"prompt", "negative_prompt", "guidance_scale", "seed", "variation_seed", "variation_strength", "output_format"}
)
"""Fields in which the pictures of one batch may differ."""

Provenance = dict[str, str | int | float | bool]


_Report = Callable[[int, int, int, Callable[[], Image.Image] | None], None]
"""Called with how many pictures a batch has, and then what `sampling.Progress` is called with."""


class DiffusersEngine:
    """Runs Stable Diffusion 1.x and XL: text-to-image, image-to-image, inpaint.

    Pictures that differ in prompts, guidance and seeds only are denoised together. Each draws its noise from its own
    generators, and as many share a batch as can without a bit of any changing: the same request gives the same pixels
    alone, in any batch and at any position.

    Args:
        device: "auto", "cpu", "mps", "cuda:0", …
        dtype: what U-Net and text encoders run in; None is the best of the device.
        cache_bytes: how much memory loaded models may hold together; None is half of the device's.
        batch_size: how many pictures may be denoised together.
    """

    def __init__(
        self,
        *,
        device: str = "auto",
        dtype: torch.dtype | None = None,
        cache_bytes: int | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self._device = describe_device(device)
        self._models = ModelCache(
            self._device.device,
            dtype=self._device.dtypes[0] if dtype is None else dtype,
            max_bytes=self._device.total_bytes // 2 if cache_bytes is None else cache_bytes,
        )
        self._prompts = PromptEncoder()
        self._trials = BatchTrials()
        self._batch_size = batch_size

    @property
    def loaded_models(self) -> tuple[str, ...]:
        """Names of the models in memory, the one used last at the end."""
        return self._models.names

    def generate(
        self, requests: Sequence[ResolvedRequest], inputs: Inputs, on_step: Callable[[Step], None]
    ) -> Iterator[GeneratedImage]:
        """Yield one picture per request; see `pipelines.spec.engine.Engine.generate`."""
        attempts = Attempts(self._models, inputs.model, device=str(self._device.device))
        done = 0
        for _, group in groupby(requests, _shared_fields):
            alike = tuple(group)
            canvas = prepare_canvas(alike[0], inputs)
            while alike:
                # 1. Denoise as many as fit: NaN or lack of memory may cost a second attempt.
                most = 1 if attempts.reduced_memory else min(len(alike), self._batch_size)
                work = partial(self._denoise, alike, canvas=canvas, report=_reporter(on_step, first=done))
                denoised = attempts.run(work, at_once=most)
                # 2. Decode one by one: the same, without denoising again.
                finished = zip(torch.split(denoised.latents, 1), denoised.changes, alike, strict=False)
                for latents, change, request in finished:
                    picture, provenance = attempts.run(partial(self._develop, latents, denoised.evaluations))
                    if len(denoised.latents) > 1:
                        provenance["images_at_once"] = len(denoised.latents)
                    if canvas.is_mask_blank:
                        provenance["blank_mask"] = True
                    if attempts.reduced_memory:
                        provenance["reduced_memory"] = True
                    # 3. Put back, bit for bit, what the mask keeps.
                    yield GeneratedImage(done, request, canvas.finish(picture, change=change), provenance)
                    done += 1
                alike = alike[len(denoised.latents) :]

    def _denoise(
        self,
        requests: Sequence[ResolvedRequest],
        components: Components,
        at_once: int,
        *,
        canvas: Canvas,
        report: _Report,
    ) -> Denoised:
        """Denoise the first of some pictures that differ in their own fields only: `at_once`, or fewer."""
        guidance = [
            Guidance(
                prompt=self._prompts.encode(request, components=components),
                negative_prompt=self._prompts.encode_negative(request, components=components),
                scale=request.guidance_scale,
            )
            for request in requests[:at_once]
        ]
        factor = components.vae_scale_factor
        size = (requests[0].height // factor, requests[0].width // factor)
        number = 1
        if not SCHEDULERS[requests[0].scheduler].one_image_at_a_time:
            number = self._trials.most(components, guidance, size=size)
        return denoise(
            requests[:number],
            components=components,
            canvas=canvas,
            guidance=guidance[:number],
            progress=partial(report, number),
        )

    def _develop(
        self, latents: torch.Tensor, evaluations: int, components: Components, _: int
    ) -> tuple[Image.Image, Provenance]:
        pixels = autoencoding.decode(latents, components=components)
        return autoencoding.to_image(pixels), self._provenance(components, evaluations=evaluations)

    def _provenance(self, components: Components, *, evaluations: int) -> Provenance:
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


def _processor(device: DeviceInfo) -> Provenance:
    """How sums are split among threads and vector lanes shows in their last bit, and so in single pixels."""
    if device.kind != "cpu":
        return {}
    return {"threads": torch.get_num_threads(), "instructions": torch.backends.cpu.get_cpu_capability()}


def _shared_fields(request: ResolvedRequest) -> dict[str, object]:
    return request.model_dump(exclude=set(OWN_FIELDS))


def _reporter(on_step: Callable[[Step], None], *, first: int) -> _Report:
    """Return what tells the caller about the steps of a batch whose first picture has this index."""

    def report(number: int, step: int, num_steps: int, preview: Callable[[], Image.Image] | None) -> None:
        on_step(Step(first, step, num_steps, preview, images_at_once=number))

    return report
