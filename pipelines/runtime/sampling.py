"""The one denoising loop: from noise levels and a start, through a sampler, to finished latents."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from PIL import Image

from pipelines.runtime.adapters.applied import AppliedLoras
from pipelines.runtime.denoiser import Denoiser, Guidance
from pipelines.runtime.guards import Stage, check_finite
from pipelines.runtime.loading import Components
from pipelines.runtime.noise import BatchNoise, ImageNoise, seeded
from pipelines.runtime.preview import LatentPreview
from pipelines.runtime.samplers import SAMPLERS, BrownianNoise, SamplerOptions, StepNoise
from pipelines.runtime.sigmas import discard_next_to_last, make_sigmas
from pipelines.runtime.starting import Start, start_denoising
from pipelines.runtime.tiling import Tiles
from pipelines.spec.canvas import Canvas
from pipelines.spec.compositing import changed
from pipelines.spec.errors import InvalidRequest
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.schedulers import SCHEDULERS, told_steps
from pipelines.spec.steps import scheduled_steps, steps_to_run

Progress = Callable[[int, int, Callable[[], Image.Image] | None], None]
"""Called with the steps done, the steps in all, and what draws a preview."""


@dataclass(frozen=True)
class Denoised:
    """Finished latents and what they cost."""

    latents: torch.Tensor
    """(batch, channels, height, width), float32."""
    evaluations: int
    """How often the denoiser ran for each picture."""
    num_steps: int
    """How many steps were told of."""
    model_fingerprint: str
    loras: Mapping[str, str]
    """Name of each LoRA that was applied -> its audit."""
    changes: Sequence[Image.Image | None]
    """Where each picture changed (L, of the size of the latents), if a soft mask is to know."""


@torch.inference_mode()
def denoise(
    requests: Sequence[ResolvedRequest],
    *,
    components: Components,
    canvas: Canvas,
    guidance: Sequence[Guidance],
    loras: AppliedLoras,
    progress: Progress,
    begun: torch.Tensor | None = None,
) -> Denoised:
    """Return the latents of pictures that differ in prompts, guidance and seeds only.

    They depend on the arguments alone, and nothing is left behind.

    Args:
        requests: what to paint.
        components: the loaded model.
        canvas: the prepared input images.
        guidance: one per request.
        loras: what is applied to the model; told how many of the steps are done.
        progress: called before the first and after every step; what it raises ends the work.
        begun: (batch, channels, height, width): for a second pass, the enlarged latents of the first.

    Raises:
        NotFinite: the U-Net produced NaN or infinity.
    """
    request = requests[0]
    spec = SCHEDULERS[request.scheduler]
    # 1. Noise levels: the whole schedule, and its tail that is run.
    schedule = noise_levels(request, components)
    sigmas = _tail(schedule, request)
    num_steps = told_steps(request.scheduler, len(sigmas) - 1)
    # 2. What to start from, with each picture's own noise.
    noises = [ImageNoise(each, device=components.device) for each in requests]
    start = start_denoising(
        request,
        components=components,
        canvas=canvas,
        noises=noises,
        sigma=float(sigmas[0]),
        num_steps=num_steps,
        starts_at_unit_variance=spec.starts_at_unit_variance,
        begun=begun,
    )
    denoiser = Denoiser(
        components,
        guidance=guidance,
        size=(request.height, request.width),
        tiles=latent_tiles(request, components),
        keep=start.keep,
        extra_channels=start.extra_channels,
        on_tile=lambda: told(),
    )
    # 3. Walk down.
    preview = components.preview  # alone: whoever holds on to a step must not hold on to the model
    loras.at_step(0, num_steps)
    told = partial(progress, 0, num_steps, None)  # again before each tile: a step of many is long
    told()

    def on_step(index: int, denoised: torch.Tensor) -> None:
        nonlocal told
        denoiser.step = index + 2
        loras.at_step(index + 1, num_steps)
        told = partial(progress, index + 1, max(num_steps, index + 1), partial(_draw, preview, denoised[:1]))
        told()

    latents = SAMPLERS[request.scheduler](
        denoiser,
        start.latents,
        sigmas,
        noise=step_noise(requests, noises, schedule, shape=tuple(start.latents.shape[1:]), device=components.device),
        options=_options(request, components),
        on_step=on_step,
    )
    if start.keep is not None:
        latents = start.keep.finish(latents)
    latents = check_finite(latents, Stage.UNET)
    return Denoised(
        latents,
        denoiser.evaluations,
        num_steps,
        components.fingerprint,
        loras.audits,
        [_change(each, start, request) for each in torch.split(latents, 1)],
    )


def count_steps(request: ResolvedRequest, components: Components) -> int:
    """Return how many steps `denoise` tells of, before any is made.

    Raises:
        InvalidRequest: the noise levels leave no room between those asked for and the model's own.
    """
    return told_steps(request.scheduler, len(_tail(noise_levels(request, components), request)) - 1)


def latent_tiles(request: ResolvedRequest, components: Components) -> Tiles:
    """Return the tiles in which the U-Net sees a picture's latents: one, unless the request asks for smaller ones."""
    factor = components.vae_scale_factor
    height, width = request.height // factor, request.width // factor
    if request.tile_size is None or request.tile_overlap is None:
        return Tiles.cover(height, width, size=None)
    return Tiles.cover(height, width, size=request.tile_size // factor, overlap=request.tile_overlap // factor)


def step_noise(
    requests: Sequence[ResolvedRequest],
    noises: Sequence[ImageNoise],
    schedule: torch.Tensor,
    *,
    shape: tuple[int, ...],
    device: torch.device,
) -> StepNoise:
    """Return what the steps of a sampler add, drawn for each picture from its own seed and source.

    Args:
        requests: one per picture.
        noises: likewise; what starts them is drawn already.
        schedule: the whole one, also where only its tail is run.
        shape: (channels, height, width) of the latents.
        device: on which the source "device" draws.
    """
    if not SCHEDULERS[requests[0].scheduler].has_brownian_noise:
        return BatchNoise(noises)
    levels = schedule[schedule > 0]
    source = requests[0].noise_source
    return BrownianNoise(
        [each.seed for each in requests],
        shape,
        sigma_min=float(levels[-1]),
        sigma_max=float(levels[0]),
        draw=lambda seed, shape: seeded(seed, source=source, device=device)(shape),
    )


def _change(latents: torch.Tensor, start: Start, request: ResolvedRequest) -> Image.Image | None:
    if start.compared is None or start.keep is None:
        return None
    original, painted, repaint = (each[0].cpu().numpy() for each in (start.compared, latents, start.keep.repaint))
    return changed(request, original=original, painted=painted, repaint=repaint[0])


def noise_levels(request: ResolvedRequest, components: Components) -> torch.Tensor:
    """Return all noise levels of a request, descending.

    Raises:
        InvalidRequest: they leave no room between the levels asked for and the model's own.
    """
    spec = SCHEDULERS[request.scheduler]
    model_sigmas = components.sigmas
    steps = request.num_inference_steps
    if request.strength is not None:
        steps = scheduled_steps(steps, request.strength, request.step_rule)
    try:
        sigmas = make_sigmas(
            request.noise_schedule,
            model_sigmas if spec.timestep_stride == 1 else model_sigmas.every(spec.timestep_stride),
            steps + spec.discards_next_to_last,
            sigma_min=request.sigma_min,
            sigma_max=request.sigma_max,
            rho=request.rho,
            is_sdxl=len(components.text_encoders) == 2,
        )
    except ValueError as error:
        raise InvalidRequest(str(error)) from error
    return discard_next_to_last(sigmas) if spec.discards_next_to_last else sigmas


def _tail(schedule: torch.Tensor, request: ResolvedRequest) -> torch.Tensor:
    """Return the noise levels that are run: the last ones, where the picture begins with an image.

    As in A1111 they are counted from the front, which matters for schedules (ddim_uniform) that have more levels, or
    fewer, than they were asked for.
    """
    if request.strength is None:
        return schedule
    steps, strength, rule = request.num_inference_steps, request.strength, request.step_rule
    entered = scheduled_steps(steps, strength, rule) - steps_to_run(steps, strength, rule)
    return schedule[min(entered, len(schedule) - 2) :]


def _options(request: ResolvedRequest, components: Components) -> SamplerOptions:
    return SamplerOptions(
        eta=request.eta,
        s_churn=request.s_churn,
        s_tmin=request.s_tmin,
        s_tmax=float("inf") if request.s_tmax is None else request.s_tmax,
        s_noise=request.s_noise,
        model_sigmas=components.sigmas,
    )


def _draw(preview: LatentPreview, latents: torch.Tensor) -> Image.Image:
    """Return the picture of (1, channels, height, width) latents, without entering torch's parallel regions."""
    return preview.draw(latents.detach().float().cpu().numpy())
