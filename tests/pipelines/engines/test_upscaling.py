"""Image-to-image of strength 0, and its upscaler: the right pixels, and no model."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.engines.diffusers_engine import DiffusersEngine
from pipelines.spec.engine import GeneratedImage, Inputs
from pipelines.spec.model import Model
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import resolve

SOURCE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8))


def paint(engine: DiffusersEngine, model: Model, **fields: Any) -> list[GeneratedImage]:
    values = {"seed": 7, "num_inference_steps": 2, "init_image": "0" * 64, "width": 160, "height": 160, **fields}
    requests = resolve(GenerationRequest.parse(values), model, input_size=SOURCE.size)
    return list(engine.generate(requests, Inputs(model, init_image=SOURCE), lambda step: None))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("stretch", SOURCE.resize((160, 160), Image.Resampling.NEAREST)),
        ("crop", SOURCE.crop((0, 4, 40, 44)).resize((160, 160), Image.Resampling.NEAREST)),
    ],
)
def test_strength_0_is_the_upscaler_alone_and_loads_no_model(sd1: Model, mode: str, expected: Image.Image) -> None:
    engine = DiffusersEngine(device="cpu")

    first, second = paint(engine, sd1, strength=0.0, upscaler="nearest", resize_mode=mode, num_images=2)

    assert first.image.tobytes() == second.image.tobytes() == expected.tobytes()
    assert engine.loaded_models == ()
    assert first.provenance["evaluations"] == 0


def test_fill_enlarges_what_lies_within(sd1: Model) -> None:
    (made,) = paint(DiffusersEngine(device="cpu"), sd1, strength=0.0, upscaler="nearest", resize_mode="fill")

    within = SOURCE.resize((133, 160), Image.Resampling.NEAREST)
    left = (160 - 133) // 2
    assert made.image.crop((left, 0, left + 133, 160)).tobytes() == within.tobytes()


def test_the_upscaler_counts_where_something_is_painted(sd1: Model) -> None:
    engine = DiffusersEngine(device="cpu")

    (default,) = paint(engine, sd1, strength=0.5)
    (lanczos,) = paint(engine, sd1, strength=0.5, upscaler="lanczos")
    (nearest,) = paint(engine, sd1, strength=0.5, upscaler="nearest")

    assert default.image.tobytes() == lanczos.image.tobytes()
    assert default.image.tobytes() != nearest.image.tobytes()
