"""Between the two passes of a picture: its latents, stretched as they are or by way of the picture, and cropped."""

import torch

from pipelines.runtime import autoencoding
from pipelines.runtime.recovery import Attempts
from pipelines.runtime.upscaling import Upscaler
from pipelines.spec.hires import Enlargement
from pipelines.spec.upscalers import LatentUpscaler


def stretch_latents(
    latents: torch.Tensor, upscaler: LatentUpscaler, size: Enlargement, *, pixels_per_latent: int
) -> torch.Tensor:
    """Return what the second pass starts from, (batch, channels, height, width).

    Args:
        latents: of the first pass, (batch, channels, height, width).
        upscaler: how they are stretched.
        size: in pixels.
        pixels_per_latent: along each side.
    """
    stretched = (size.stretched_height // pixels_per_latent, size.stretched_width // pixels_per_latent)
    larger = [
        torch.nn.functional.interpolate(one, stretched, mode=upscaler.mode, antialias=upscaler.antialias)
        for one in torch.split(latents, 1)  # one by one, so that no picture depends on its neighbours
    ]
    return _crop(torch.cat(larger), size, pixels_per_latent=pixels_per_latent)


def stretch_pictures(
    latents: torch.Tensor, upscaler: Upscaler, size: Enlargement, *, first: Attempts, last: Attempts
) -> torch.Tensor:
    """Return what the second pass starts from by way of pictures: decoded, enlarged, encoded.

    Args:
        latents: of the first pass, (batch, channels, height, width).
        upscaler: makes a picture larger.
        size: in pixels.
        first: runs the model that the latents are of.
        last: runs the model of the second pass.
    """
    pictures = [
        first.run(
            lambda components, _, one=one: upscaler.enlarge(  # type: ignore[misc]
                autoencoding.to_image(autoencoding.decode(one, components=components)),
                width=size.stretched_width,
                height=size.stretched_height,
            )
        )
        for one in torch.split(latents, 1)
    ]
    if last is not first:
        first.rest()
    larger = [
        last.run(
            lambda components, _, picture=picture: _crop(  # type: ignore[misc]
                autoencoding.encode(autoencoding.to_tensor(picture), components=components),
                size,
                pixels_per_latent=components.vae_scale_factor,
            )
        )
        for picture in pictures
    ]
    return torch.cat(larger)


def _crop(latents: torch.Tensor, size: Enlargement, *, pixels_per_latent: int) -> torch.Tensor:
    """Return the middle of stretched latents; of an odd overhang, the larger half is cut at the right and bottom."""
    height, width = size.height // pixels_per_latent, size.width // pixels_per_latent
    top, left = (latents.shape[2] - height) // 2, (latents.shape[3] - width) // 2
    return latents[:, :, top : top + height, left : left + width].contiguous()
