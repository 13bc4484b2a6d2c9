"""The optimizer, its learning rates, and the running average of what is learnt."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.spec.errors import InvalidRequest
from pipelines.spec.training import TrainingRequest
from pipelines.training.adapters import MAGNITUDE, Adapter


def make_optimizer(request: TrainingRequest, adapter: Adapter) -> torch.optim.Optimizer:
    """Return the optimizer, with groups for the U-Net and for the text encoders.

    DoRA's magnitudes do not decay: where nothing is learnt they are the norms of the model's weights, and not 0.
    """
    rates = {"lora_unet": request.learning_rate, "lora_te": request.effective_text_encoder_learning_rate}
    groups = [
        {"params": parameters, "lr": rate, "initial_lr": rate, "weight_decay": decay}
        for prefix, rate in rates.items()
        for is_magnitude, decay in ((False, request.weight_decay), (True, 0.0))
        if (parameters := [p for name, p in adapter.parameters(prefix).items() if (MAGNITUDE in name) is is_magnitude])
    ]
    kind: Any = torch.optim.AdamW
    if request.optimizer == "adamw8bit":
        kind = import_module("bitsandbytes").optim.AdamW8bit
    optimizer: torch.optim.Optimizer = kind(groups)
    return optimizer


def check_optimizer(request: TrainingRequest, device: torch.device) -> None:
    """Refuse an optimizer that this machine does not have.

    Raises:
        InvalidRequest: naming what is missing.
    """
    if request.optimizer != "adamw8bit":
        return
    missing = (
        "a CUDA card" if device.type != "cuda" else "" if find_spec("bitsandbytes") else "the package bitsandbytes"
    )
    if missing:
        raise InvalidRequest(
            f"optimizer adamw8bit needs {missing}, which is not there; choose adamw", field="optimizer"
        )


def learning_rate_share(request: TrainingRequest, step: int, num_steps: int) -> float:
    """Return the share of the learning rate at a step, from 0: a linear rise, and then as the schedule says."""
    if step < request.warmup_steps:
        return (step + 1) / request.warmup_steps
    done = (step - request.warmup_steps) / max(1, num_steps - request.warmup_steps)
    match request.lr_schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1 - done
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))


class Average:
    """An exponential running average of parameters (EMA); without a decay it is the parameters themselves.

    Args:
        parameters: what is followed, by name.
        decay: how much of the average stays at each step, at most; early steps forget faster.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float | None) -> None:
        self._parameters, self._decay = parameters, decay
        self.values: dict[str, Tensor] = {}
        if decay is not None:
            self.values = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def follow(self, steps_done: int) -> None:
        """Take the parameters after a step in."""
        if self._decay is None:
            return
        decay = min(self._decay, (1 + steps_done) / (10 + steps_done))
        for name, value in self.values.items():
            value.lerp_(self._parameters[name], 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the averages stand in the parameters' place."""
        kept = {name: self._parameters[name].data for name in self.values}
        for name, value in self.values.items():
            self._parameters[name].data = value
        try:
            yield
        finally:
            for name, value in kept.items():
                self._parameters[name].data = value
