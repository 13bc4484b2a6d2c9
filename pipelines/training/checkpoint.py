"""The state of an unfinished training in one safetensors file, and back."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pipelines.spec.errors import InvalidRequest
from pipelines.spec.resuming import CHECKPOINT_NAME, IDENTITY, damaged, lasting, refuse_another
from pipelines.spec.training import TrainingRequest
from pipelines.training.files import write_safetensors
from pipelines.training.optimization import Average


@dataclass(frozen=True, eq=False)
class State:
    """All that changes while training."""

    parameters: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    average: Average
    scaler: torch.amp.GradScaler


@dataclass(frozen=True)
class Identity:
    """What a checkpoint belongs to; another training must not take it up."""

    request: TrainingRequest
    model_fingerprint: str
    data_sha256: str

    def to_json(self) -> dict[str, Any]:
        """Return what decides about what is learnt."""
        return {**lasting(self.request), "model_fingerprint": self.model_fingerprint, "data_sha256": self.data_sha256}


def save(folder: Path, state: State, *, step: int, started_at: float, identity: Identity) -> None:
    """Write the checkpoint.

    Raises:
        StorageError: the disk refused; the older checkpoint stays.
    """
    tensors = {f"parameter/{name}": parameter.data for name, parameter in state.parameters.items()}
    tensors |= {f"average/{name}": value for name, value in state.average.values.items()}
    plain: dict[str, dict[str, float | int]] = {}
    for index, entries in state.optimizer.state_dict()["state"].items():
        for key, value in _flat(entries):
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = value
            elif isinstance(value, int | float):
                plain.setdefault(str(index), {})[key] = value
    metadata = {
        "step": str(step),
        "started_at": repr(started_at),
        IDENTITY: json.dumps(identity.to_json(), sort_keys=True),
        "optimizer": json.dumps(plain),
        "scaler": json.dumps(state.scaler.state_dict()),
    }
    write_safetensors(folder / CHECKPOINT_NAME, tensors, metadata)


def load(folder: Path, state: State, *, identity: Identity) -> tuple[int, float]:
    """Take up the checkpoint of a folder; return the steps done and when the training began.

    Raises:
        InvalidRequest: there is none, it is damaged, or it belongs to another request, data set or model.
    """
    path = folder / CHECKPOINT_NAME
    if not path.is_file():
        raise InvalidRequest(
            f"existing: there is no checkpoint {path} to resume; choose refuse or overwrite", field="existing"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        refuse_another(json.loads(metadata[IDENTITY]), identity.to_json(), path)
        return _restore(state, tensors, metadata)
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise damaged(path, error) from error


def _flat(entries: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Return what an optimizer keeps of one parameter. bitsandbytes wraps it in one more level, and needs none back."""
    for key, value in entries.items():
        yield from _flat(value) if isinstance(value, dict) else [(key, value)]


@torch.no_grad()
def _restore(state: State, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[int, float]:
    for name, parameter in state.parameters.items():
        parameter.copy_(tensors[f"parameter/{name}"])
    for name, value in state.average.values.items():
        value.copy_(tensors[f"average/{name}"])
    entries: dict[int, dict[str, Any]] = {
        int(index): dict(values) for index, values in json.loads(metadata["optimizer"]).items()
    }
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/", 2)
            entries.setdefault(int(index), {})[key] = tensor
    state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": entries})
    state.scaler.load_state_dict(json.loads(metadata["scaler"]))
    return int(metadata["step"]), float(metadata["started_at"])
