"""What is predicted is what a training really holds and computes, moment by moment."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.spec.material import Material
from pipelines.spec.model import Model
from pipelines.spec.trainer import TrainingStep
from pipelines.spec.training import TrainingRequest
from pipelines.training import memory
from pipelines.training.memory import OVERHEAD, Moment
from pipelines.training.pace import SPREAD, Pace
from pipelines.training.tracing import Trace
from pipelines.training.trainer import LoraTrainer

STEPS = 6
SQUARE = (64, 64)


class Watched:
    """A short training, with a Trace from its first step on."""

    def __init__(self, request: TrainingRequest, model: Model, folder: Path) -> None:
        self.in_steps = 0
        self.flops_in_steps = 0

        def on_step(step: TrainingStep) -> bool:
            if step.step == 0:
                trace.peak_bytes = trace.flops = 0  # loading is no part of it
            if step.step == STEPS and not self.in_steps:
                self.in_steps, self.flops_in_steps = trace.peak_bytes, trace.flops
            return True

        trace = Trace([])
        with trace:
            LoraTrainer(device="cpu").train(
                request, model, folder=folder, output=folder / "x.safetensors", resume=False, on_step=on_step
            )
        self.peak_bytes = trace.peak_bytes


def request(data: Path, **fields: Any) -> TrainingRequest:
    return TrainingRequest.parse(
        {"data": str(data), "name": "x", "steps": STEPS, "rank": 4, "validation_prompts": ("a house",), **fields}
    )


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("sd1", {"batch_size": 3}),
        ("sd1", {"batch_size": 3, "gradient_checkpointing": True}),
        ("sd1", {"batch_size": 2, "train_text_encoder": True, "train_conv": True}),
        ("sdxl", {"batch_size": 3}),
    ],
    ids=str,
)
def test_as_much_is_predicted_as_is_held_and_computed(
    family: str, fields: dict[str, Any], data: Path, tmp_path: Path, sd1: Model, sdxl: Model
) -> None:
    """Gradients are predicted for all moments, and the optimizer's moments from the first step on: up to a fifth."""
    asked, model = request(data, aspect_buckets=False, resolution=64, **fields), {"sd1": sd1, "sdxl": sdxl}[family]

    predicted = memory.predict(Material.read(asked, model), size=SQUARE, dtype=torch.float32)

    held = Watched(asked, model, tmp_path)
    assert predicted.peak_bytes / OVERHEAD == pytest.approx(held.peak_bytes, rel=0.2)
    assert 1 <= held.flops_in_steps / (STEPS * predicted.step_flops) < 1.3, (
        "pictures and captions are encoded in the first ones"
    )


def test_encoding_may_be_the_hungriest(data: Path, sd1: Model) -> None:
    """The VAE sees a picture at its full size, and few trained layers need little for the way back."""
    thrifty = Material.read(request(data, rank=1, gradient_checkpointing=True), sd1)
    usual = Material.read(request(data, batch_size=3), sd1)

    small, large = (memory.predict(thrifty, size=(side, side), dtype=torch.float32) for side in (64, 512))

    assert large.moment is Moment.ENCODING
    assert large.least_bytes > 512 * 512 * 4 * 8, "of its widest layers"
    assert small.peak_bytes > small.least_bytes, "to paint a picture takes more, unless it is painted in pieces"
    assert memory.predict(usual, size=SQUARE, dtype=torch.float32).moment is Moment.STEP


def test_what_is_painted_is_work_too(data: Path, sd1: Model) -> None:
    def other_flops(**fields: Any) -> float:
        material = Material.read(request(data, steps=10, **fields), sd1)
        return memory.predict(material, size=SQUARE, dtype=torch.float32).other_flops

    at_the_end, on_the_way = other_flops(), other_flops(validation_every=2)

    # At the end one picture and six strengths of it; on the way four more, after the steps 2 to 8.
    assert on_the_way / at_the_end == pytest.approx((4 + 7) / 7, rel=0.05)


def test_a_device_is_as_fast_as_it_is_measured(sd1: Model) -> None:
    pace = Pace.measure(sd1, SQUARE, rows=1, device=torch.device("cpu"), dtype=torch.float32)

    assert pace.flops_per_second > 1e6
    assert pace.seconds(pace.flops_per_second) == pytest.approx(SPREAD)
