"""Where the denoising loop starts for each task: noise, a noisy picture, or a noisy picture with a part to keep."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from pipelines.runtime.autoencoding import encode, to_tensor
from pipelines.runtime.keeping import Keep, make_keep
from pipelines.runtime.loading import Components
from pipelines.runtime.noise import ImageNoise
from pipelines.spec.canvas import Canvas
from pipelines.spec.geometry import nearest_multiple, resize
from pipelines.spec.resolved import ResolvedRequest


@dataclass(frozen=True)
class Start:
    """The beginning of the loop, and what holds during it."""

    latents: torch.Tensor
    """(batch, channels, height, width), float32, at the first noise level."""
    keep: Keep | None = None
    extra_channels: torch.Tensor | None = None
    """(1, 1 + channels, height, width): the mask and masked picture that a U-Net made for inpaint sees as well."""
    compared: torch.Tensor | None = None
    """(1, channels, height, width): what the result of a soft mask is compared with, the input before it was filled."""


def start_denoising(
    request: ResolvedRequest,
    *,
    components: Components,
    canvas: Canvas,
    noises: Sequence[ImageNoise],
    sigma: float,
    num_steps: int,
    starts_at_unit_variance: bool,
    begun: torch.Tensor | None = None,
) -> Start:
    """Return the start of a batch of pictures.

    Args:
        request: gives size and the fields of the mask, which the batch shares.
        components: the loaded model.
        canvas: the prepared input images.
        noises: one per picture.
        sigma: the first noise level.
        num_steps: how many steps run.
        starts_at_unit_variance: whether pure noise starts at sqrt(1 + sigma²) instead of sigma.
        begun: latents to start from, one per picture, where a second pass goes on from a first.
    """
    factor = components.vae_scale_factor
    shape = (1, components.vae.config.latent_channels, request.height // factor, request.width // factor)
    noise = torch.cat([each.initial(shape) for each in noises])
    if begun is not None:
        return Start(begun + noise * sigma)
    if canvas.init_image is None:
        return Start(noise * ((1 + sigma**2) ** 0.5 if starts_at_unit_variance else sigma))

    original = _encode_image(canvas.init_image, request, components=components)
    if canvas.mask_image is None:
        everything = Image.new("L", canvas.init_image.size, 255)
        seen = _seen_mask(canvas.init_image, everything, components=components) if components.sees_mask else None
        return Start(original + noise * sigma, extra_channels=seen)
    rounded = request.mask_mode == "hard"
    repaint = _latent_mask(canvas.mask_image, size=shape[2:], rounded=rounded).to(components.device)
    extra_channels = compared = None
    if components.sees_mask:
        extra_channels = _seen_mask(canvas.init_image, canvas.mask_image, components=components, rounded=rounded)
    if request.mask_mode == "soft":
        compared = original
        if canvas.unfilled is not None and canvas.unfilled is not canvas.init_image:
            compared = _encode_image(canvas.unfilled, request, components=components)
    content = original
    if request.masked_content == "latent_noise":
        content = original * (1 - repaint) + noise * repaint
    elif request.masked_content == "latent_nothing":
        content = original * (1 - repaint)
    keep = make_keep(request, original=original, repaint=repaint, num_steps=num_steps)
    return Start(content + noise * sigma, keep, extra_channels, compared)


def _encode_image(image: Image.Image, request: ResolvedRequest, *, components: Components) -> torch.Tensor:
    """Return (1, channels, height, width) latents of the size of the request, stretched if the picture has another."""
    factor = components.vae_scale_factor
    width, height = (nearest_multiple(side, factor, least=factor) for side in image.size)
    latents = encode(to_tensor(resize(image, "stretch", width=width, height=height)), components=components)
    wanted = (request.height // factor, request.width // factor)
    if latents.shape[2:] == wanted:
        return latents
    return torch.nn.functional.interpolate(latents, wanted, mode="bilinear")


def _latent_mask(mask: Image.Image, *, size: tuple[int, ...], rounded: bool) -> torch.Tensor:
    """Return (1, 1, height, width), 1 where latents are repainted: the mask scaled down (bicubic)."""
    return _levels(mask.resize((size[1], size[0]), Image.Resampling.BICUBIC), rounded=rounded)


def _levels(mask: Image.Image, *, rounded: bool) -> torch.Tensor:
    """Return (1, 1, height, width) from 0 to 1."""
    levels = np.asarray(mask, dtype=np.float32) / 255
    return torch.from_numpy(levels.round() if rounded else levels)[None, None]


def _seen_mask(image: Image.Image, mask: Image.Image, *, components: Components, rounded: bool = True) -> torch.Tensor:
    """Return (1, 1 + channels, height, width): the mask, and the picture without its masked part, encoded."""
    hidden = _levels(mask, rounded=rounded)
    masked = encode(to_tensor(image) * (1 - hidden), components=components)
    small = torch.nn.functional.interpolate(hidden, masked.shape[2:]).to(components.device)
    return torch.cat([small, masked], dim=1)
