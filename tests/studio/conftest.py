"""A studio on a temporary folder: real database, real files, real worker code; the fake engine paints."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from studio import Settings, Studio


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of an empty studio with one model, `toy`, of which only the configuration exists."""
    write_model(tmp_path / "models" / "toy")
    return Settings(home=tmp_path, engine="fake", default_model="toy", devices=("cpu",), restart_delay=0.05)


@pytest.fixture
def studio(settings: Settings) -> Iterator[Studio]:
    with Studio(settings) as studio:
        yield studio


def write_model(folder: Path) -> None:
    """Write the configuration files of a small Stable Diffusion 1.x model, native size 128 × 128."""
    files = {
        "model_index.json": {"_class_name": "StableDiffusionPipeline"},
        "unet/config.json": {"sample_size": 16, "in_channels": 4, "block_out_channels": [32, 64]},
        "text_encoder/config.json": {"num_hidden_layers": 12},
        "vae/config.json": {"block_out_channels": [16, 32, 64, 128]},
        "studio.json": {"defaults": {"num_inference_steps": 4}, "licence": "Apache-2.0"},
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
