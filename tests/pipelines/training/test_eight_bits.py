"""Checkpoints of an optimizer that keeps 8 bits: `.ci/run` gives bitsandbytes to this file (see test_quantized.py)."""

import copy
from pathlib import Path

import pytest
import torch

from pipelines.runtime.loading import ModelCache
from pipelines.spec.model import Model
from pipelines.spec.training import TrainingRequest
from pipelines.training import checkpoint
from pipelines.training.adapters import Adapter
from pipelines.training.optimization import Average, make_optimizer


def _state(model: Model, request: TrainingRequest) -> checkpoint.State:
    adapter = Adapter.inject(request, ModelCache(torch.device("cpu"), dtype=torch.float32, max_bytes=2**30).get(model))
    parameters, scaler = adapter.parameters(), torch.amp.GradScaler("cpu", enabled=False)
    return checkpoint.State(parameters, make_optimizer(request, adapter), Average(parameters, None), scaler)


def _step(state: checkpoint.State, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in state.parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    state.optimizer.step()


def test_an_optimizer_of_eight_bits_goes_on_from_its_checkpoint_bit_for_bit(sd1: Model, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    request = TrainingRequest(data="x", name="x", rank=64, optimizer="adamw8bit", learning_rate=1e-2)
    identity = checkpoint.Identity(request, "model", "data")
    whole, cut = _state(sd1, request), _state(sd1, request)
    for state in (whole, cut):
        _step(state, 1)
    before = copy.deepcopy({name: parameter.data for name, parameter in cut.parameters.items()})
    checkpoint.save(tmp_path, cut, step=1, started_at=0.0, identity=identity)
    resumed = _state(sd1, request)

    assert checkpoint.load(tmp_path, resumed, identity=identity) == (1, 0.0)
    assert all(torch.equal(resumed.parameters[name], value) for name, value in before.items())
    for state in (whole, cut, resumed):  # saving changes nothing either
        _step(state, 2)

    kept = [value for each in resumed.optimizer.state.values() for value in each.values()]
    assert any(value.dtype is torch.uint8 for value in kept if isinstance(value, torch.Tensor))
    for name, parameter in whole.parameters.items():
        assert torch.equal(parameter, resumed.parameters[name])
        assert torch.equal(parameter, cut.parameters[name])
