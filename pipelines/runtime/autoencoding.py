"""Between pictures and latents: the VAE, its scaling, and pixel ranges."""

from typing import Any

import numpy as np
import torch
from PIL import Image

from pipelines.runtime.guards import Stage, check_finite
from pipelines.runtime.loading import Components


def to_tensor(image: Image.Image) -> torch.Tensor:
    """Return (1, 3, height, width) between -1 and 1, float32, of an RGB picture."""
    pixels = np.asarray(image, dtype=np.float32) / 255.0
    return 2.0 * torch.from_numpy(pixels)[None].permute(0, 3, 1, 2) - 1.0


def to_image(pixels: torch.Tensor) -> Image.Image:
    """Return the RGB picture of (1, 3, height, width) between -1 and 1."""
    unit = (pixels[0].float() * 0.5 + 0.5).clamp(0, 1).cpu().permute(1, 2, 0).numpy()
    return Image.fromarray((unit * 255).round().astype(np.uint8), "RGB")


@torch.inference_mode()
def encode(pixels: torch.Tensor, *, components: Components) -> torch.Tensor:
    """Return latents, float32: the middle of the VAE's posterior, so that an input gives the same latents every time.

    Raises:
        NotFinite: the VAE produced NaN or infinity.
    """
    vae = components.vae
    factor: float = vae.config.scaling_factor
    posterior = vae.encode(pixels.to(components.device, components.precision.vae_dtype)).latent_dist
    latents = check_finite(posterior.mode(), Stage.VAE).float()
    statistics = _latent_statistics(vae.config, latents.device)
    if statistics is None:
        return factor * latents
    mean, std = statistics
    return (latents - mean) * factor / std


@torch.inference_mode()
def decode(latents: torch.Tensor, *, components: Components) -> torch.Tensor:
    """Return pixels (1, 3, height, width) around -1 to 1, in the VAE's dtype.

    Raises:
        NotFinite: the VAE produced NaN or infinity.
    """
    vae = components.vae
    statistics = _latent_statistics(vae.config, latents.device)
    scaled = latents / vae.config.scaling_factor
    if statistics is not None:
        mean, std = statistics
        scaled = latents * std / vae.config.scaling_factor + mean
    scaled = scaled.to(components.device, components.precision.vae_dtype)
    return check_finite(vae.decode(scaled, return_dict=False)[0], Stage.VAE)


def _latent_statistics(config: Any, device: torch.device) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return mean and standard deviation of the latents, (1, channels, 1, 1), where the VAE states them."""
    values = [config.get(key) for key in ("latents_mean", "latents_std")]
    if None in values:
        return None
    mean, std = (torch.tensor(each, device=device).view(1, -1, 1, 1) for each in values)
    return mean, std
