"""Tiny models, built once per session and never changed: a test that damages one takes a copy."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.spec.model import Model
from tests.pipelines import tiny_models


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def sd1(models_dir: Path) -> Model:
    return tiny_models.build_sd1(models_dir / "sd1")


@pytest.fixture(scope="session")
def sd1_inpaint(models_dir: Path) -> Model:
    return tiny_models.build_sd1(models_dir / "sd1-inpaint", unet_in_channels=9)


@pytest.fixture(scope="session")
def sdxl(models_dir: Path) -> Model:
    return tiny_models.build_sdxl(models_dir / "sdxl")


@pytest.fixture(scope="session")
def sdxl_inpaint(models_dir: Path) -> Model:
    return tiny_models.build_sdxl(models_dir / "sdxl-inpaint", unet_in_channels=9)


@pytest.fixture
def copy_model(tmp_path: Path) -> Callable[[Model], Model]:
    """Copy a model to where a test may damage it."""

    def copy(model: Model, name: str = "copy") -> Model:
        shutil.copytree(model.path, tmp_path / name)
        return replace(model, name=name, path=tmp_path / name)

    return copy


@pytest.fixture(scope="session")
def init_image() -> Image.Image:
    """A picture with structure at every scale."""
    rows, columns = np.mgrid[0:64, 0:64]
    noise = np.random.default_rng(0).integers(0, 64, (64, 64, 3))
    ramp = np.stack([rows * 3, columns * 3, (rows + columns) % 190], axis=-1)
    return Image.fromarray((ramp + noise).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def mask_image() -> Image.Image:
    """Repaints a soft-edged block off the centre; its edge crosses latents."""
    mask = np.zeros((64, 64), np.uint8)
    mask[9:40, 21:55] = 255
    mask[9, 21:55] = 127
    return Image.fromarray(mask)
