"""The one denoising loop. It drives diffusers' U-Net and schedulers; tasks differ only in where it starts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from pipelines.runtime.conditioning import Conditioning
from pipelines.runtime.guards import Stage, check_finite
from pipelines.runtime.loading import Components
from pipelines.runtime.noise import generator_for
from pipelines.runtime.preview import LatentPreview, predicted_original
from pipelines.runtime.scheduling import make_scheduler, set_timesteps, step_noise
from pipelines.runtime.starting import Canvas, Start, start_denoising
from pipelines.spec.request import ResolvedRequest

Progress = Callable[[int, int, Callable[[], Image.Image] | None], None]
"""Called with the steps done, the steps in all, and what draws a preview."""


@dataclass(frozen=True)
class Denoised:
    """Finished latents and what they cost."""

    latents: torch.Tensor
    """(1, channels, height, width), float32."""
    evaluations: int
    """How often the U-Net ran."""


@torch.inference_mode()
def denoise(
    request: ResolvedRequest,
    *,
    components: Components,
    canvas: Canvas,
    prompt: Conditioning,
    negative_prompt: Conditioning | None,
    progress: Progress,
) -> Denoised:
    """Return the latents of one picture. They depend on the arguments alone, and nothing is left behind.

    Args:
        request: what to paint.
        components: the loaded model.
        canvas: the input images, fitted to the size of the request.
        prompt: the encoded prompt.
        negative_prompt: the encoded negative prompt; None runs without guidance, at half the cost.
        progress: called before the first and after every step; what it raises ends the work.

    Raises:
        NotFinite: a model produced NaN or infinity.
    """
    generator = generator_for(request.seed)
    scheduler = make_scheduler(
        components.scheduler_config, scheduler=request.scheduler, noise_schedule=request.noise_schedule
    )
    timesteps = set_timesteps(
        scheduler,
        num_inference_steps=request.num_inference_steps,
        strength=request.strength,
        device=components.device,
    )
    start = start_denoising(
        request,
        components=components,
        canvas=canvas,
        scheduler=scheduler,
        timestep=timesteps[:1],
        generator=generator,
    )
    denoiser = _Denoiser(
        components,
        prompt=prompt,
        negative_prompt=negative_prompt,
        guidance_scale=request.guidance_scale,
        size=(request.height, request.width),
        extra_channels=start.extra_channels,
    )
    latents = _sample(
        denoiser, scheduler=scheduler, start=start, timesteps=timesteps, generator=generator, progress=progress
    )
    return Denoised(check_finite(latents, Stage.UNET), len(timesteps))


def _sample(
    denoiser: "_Denoiser",
    *,
    scheduler: Any,
    start: Start,
    timesteps: torch.Tensor,
    generator: torch.Generator,
    progress: Progress,
) -> torch.Tensor:
    """Walk from noise to latents. A second-order scheduler lists every step but the last twice."""
    latents = start.latents
    noise = step_noise(scheduler, generator)
    num_steps = -(-len(timesteps) // scheduler.order)
    progress(0, num_steps, None)
    for index, timestep in enumerate(timesteps):
        scaled = scheduler.scale_model_input(latents, timestep)
        prediction = denoiser(scaled, timestep)
        latents = scheduler.step(prediction, timestep, latents, **noise, return_dict=False)[0]
        following = timesteps[index + 1] if index + 1 < len(timesteps) else None
        if start.keep is not None:
            latents = start.keep(latents, following)
        if following is None or (index + 1) % scheduler.order == 0:
            preview = _preview(
                denoiser.preview, scheduler=scheduler, scaled=scaled, prediction=prediction, timestep=timestep
            )
            progress(-(-(index + 1) // scheduler.order), num_steps, preview)
    return latents


class _Denoiser:
    """The U-Net under classifier-free guidance (arXiv:2207.12598): both branches in one batch of two."""

    def __init__(
        self,
        components: Components,
        *,
        prompt: Conditioning,
        negative_prompt: Conditioning | None,
        guidance_scale: float,
        size: tuple[int, int],
        extra_channels: torch.Tensor | None,
    ) -> None:
        branches = [prompt] if negative_prompt is None else [negative_prompt, prompt]
        self.preview = components.preview
        self._unet = components.unet
        self._dtype = components.precision.dtype
        self._guidance_scale = guidance_scale
        self._num_branches = len(branches)
        self._embeds = torch.cat([branch.prompt_embeds for branch in branches])
        self._added = _size_conditioning(branches, size=size)
        self._extra_channels = None if extra_channels is None else torch.cat([extra_channels] * len(branches))

    def __call__(self, scaled: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """Return the guided prediction for (1, channels, height, width), float32 whatever the U-Net runs in."""
        batch = torch.cat([scaled] * self._num_branches)
        if self._extra_channels is not None:
            batch = torch.cat([batch, self._extra_channels], dim=1)
        predictions: torch.Tensor = self._unet(
            batch.to(self._dtype),
            timestep,
            encoder_hidden_states=self._embeds,
            added_cond_kwargs=self._added,
            return_dict=False,
        )[0].float()
        if self._num_branches == 1:
            return predictions
        unconditional, conditional = predictions.chunk(2)
        return unconditional + self._guidance_scale * (conditional - unconditional)


def _size_conditioning(branches: list[Conditioning], *, size: tuple[int, int]) -> dict[str, torch.Tensor] | None:
    """SDXL is told the pooled prompt and, in pixels, original size, crop and target size (arXiv:2307.01952, 2.2)."""
    pooled = [branch.pooled_prompt_embeds for branch in branches if branch.pooled_prompt_embeds is not None]
    if not pooled:
        return None
    time_ids = torch.tensor([[*size, 0, 0, *size]], dtype=pooled[0].dtype, device=pooled[0].device)
    return {"text_embeds": torch.cat(pooled), "time_ids": time_ids.repeat(len(branches), 1)}


def _preview(
    colours: LatentPreview, *, scheduler: Any, scaled: torch.Tensor, prediction: torch.Tensor, timestep: torch.Tensor
) -> Callable[[], Image.Image]:
    """Return what draws the picture the denoiser sees behind the noise. Nothing is computed until it is called."""

    def draw() -> Image.Image:
        original = predicted_original(scheduler, scaled=scaled, prediction=prediction, timestep=timestep)
        return colours.draw(original)

    return draw
