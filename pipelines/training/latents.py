"""Pictures as training sees them: cut to their bucket, encoded once, sampled anew at every sight."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from pipelines.runtime.autoencoding import to_tensor
from pipelines.runtime.guards import Stage, check_finite
from pipelines.runtime.loading import Components
from pipelines.spec.buckets import Size
from pipelines.spec.dataset import Example
from pipelines.spec.pictures import open_picture


@dataclass(frozen=True)
class EncodedPicture:
    """What the VAE says of one picture, on the processor, float32."""

    mean: Tensor
    """(channels, height, width) of its posterior."""
    std: Tensor
    time_ids: tuple[int, ...]
    """What SDXL is told: original height and width, top and left of the cut, target height and width, in pixels."""


class LatentCache:
    """Every picture of a data set, and its mirror image where asked, encoded when first seen.

    Args:
        examples: the pictures.
        sizes: the bucket of each.
        components: the loaded model, whose VAE encodes.
    """

    def __init__(self, examples: Sequence[Example], sizes: Sequence[Size], components: Components) -> None:
        self._examples, self._sizes, self._components = examples, sizes, components
        self._known: dict[tuple[int, bool], EncodedPicture] = {}

    def get(self, index: int, *, mirrored: bool) -> EncodedPicture:
        """Return one encoded picture."""
        key = index, mirrored
        if key not in self._known:
            self._known[key] = self._encode(index, mirrored=mirrored)
        return self._known[key]

    @torch.no_grad()
    def _encode(self, index: int, *, mirrored: bool) -> EncodedPicture:
        picture, time_ids = fit_to_bucket(open_picture(self._examples[index].path).image, self._sizes[index])
        if mirrored:
            picture = ImageOps.mirror(picture)
        vae = self._components.vae
        with torch.autocast(
            vae.device.type, enabled=False
        ):  # or one that runs in float32, since it overflows, would not
            posterior = vae.encode(to_tensor(picture).to(vae.device, vae.dtype)).latent_dist
        mean, std = check_finite(posterior.mean, Stage.VAE).float().cpu()[0], posterior.std.float().cpu()[0]
        shift, scale = _statistics(vae.config)
        return EncodedPicture((mean - shift) * scale, std * scale, time_ids)


def fit_to_bucket(picture: Image.Image, size: Size) -> tuple[Image.Image, tuple[int, ...]]:
    """Cut a picture to the bucket's shape, evenly, and resize it; return what SDXL is told with it.

    SDXL is told as if it were resized first: of a very long picture, that would be gigabytes.
    """
    width, height = size
    scale = max(width / picture.width, height / picture.height)
    covering = max(width, round(picture.width * scale)), max(height, round(picture.height * scale))
    left, top = (covering[0] - width) // 2, (covering[1] - height) // 2
    across, down = picture.width / covering[0], picture.height / covering[1]
    box = left * across, top * down, (left + width) * across, (top + height) * down
    cut = picture.resize(size, Image.Resampling.LANCZOS, box=box)
    return cut, (picture.height, picture.width, top, left, height, width)


def _statistics(config: Any) -> tuple[Tensor | float, Tensor | float]:
    """Return what is taken from latents and what they are multiplied with."""
    factor: float = config.scaling_factor
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        return 0.0, factor
    return torch.tensor(mean).view(-1, 1, 1), factor / torch.tensor(std).view(-1, 1, 1)
