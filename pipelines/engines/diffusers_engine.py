"""The engine that paints: diffusers' models under the studio's own denoising loop and samplers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import diffusers
import torch
import transformers
from PIL import Image

from pipelines.runtime import autoencoding
from pipelines.runtime.adapters.wardrobe import Wardrobe
from pipelines.runtime.batching import BatchTrials
from pipelines.runtime.conditioning import PromptEncoder, Reading
from pipelines.runtime.denoiser import Guidance
from pipelines.runtime.device import DeviceInfo, describe_device
from pipelines.runtime.hires import stretch_latents, stretch_pictures
from pipelines.runtime.loading import Components, ModelCache
from pipelines.runtime.recovery import Attempts, run_alone
from pipelines.runtime.sampling import Denoised, count_steps, denoise, latent_tiles
from pipelines.runtime.upscaling import Upscalers
from pipelines.spec.canvas import Canvas, prepare_canvas
from pipelines.spec.engine import GeneratedImage, Inputs, Step, shared_fields
from pipelines.spec.hires import Enlargement, second_pass
from pipelines.spec.model import Model
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.schedulers import SCHEDULERS, prompt_steps, told_steps
from pipelines.spec.upscalers import UPSCALERS, LatentUpscaler

BATCH_SIZE = 8
"""Pictures that may share a call of the U-Net."""

REBUILT_SHARE = 8
"""So small a part of the device's memory may hold what LoRAs of many numbers (LoHa, LoKr) make of their few."""

Provenance = dict[str, str | int | float | bool]

_Preview = Callable[[], Image.Image] | None

_Report = Callable[[int, int, int, _Preview], None]
"""Called with how many pictures a batch has, and then what `sampling.Progress` is called with."""


@dataclass(frozen=True)
class _Job:
    """What all pictures of a call of `generate` share."""

    inputs: Inputs
    first: Attempts
    """Runs the first pass."""
    last: Attempts
    """Runs the second pass if there is one, and decodes: the same as `first` where that is one model."""
    on_step: Callable[[Step], None]


@dataclass(frozen=True)
class _Pass:
    """One pass over some pictures."""

    inputs: Inputs
    attempts: Attempts
    """Runs its model."""
    canvas: Canvas
    report: _Report
    passes: Sequence[ResolvedRequest]
    """All that are made over one of the pictures, this one among them."""
    begun: torch.Tensor | None = None
    """(batch, channels, height, width): what a second pass starts from."""


@dataclass(frozen=True)
class _Painted:
    """Pictures that are to be decoded, and what made them."""

    latents: torch.Tensor
    """(batch, channels, height, width)."""
    changes: Sequence[Image.Image | None]
    """See `Denoised.changes`."""
    provenance: Provenance


class DiffusersEngine:
    """Runs Stable Diffusion 1.x and XL: text-to-image, also painted again at a larger size, image-to-image, inpaint.

    Pictures that differ in prompts, guidance and seeds only are denoised together. Each draws its noise from its own
    generators, and as many share a batch as can without a bit of any changing: the same request gives the same pixels
    alone, in any batch and at any position. On an accelerator that is so but for rounding, and to the bit where
    `batch_size` is 1.

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
        self._wardrobe = Wardrobe()
        self._trials = BatchTrials()
        self._upscalers = Upscalers(self._device.device)
        self._batch_size = batch_size

    @property
    def loaded_models(self) -> tuple[str, ...]:
        """Names of the models in memory, the one used last at the end."""
        return self._models.names

    def generate(
        self, requests: Sequence[ResolvedRequest], inputs: Inputs, on_step: Callable[[Step], None]
    ) -> Iterator[GeneratedImage]:
        """Yield one picture per request; see `pipelines.spec.engine.Engine.generate`."""
        first = last = self._attempts(inputs.model)
        if inputs.hires_model is not None:
            last = self._attempts(inputs.hires_model)
        job = _Job(inputs, first, last, on_step)
        done = 0
        for _, group in groupby(requests, shared_fields):
            alike = tuple(group)
            for each in (first, last):
                each.wear(alike[0].loras)
            canvas, of_upscaler = self._prepare(alike[0], job, index=done)
            end = done + len(alike)
            if alike[0].paints_nothing:
                yield from self._as_prepared(alike, canvas, of_upscaler, on_step=on_step, index=done)
                done = end
            while done < end:
                # 1. Denoise as many as fit, and again if they are to be larger.
                for painted in self._paint(alike[done - end :], canvas, job, index=done):
                    # 2. Decode one by one: NaN or lack of memory costs a second attempt, but no denoising again.
                    for latents, change in zip(torch.split(painted.latents, 1), painted.changes, strict=True):
                        picture, provenance = last.run(partial(self._develop, latents))
                        provenance |= painted.provenance | of_upscaler
                        if canvas.is_mask_blank:
                            provenance["blank_mask"] = True
                        if first.reduced_memory or last.reduced_memory:
                            provenance["reduced_memory"] = True
                        # 3. Put back, bit for bit, what the mask keeps.
                        yield GeneratedImage(done, alike[done - end], canvas.finish(picture, change=change), provenance)
                        done += 1

    def _prepare(self, request: ResolvedRequest, job: _Job, *, index: int) -> tuple[Canvas, Provenance]:
        """Return what a picture starts from, and what that depends on beside the request."""
        if request.upscaler in {None, "lanczos"}:
            return prepare_canvas(request, job.inputs), {}
        waiting = Step(index, 0, max(1, _steps(request)))

        def prepare() -> tuple[Canvas, Provenance]:
            upscaler = self._upscalers.of(str(request.upscaler), job.inputs.upscaler)
            enlarge = partial(upscaler.enlarge, on_tile=partial(job.on_step, waiting))
            return prepare_canvas(request, job.inputs, enlarge=enlarge), upscaler.provenance

        for each in (job.first, job.last):
            each.rest()
        return run_alone(prepare, models=self._models, device=str(self._device.device), forget=self._forget)

    def _as_prepared(
        self,
        requests: Sequence[ResolvedRequest],
        canvas: Canvas,
        of_upscaler: Provenance,
        *,
        on_step: Callable[[Step], None],
        index: int,
    ) -> Iterator[GeneratedImage]:
        """Yield pictures of which nothing is repainted (strength 0): no model is loaded."""
        assert canvas.init_image is not None
        made_by = {**self._of_machine(), **of_upscaler, "evaluations": 0}
        for position, request in enumerate(requests, start=index):
            on_step(Step(position, 1, 1))
            yield GeneratedImage(position, request, canvas.init_image, made_by)

    def _attempts(self, model: Model) -> Attempts:
        return Attempts(self._models, model, device=str(self._device.device), forget=self._forget)

    def _forget(self) -> None:
        """Drop what is kept beside the models and can be read again."""
        self._wardrobe.forget()
        self._upscalers.forget()

    def _paint(
        self, requests: Sequence[ResolvedRequest], canvas: Canvas, job: _Job, *, index: int
    ) -> Iterator[_Painted]:
        """Yield the first of some pictures that differ in their own fields only: as many as fit into one first pass.

        Args:
            requests: at least one.
            canvas: the prepared input images.
            job: the models.
            index: of the first picture within the job.
        """
        size = requests[0].enlargement
        larger = [second_pass(request) for request in requests] if size is not None else []
        more_steps = _steps(larger[0]) if larger else 0
        first_report = _first_reporter(job.on_step, index=index, more_steps=more_steps)
        passes = (requests[0], *larger[:1])
        if job.last is not job.first:
            job.last.rest()  # what it painted the batch before with may have to make room
        first = self._denoise(requests, _Pass(job.inputs, job.first, canvas, first_report, passes))
        if size is None:
            yield _Painted(first.latents, first.changes, _of_passes(first))
            return
        begun, of_upscaler = self._enlarge(first.latents, requests[0], size, job)
        done, number = 0, len(first.latents)
        while done < number:
            report = _second_reporter(job.on_step, index=index, first=first, more_steps=more_steps, done=done)
            one_pass = _Pass(job.inputs, job.last, Canvas(), report, passes, begun[done:])
            second = self._denoise(larger[done:number], one_pass)
            yield _Painted(second.latents, second.changes, {**_of_passes(first, second), **of_upscaler})
            done += len(second.latents)

    def _enlarge(
        self, latents: torch.Tensor, request: ResolvedRequest, size: Enlargement, job: _Job
    ) -> tuple[torch.Tensor, Provenance]:
        """Return what the second pass starts from, and what that depends on beside the request."""
        name = str(request.hires_upscaler)
        row = UPSCALERS.get(name)
        if isinstance(row, LatentUpscaler):
            factor = request.height // latents.shape[2]
            job.first.rest()
            return stretch_latents(latents, row, size, pixels_per_latent=factor), {}
        upscaler = self._upscalers.of(name, job.inputs.hires_upscaler)
        return stretch_pictures(latents, upscaler, size, first=job.first, last=job.last), upscaler.provenance

    def _denoise(self, requests: Sequence[ResolvedRequest], one_pass: _Pass) -> Denoised:
        """Denoise the first of some pictures: as many as memory allows, and no batch changes a bit of."""
        most = 1 if one_pass.attempts.reduced_memory else min(len(requests), self._batch_size)
        return one_pass.attempts.run(partial(self._denoise_at_once, requests, one_pass), at_once=most)

    def _denoise_at_once(
        self, requests: Sequence[ResolvedRequest], one_pass: _Pass, components: Components, at_once: int
    ) -> Denoised:
        """Denoise `at_once` of some pictures, or fewer."""
        inputs, first = one_pass.inputs, one_pass.passes[0]
        passes = [count_steps(each, components) for each in one_pass.passes]
        room = 0 if one_pass.attempts.reduced_memory else self._device.total_bytes // REBUILT_SHARE
        worn = requests[0].loras
        with self._wardrobe.wear(components, worn, inputs.loras, passes=passes, max_rebuilt_bytes=room) as loras:
            reading = Reading(
                {**inputs.embeddings, **loras.embeddings},
                loras.on_text_encoders,
                first_steps=None
                if one_pass.begun is None
                else prompt_steps(first.scheduler, first.num_inference_steps),
            )
            guidance = [
                Guidance(
                    prompt=self._prompts.encode(request, components=components, reading=reading),
                    negative_prompt=self._prompts.encode_negative(request, components=components, reading=reading),
                    scale=request.guidance_scale,
                )
                for request in requests[:at_once]
            ]
            number = 1
            if not SCHEDULERS[requests[0].scheduler].one_image_at_a_time:
                size = latent_tiles(requests[0], components).size
                number = self._trials.most(components, guidance, size=size, loras=loras.on_unet)
            return denoise(
                requests[:number],
                components=components,
                canvas=one_pass.canvas,
                guidance=guidance[:number],
                loras=loras,
                progress=partial(one_pass.report, number),
                begun=None if one_pass.begun is None else one_pass.begun[:number],
            )

    def _develop(self, latents: torch.Tensor, components: Components, _: int) -> tuple[Image.Image, Provenance]:
        pixels = autoencoding.decode(latents, components=components)
        return autoencoding.to_image(pixels), self._provenance(components)

    def _provenance(self, components: Components) -> Provenance:
        """Return what the pixels depend on beside the request, but for the passes."""
        precision = components.precision
        return {
            **self._of_machine(),
            "dtype": str(precision.dtype).removeprefix("torch."),
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
            **({"vae_upcast": True} if precision.vae_upcast else {}),
        }

    def _of_machine(self) -> Provenance:
        return {
            "engine": "diffusers",
            "device": self._device.name,
            "torch": str(torch.__version__),
            **_processor(self._device),
        }


def _first_reporter(on_step: Callable[[Step], None], *, index: int, more_steps: int) -> _Report:
    """Return what tells the caller about the steps of a first pass.

    Args:
        on_step: the caller.
        index: of the batch's first picture.
        more_steps: those of the second pass.
    """

    def report(number: int, step: int, num_steps: int, preview: _Preview) -> None:
        on_step(Step(index, step, num_steps + more_steps, preview, images_at_once=number))

    return report


def _second_reporter(
    on_step: Callable[[Step], None], *, index: int, first: Denoised, more_steps: int, done: int
) -> _Report:
    """Return what tells the caller about the steps of a second pass.

    They are counted after those of the first, and for all pictures of its batch: a step of some of them counts for
    their share, so that the count never falls.

    Args:
        on_step: the caller.
        index: of the batch's first picture.
        first: the first pass.
        more_steps: those of the second pass.
        done: how many pictures of the batch have had theirs.
    """
    batch = len(first.latents)

    def report(number: int, step: int, num_steps: int, preview: _Preview) -> None:
        told = int(more_steps * (done + number * step / num_steps) / batch)
        on_step(Step(index, first.num_steps + told, first.num_steps + more_steps, preview, images_at_once=batch))

    return report


def _steps(request: ResolvedRequest) -> int:
    return told_steps(request.scheduler, request.num_inference_steps)


def _of_passes(first: Denoised, second: Denoised | None = None) -> Provenance:
    last = second or first
    made: Provenance = {"model_fingerprint": first.model_fingerprint, "evaluations": first.evaluations}
    if second is not None:
        made["evaluations"] = first.evaluations + second.evaluations
    if last.model_fingerprint != first.model_fingerprint:
        made["hires_model_fingerprint"] = last.model_fingerprint
    if len(last.latents) > 1:
        made["images_at_once"] = len(last.latents)
    return {**made, **{f"lora {name}": audit for name, audit in first.loras.items()}}


def _processor(device: DeviceInfo) -> Provenance:
    """How sums are split among threads and vector lanes shows in their last bit, and so in single pixels."""
    if device.kind != "cpu":
        return {}
    return {"threads": torch.get_num_threads(), "instructions": torch.backends.cpu.get_cpu_capability()}
