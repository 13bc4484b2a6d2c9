"""Pictures on the way, where memory is short."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.runtime.loading import Components, ModelCache
from pipelines.spec.material import Material
from pipelines.spec.model import Model
from pipelines.spec.training import TrainingRequest
from pipelines.training.painting import paint


@pytest.fixture
def components(sd1: Model) -> Components:
    return ModelCache(torch.device("cpu"), dtype=torch.float32, max_bytes=2**30).get(sd1)


def test_pictures_that_do_not_fit_beside_the_training_are_painted_in_pieces(
    components: Components, sd1: Model, data: Path
) -> None:
    asked = {"data": str(data), "name": "x", "validation_prompts": ("a house",)}
    shown = Material.read(TrainingRequest.parse(asked), sd1).shown
    tiled: list[bool] = []

    def refuse(*_: Any) -> None:
        tiled.append(components.vae.use_tiling)
        if not components.vae.use_tiling:
            raise torch.OutOfMemoryError("out of memory")

    hook = components.vae.decoder.register_forward_pre_hook(refuse)
    (picture,) = paint(shown, components, lambda number: None)
    hook.remove()

    assert tiled[:2] == [False, True]
    assert picture.size == (shown[0].width, shown[0].height)
    assert not components.vae.use_tiling
