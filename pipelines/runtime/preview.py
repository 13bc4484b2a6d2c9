"""A small picture of unfinished latents, by one matrix product instead of the decoder."""

from typing import Any

import torch
from PIL import Image

FIT_PATCHES = 4
FIT_SIDE = 16
"""The colours are fitted on 4 × 4 patches of one random colour each, 16 × 16 latents in all."""


class LatentPreview:
    """Colours of one model's latents: rgb = latent · matrix + offset, one pixel per latent.

    Every VAE has its own latent space, so the matrix is fitted to the loaded one, at the first preview: patches of
    random latents are decoded once (a 128 × 128 picture for Stable Diffusion) and solved for by least squares. On the
    pocket model the colours are off by 16 of 255 on average; the best possible matrix is off by 14.

    Args:
        vae: the decoder.
        scaling_factor: what latents are divided by before decoding.
    """

    def __init__(self, vae: Any, *, scaling_factor: float) -> None:
        self._vae = vae
        self._scaling_factor = scaling_factor
        self._matrix: torch.Tensor | None = None

    def draw(self, latents: torch.Tensor) -> Image.Image:
        """Return an RGB picture, one pixel per latent, of latents (1, channels, height, width)."""
        if self._matrix is None:
            self._matrix = self._fit()
        colours = _with_ones(latents) @ self._matrix
        pixels = colours.nan_to_num().mul(255).round().clamp(0, 255).to(torch.uint8)
        return Image.fromarray(pixels.reshape(*latents.shape[2:], 3).numpy(), "RGB")

    @torch.inference_mode()
    def _fit(self) -> torch.Tensor:
        """Return the (channels + 1, 3) matrix that maps latents to colours between 0 and 1."""
        channels = self._vae.config.latent_channels
        generator = torch.Generator("cpu").manual_seed(0)
        patches = torch.randn((1, channels, FIT_PATCHES, FIT_PATCHES), generator=generator)
        field = torch.nn.functional.interpolate(patches, (FIT_SIDE, FIT_SIDE))
        scaled = (field / self._scaling_factor).to(self._vae.device, self._vae.dtype)
        decoded = self._vae.decode(scaled, return_dict=False)[0].float().cpu()
        colours = torch.nn.functional.adaptive_avg_pool2d(decoded, (FIT_SIDE, FIT_SIDE)).clamp(-1, 1) / 2 + 0.5
        solution: torch.Tensor = torch.linalg.lstsq(_with_ones(field), colours[0].flatten(1).T).solution
        return solution.nan_to_num()


def predicted_original(
    scheduler: Any, *, scaled: torch.Tensor, prediction: torch.Tensor, timestep: torch.Tensor
) -> torch.Tensor:
    """Return the latents the denoiser sees behind the noise at one step (x0; arXiv:2010.02502, equation 12).

    Args:
        scheduler: gives the noise levels and the kind of prediction.
        scaled: what the denoiser was given: sqrt(alpha) x0 + sqrt(1 - alpha) noise, for every scheduler.
        prediction: what it answered, of the same shape.
        timestep: scalar; may fall between two training timesteps.
    """
    alphas = scheduler.alphas_cumprod
    position = float(timestep)
    below = min(int(position), len(alphas) - 1)
    above = min(below + 1, len(alphas) - 1)
    alpha = torch.lerp(alphas[below], alphas[above], position - int(position)).to(scaled.device)
    match scheduler.config.prediction_type:
        case "epsilon":
            return (scaled - (1 - alpha).sqrt() * prediction) / alpha.sqrt()
        case "v_prediction":
            return alpha.sqrt() * scaled - (1 - alpha).sqrt() * prediction
        case _:
            return prediction


def _with_ones(latents: torch.Tensor) -> torch.Tensor:
    """(1, channels, height, width) -> (height · width, channels + 1), float32 on the processor."""
    rows = latents[0].detach().flatten(1).T.float().cpu()
    return torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
