"""The table of upscalers: how a picture is enlarged before it is painted again. Names and labels are A1111's.

Latent upscalers stretch latents and cost nothing; picture upscalers decode, resize and encode. Every other name is that
of a model file, which the studio looks for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

INSTALL_SPANDREL = ".venv/bin/pip install -c constraints.txt -e '.[upscale]' in the studio's folder"
"""What runs model files is not installed with the rest; without the constraints pip would change torch."""

DEFAULT_UPSCALER = "latent_bilinear"
"""What A1111 begins with."""

LatentMode = Literal["bilinear", "bicubic", "nearest", "nearest-exact"]
"""What torch calls them."""


@dataclass(frozen=True)
class LatentUpscaler:
    """Stretches latents."""

    label: str
    mode: LatentMode
    antialias: bool = False


@dataclass(frozen=True)
class PictureUpscaler:
    """Stretches pixels, as Pillow does."""

    label: str
    resampling: Literal["lanczos", "nearest"]


UPSCALERS: Mapping[str, LatentUpscaler | PictureUpscaler] = MappingProxyType(
    {
        "latent_bilinear": LatentUpscaler("Latent", "bilinear"),
        "latent_bilinear_antialiased": LatentUpscaler("Latent (antialiased)", "bilinear", antialias=True),
        "latent_bicubic": LatentUpscaler("Latent (bicubic)", "bicubic"),
        "latent_bicubic_antialiased": LatentUpscaler("Latent (bicubic antialiased)", "bicubic", antialias=True),
        "latent_nearest": LatentUpscaler("Latent (nearest)", "nearest"),
        "latent_nearest_exact": LatentUpscaler("Latent (nearest-exact)", "nearest-exact"),
        "lanczos": PictureUpscaler("Lanczos", "lanczos"),
        "nearest": PictureUpscaler("Nearest", "nearest"),
    }
)
PICTURE_UPSCALERS = tuple(name for name, row in UPSCALERS.items() if isinstance(row, PictureUpscaler))


def canonical_upscaler(name: str) -> str:
    """Return the table's name for a name or an A1111 label, in any letter case; any other name as it is."""
    wanted = name.strip().lower()
    return next((key for key, row in UPSCALERS.items() if wanted in {key, row.label.lower()}), name)


def upscaler_label(name: str) -> str:
    """Return what A1111 calls an upscaler; a model file goes by its name."""
    return UPSCALERS[name].label if name in UPSCALERS else name
