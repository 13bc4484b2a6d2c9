"""What of a picture stays while it is denoised (inpaint): by a hard mask, softly, or differentially."""

from dataclasses import dataclass
from typing import Protocol

import torch

from pipelines.spec.resolved import ResolvedRequest

_TINY = 1e-12


class Keep(Protocol):
    """Mixes the original into what the U-Net predicts."""

    @property
    def original(self) -> torch.Tensor:
        """(1, channels, height, width): the latents of the input."""

    @property
    def repaint(self) -> torch.Tensor:
        """(1, 1, height, width): 1 is repainted, 0 is kept."""

    def apply(self, predicted: torch.Tensor, *, sigma: float, step: int) -> torch.Tensor:
        """Return the predicted original, (batch, channels, height, width), with the part that stays.

        Args:
            predicted: what the U-Net says.
            sigma: the noise level it was asked at, above 0.
            step: the step that is being made, from 1.
        """

    def finish(self, latents: torch.Tensor) -> torch.Tensor:
        """Return finished latents with the part that stays."""


@dataclass(frozen=True)
class HardKeep:
    """Each latent is repainted or kept."""

    original: torch.Tensor
    repaint: torch.Tensor
    """Of 0 and 1."""

    def apply(self, predicted: torch.Tensor, *, sigma: float, step: int) -> torch.Tensor:
        return self.finish(predicted)

    def finish(self, latents: torch.Tensor) -> torch.Tensor:
        return self.original * (1 - self.repaint) + latents * self.repaint


@dataclass(frozen=True)
class SoftKeep:
    """Greys of the mask blend original and prediction, more of the original while there is much noise.

    This is A1111's soft inpainting: the mask is raised to preservation · sigma^schedule_bias, and what is blended keeps
    its magnitude (`interpolate`).
    """

    original: torch.Tensor
    repaint: torch.Tensor
    schedule_bias: float
    preservation: float
    contrast_boost: float

    def apply(self, predicted: torch.Tensor, *, sigma: float, step: int) -> torch.Tensor:
        share = self.repaint ** (self.preservation * sigma**self.schedule_bias)
        share = torch.where(self.repaint > 0, share, 0.0)
        # one by one: the bits of a picture must not depend on its company
        pictures = [
            interpolate(self.original, each, share, power=self.contrast_boost) for each in torch.split(predicted, 1)
        ]
        return torch.cat(pictures)

    def finish(self, latents: torch.Tensor) -> torch.Tensor:
        return latents


@dataclass(frozen=True)
class DifferentialKeep:
    """Greys of the mask say from when on a latent may change (Differential Diffusion, arXiv:2306.00950, Algorithm 1).

    One of mask value m is the original, at each step's noise level, until the share of steps left is at most m.
    """

    original: torch.Tensor
    repaint: torch.Tensor
    num_steps: int
    """How many steps run."""

    def apply(self, predicted: torch.Tensor, *, sigma: float, step: int) -> torch.Tensor:
        left = (self.num_steps - step + 1) / self.num_steps
        return torch.where(self.repaint >= left, predicted, self.original)

    def finish(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.where(self.repaint >= 1 / self.num_steps, latents, self.original)


def make_keep(request: ResolvedRequest, *, original: torch.Tensor, repaint: torch.Tensor, num_steps: int) -> Keep:
    """Return what the mode of the mask asks for; `num_steps` is how many steps run."""
    match request.mask_mode:
        case "soft":
            return SoftKeep(
                original,
                repaint,
                schedule_bias=request.soft_schedule_bias,
                preservation=request.soft_preservation,
                contrast_boost=request.soft_contrast_boost,
            )
        case "differential":
            return DifferentialKeep(original, repaint, num_steps)
    return HardKeep(original, repaint)


def interpolate(start: torch.Tensor, end: torch.Tensor, share: torch.Tensor, *, power: float) -> torch.Tensor:
    """Return vectors between two: their direction is that of the mean, their length is interpolated by itself.

    The mean of two vectors that point apart is short, which shows as loss of contrast. The length of the result is the
    power mean of both lengths: the higher the power, the nearer to the longer one.

    Args:
        start: (1, channels, height, width); a vector is one latent, across the channels.
        end: of the same shape.
        share: (1, 1, height, width), how much of `end`, from 0 to 1.
        power: of the mean, 1 or more.
    """
    mean = start * (1 - share) + end * share
    lengths = [each.norm(dim=1, keepdim=True) for each in (start, end, mean)]
    longest = torch.maximum(lengths[0], lengths[1]).clamp_min(_TINY)  # powers of lengths may be too large for float32
    shares = (1 - share) * (lengths[0] / longest) ** power + share * (lengths[1] / longest) ** power
    lengthened: torch.Tensor = mean * (longest * shares ** (1 / power) / lengths[2].clamp_min(_TINY))
    return lengthened
