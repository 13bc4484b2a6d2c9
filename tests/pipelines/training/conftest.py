"""A folder of captioned pictures, and trainings of a tiny model that take a second."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.spec.model import Model
from pipelines.spec.trainer import TrainedLora, TrainingStep
from pipelines.spec.training import TrainingRequest
from pipelines.training.trainer import LoraTrainer

Train = Callable[..., TrainedLora]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures in two shapes."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for index, size in enumerate([(64, 64), (64, 64), (64, 64), (96, 48), (96, 48)]):
        pixels = random.integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"a house, number {index}, red")
    return folder


@pytest.fixture
def train(data: Path, sd1: Model, tmp_path: Path) -> Train:
    """Train in a folder of the test; fields as in TrainingRequest, and what the trainer is told beside them."""

    def train(
        *,
        model: Model = sd1,
        place: str = "a",
        resume: bool = False,
        stop_at: int | None = None,
        on_step: Callable[[TrainingStep], object] = lambda _: None,
        **fields: Any,
    ) -> TrainedLora:
        request = TrainingRequest.parse(
            {"data": str(data), "name": "style", "steps": 2, "rank": 2, "validation_prompts": ("a house",), **fields}
        )

        def watch(step: TrainingStep) -> bool:
            on_step(step)
            return step.step != stop_at

        folder = tmp_path / place
        return LoraTrainer(device="cpu").train(
            request, model, folder=folder, output=folder / "style.safetensors", resume=resume, on_step=watch
        )

    return train
