"""A small picture of unfinished latents, by one matrix product instead of the decoder.

Previews are drawn on a thread beside the denoising loop, so they are drawn without torch: a second thread that enters
one of its parallel regions makes OpenMP give up its fast waiting, and the loop takes almost twice as long.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

FIT_PATCHES = 4
FIT_SIDE = 16
"""The colours are fitted on 4 × 4 patches of one random colour each, 16 × 16 latents in all."""

Array = npt.NDArray[np.float32]


class LatentPreview:
    """Colours of one model's latents: rgb = latent · matrix + offset, one pixel per latent.

    Every VAE has its own latent space, so the matrix is fitted to the loaded one: patches of random latents are decoded
    once (a 128 × 128 picture for Stable Diffusion) and solved for by least squares. On the pocket model the colours are
    off by 16 of 255 on average; the best possible matrix is off by 14.

    Args:
        vae: the decoder.
        scaling_factor: what latents are divided by before decoding.
    """

    def __init__(self, vae: Any, *, scaling_factor: float) -> None:
        self._matrix = _fit(vae, scaling_factor)

    def draw(self, latents: Array) -> Image.Image:
        """Return an RGB picture, one pixel per latent, of latents (1, channels, height, width)."""
        colours = np.nan_to_num(_with_ones(latents) @ self._matrix)
        pixels = (colours * 255).round().clip(0, 255).astype(np.uint8)
        return Image.fromarray(pixels.reshape(*latents.shape[2:], 3), "RGB")


@torch.inference_mode()
def _fit(vae: Any, scaling_factor: float) -> Array:
    """Return the (channels + 1, 3) matrix that maps latents to colours between 0 and 1."""
    generator = torch.Generator("cpu").manual_seed(0)
    patches = torch.randn((1, vae.config.latent_channels, FIT_PATCHES, FIT_PATCHES), generator=generator)
    field = torch.nn.functional.interpolate(patches, (FIT_SIDE, FIT_SIDE))
    decoded = vae.decode((field / scaling_factor).to(vae.device, vae.dtype), return_dict=False)[0].float().cpu()
    pooled = torch.nn.functional.adaptive_avg_pool2d(decoded.nan_to_num(), (FIT_SIDE, FIT_SIDE))
    colours = pooled.clamp(-1, 1) / 2 + 0.5
    rows = torch.from_numpy(_with_ones(field.numpy()))
    solution: Array = torch.linalg.lstsq(rows, colours[0].flatten(1).T).solution.nan_to_num().numpy()
    return solution


def _with_ones(latents: Array) -> Array:
    """(1, channels, height, width) -> (height · width, channels + 1)."""
    rows = latents[0].reshape(latents.shape[1], -1).T
    return np.concatenate([rows, np.ones((len(rows), 1), dtype=np.float32)], axis=1)
