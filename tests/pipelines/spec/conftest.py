"""Models as they are read from disk, without a disk."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.spec.families.sd1 import SD1
from pipelines.spec.model import Model


def make_model(**changes: Any) -> Model:
    """A Stable Diffusion 1.x model of native size 512 × 512 without defaults of its own."""
    values: dict[str, Any] = {
        "name": "toy",
        "path": Path("models/toy"),
        "family": SD1,
        "native_width": 512,
        "native_height": 512,
        "unet_in_channels": 4,
        "text_encoder_layers": 12,
        "text_encoder_widths": (768,),
        "defaults": {},
    }
    return Model(**{**values, **changes})


@pytest.fixture
def model() -> Model:
    return make_model()
