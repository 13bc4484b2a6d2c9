"""A model on disk, as far as it can be known without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.spec.families.family import Family


@dataclass(frozen=True)
class Model:
    """An installed model: a diffusers folder whose configuration files have been read."""

    name: str
    path: Path
    family: Family
    native_width: int
    """The width in pixels the model was trained at."""
    native_height: int
    unet_in_channels: int
    """4, or 9 for a model trained for inpainting."""
    text_encoder_layers: int
    """Of the first text encoder, from which `clip_skip` counts back."""
    text_encoder_widths: tuple[int, ...]
    """How many numbers stand for one token, for each text encoder: (768,) for Stable Diffusion 1.x."""
    defaults: Mapping[str, Any]
    """The model's own defaults (`studio.json`), stronger than its family's."""
    cross_attention_dim: int | None = None
    """The width of the text that its U-Net reads; None where the configuration does not say it plainly."""
    description: str = ""
    licence: str = "unknown"
    openness: str = "unknown"

    def default(self, field: str) -> Any:
        """Return the default of one request field: the model's own, else its family's."""
        return self.defaults.get(field, self.family.defaults[field])
