"""Where the denoising loop starts for each task: noise, a noisy picture, or a noisy picture with a part to keep."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from pipelines.runtime.autoencoding import encode, to_mask, to_tensor
from pipelines.runtime.loading import Components
from pipelines.runtime.noise import draw
from pipelines.spec.request import ResolvedRequest


@dataclass(frozen=True)
class Canvas:
    """What a picture starts from, at the size of the request; both None for text-to-image."""

    init_image: Image.Image | None = None
    """RGB."""
    mask_image: Image.Image | None = None
    """L, 0 or 255; 255 is repainted."""


@dataclass(frozen=True)
class Start:
    """The beginning of the loop, and what holds during it."""

    latents: torch.Tensor
    """(1, channels, height, width), float32, at the noise level of the first timestep."""
    keep: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor] | None = None
    """Called after each step with the latents and the next timestep (None at the end): puts the kept part back."""
    extra_channels: torch.Tensor | None = None
    """(1, 1 + channels, height, width): the mask and masked picture that a U-Net made for inpaint sees as well."""


def start_denoising(
    request: ResolvedRequest,
    *,
    components: Components,
    canvas: Canvas,
    scheduler: Any,
    timestep: torch.Tensor,
    generator: torch.Generator,
) -> Start:
    """Return the start of a task. Noise is drawn in diffusers' order: picture, noise, masked picture.

    Args:
        request: gives size and strength.
        components: the loaded model.
        canvas: the fitted input images.
        scheduler: already set to its timesteps.
        timestep: (1,), the first that will run.
        generator: the picture's own.
    """
    factor = components.vae_scale_factor
    shape = (1, components.vae.config.latent_channels, request.height // factor, request.width // factor)
    if canvas.init_image is None:
        return Start(draw(shape, generator, device=components.device) * scheduler.init_noise_sigma)

    pixels = to_tensor(canvas.init_image)
    sees_mask = components.sees_mask
    paints_over = canvas.mask_image is not None and request.strength == 1
    original = None if sees_mask and paints_over else encode(pixels, components=components, generator=generator)
    if original is not None and canvas.mask_image is not None:
        # diffusers lays latents out like this for inpaint, and the layout decides in which order kernels add.
        original = original.contiguous()
    noise = draw(shape, generator, device=components.device)
    if paints_over:
        latents = noise * scheduler.init_noise_sigma
    else:
        assert original is not None
        latents = scheduler.add_noise(original, noise, timestep)
    if canvas.mask_image is None:
        return Start(latents)

    mask = to_mask(canvas.mask_image)
    small_mask = torch.nn.functional.interpolate(mask, shape[2:]).to(components.device)
    if sees_mask:
        masked = encode(pixels * (1 - mask), components=components, generator=generator)
        return Start(latents, extra_channels=torch.cat([small_mask, masked], dim=1))
    # diffusers encodes the masked picture here too and has no use for it; the draw keeps stochastic samplers in step.
    draw(shape, generator, device=components.device)
    assert original is not None
    return Start(latents, keep=_Keep(scheduler, original, noise=noise, mask=small_mask))


class _Keep:
    """Overwrites the kept part with the original at the noise level of the next step (arXiv:2108.01073, section 3)."""

    def __init__(self, scheduler: Any, original: torch.Tensor, *, noise: torch.Tensor, mask: torch.Tensor) -> None:
        self._scheduler = scheduler
        self._original = original
        self._noise = noise
        self._mask = mask

    def __call__(self, latents: torch.Tensor, next_timestep: torch.Tensor | None) -> torch.Tensor:
        kept = self._original
        if next_timestep is not None:
            kept = self._scheduler.add_noise(kept, self._noise, next_timestep.reshape(1))
        return (1 - self._mask) * kept + self._mask * latents
