"""What the header of a LoRA file says about its strength: diffusers keeps PEFT's configuration there, kohya nothing."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from pipelines.runtime.adapters.layers import TEXT_ENCODERS, UNET, Place

KEY = "lora_adapter_metadata"
_NESTED = "text_model."
"""A level that the names of text encoders have in some versions of transformers."""


class _Config(BaseModel):
    """The part of PEFT's LoraConfig that decides how strong a change is."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)
    lora_alpha: float | None = None
    alpha_pattern: Mapping[str, float] = Field(default_factory=dict)
    """Alpha of single layers, by the end of their names."""
    use_rslora: bool = False
    """Whether the square root of the rank divides (arXiv:2312.03732)."""


_CONFIGS: TypeAdapter[Mapping[str, _Config]] = TypeAdapter(Mapping[str, _Config])


@dataclass(frozen=True)
class Scales:
    """What changes are multiplied with where their layers have no alpha of their own."""

    configs: Mapping[str, _Config] = field(default_factory=dict)
    """By part of the model."""

    def scale(self, place: Place, rank: int) -> float:
        """Return alpha / rank; 1 where the file names no alpha."""
        config = self.configs.get(place.part, _Config())
        path = f".{place.path.removeprefix(_NESTED)}"
        named = config.alpha_pattern.items()
        fitting = (alpha for name, alpha in named if path.endswith(f".{name.removeprefix(_NESTED)}"))
        alpha = next(fitting, config.lora_alpha)
        return 1.0 if alpha is None else alpha / (rank**0.5 if config.use_rslora else rank)


def read_scales(metadata: Mapping[str, str]) -> Scales:
    """Return what the metadata of a file says.

    Raises:
        ValueError: it contradicts itself or is no such thing.
    """
    try:
        entries = json.loads(metadata.get(KEY, "{}"))
        parts: dict[str, dict[str, object]] = {}
        for name, value in entries.items():
            part, _, option = name.partition(".")
            parts.setdefault(part if part in {UNET, *TEXT_ENCODERS} else UNET, {})[option or part] = value
        return Scales(_CONFIGS.validate_python(parts))
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"its {KEY} is damaged") from error
