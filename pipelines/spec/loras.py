"""Which LoRAs a picture is asked with (LoraSpec), which it got (ResolvedLora), and where their files are (LoraFile)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

ALL_ZERO = "all zeros, which change nothing"
"""How the audit of a LoRA ends whose layers were found, and which adds zeros to each."""

Weight = Annotated[float, Field(ge=-10, le=10)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class LoraSpec(_Frozen):
    """One LoRA as it is asked for."""

    name: str = Field(min_length=1, max_length=256, description="Name or alias in the catalogue of LoRAs.")
    weight: Weight = Field(
        default=1.0, description="How strongly the denoiser (U-Net, transformer) is changed; 1 is as trained."
    )
    text_encoder_weight: Weight | None = Field(
        default=None, description="How strongly the text encoders are changed. Empty: as `weight`."
    )
    block_weights: Mapping[str, Weight] = Field(
        default_factory=dict,
        description="Factors for parts of the denoiser by diffusers' names (down_blocks.1, mid_block, "
        "up_blocks.0.attentions.1); the longest name that fits a layer counts.",
    )
    start: Share = Field(default=0.0, description="From which share of the steps on the denoiser is changed.")
    end: Share = Field(default=1.0, description="Until which share of the steps the denoiser is changed.")


class ResolvedLora(_Frozen):
    """One LoRA exactly as it is applied: nothing is left to a default."""

    name: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of everything behind the safetensors header (A1111's Lora hash, whole): which tensors were applied."""
    weight: float
    text_encoder_weight: float
    block_weights: Mapping[str, float]
    start: float
    end: float

    def asked(self) -> LoraSpec:
        """Return what asks for exactly this."""
        return LoraSpec.model_validate(self.model_dump(exclude={"sha256"}))


@dataclass(frozen=True)
class LoraFile:
    """A LoRA on disk, as the catalogue knows it."""

    name: str
    path: Path
    sha256: str
    """As in ResolvedLora; the engine refuses a file whose tensors are others."""
