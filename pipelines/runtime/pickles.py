"""Reads the tensors of pickles (`.pth`, `.pt`, `.bin`, `.ckpt`) without running anything that is in them."""

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.runtime.guards import is_out_of_memory
from pipelines.runtime.tensor_files import DTYPE_NAMES, write_tensors
from pipelines.spec.errors import ModelError
from pipelines.spec.pickles import Unpickled

NESTS = ("model_state_dict", "state_dict", "params_ema", "params-ema", "params", "model", "net")
"""Under which name the tensors of a model lie, if not at the top; the first that is there counts, as in spandrel."""
MAX_GROWTH = 4
"""A file says which numbers belong to which tensor. More than so many times its size, in bytes, it cannot hold."""
_MAX_NESTS = 2
"""As spandrel; a pickle can hold itself."""
_METADATA = {"format": "pt"}
"""What transformers asks of a safetensors file."""
_EMBEDDING = "string_to_param"
"""A1111's name for what an embedding has learnt, by placeholder: one."""
_GLOBAL = re.compile(r"GLOBAL (\S{1,80})")
"""How torch names what a file asks for and does not get."""


def unpickle(path: Path) -> Unpickled:
    """Read the tensors of a pickle into safetensors' layout: one flat table of names.

    Raises:
        ModelError: the file holds or asks for more than data, is damaged, holds no tensors, or some that safetensors
            cannot hold or that are NaN or infinite.
    """
    tensors, left_out = _table(_load(path), path)
    if not tensors:
        held = f"only {_listed(left_out)}" if left_out else "nothing"
        raise ModelError(f"{path} holds no tensors by names, {held}; it is no model, LoRA or embedding")
    for name, tensor in tensors.items():
        _check_kind(name, tensor, path)
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > MAX_GROWTH * path.stat().st_size:
        raise ModelError(
            f"{path} has {path.stat().st_size} bytes and claims tensors of {size}; it is not what it claims to be"
        )
    for name, tensor in tensors.items():
        _check_numbers(name, tensor, path)
    in_order = dict(sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])))  # so each lies aligned
    return Unpickled(len(tensors), size, left_out, lambda file: write_tensors(file, in_order, _METADATA))


def _load(path: Path) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"), path.open("rb") as file:  # of its protocol, and TorchScript
            source = path if _can_be_mapped(path) else file
            return torch.load(source, map_location="cpu", weights_only=True, mmap=source is path)
    except Exception as error:  # unpicklers raise what they like
        raise ModelError(f"{path} {_reason(error)}") from error


def _can_be_mapped(path: Path) -> bool:
    """Whether torch can read it without copying: a zip of parts as they are, not called what torch leaves to others."""
    if path.suffix.lower() == ".safetensors" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as parts:
        return all(part.compress_type == zipfile.ZIP_STORED for part in parts.infolist())


def _reason(error: Exception) -> str:
    """Say why torch refused; its own words advise to run the code."""
    message = str(error)
    if asked := _GLOBAL.search(message):
        return (
            f"is not converted: it asks for {asked[1]}, and only tensors and plain values are read, since more could "
            "run code; get a safetensors file from its author, or a file of the tensors alone"
        )
    if "TorchScript" in message:
        return "is not converted: it is a program (TorchScript), not tensors; get the model's weights instead"
    if is_out_of_memory(error):
        return (
            "cannot be read: it wants more memory than there is; close other programs, or get it again if it is small"
        )
    return "cannot be read: it is cut short, damaged, or not from torch.save; download it again"


def _table(content: Any, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the tensors by name, and the names of everything that is left out on the way to them."""
    if not isinstance(content, Mapping):
        raise ModelError(f"{path} holds no tensors by names, but one {type(content).__name__}; it tells not what it is")
    left_out: list[str] = []
    for _ in range(_MAX_NESTS):
        nest = _nest(content)
        if nest is None:
            break
        left_out += [_name(key) for key in content if key != nest]
        content = content[nest]
        if nest == _EMBEDDING and len(content) == 1:
            content = {"emb_params": next(iter(content.values()))}  # its name in A1111's safetensors files
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor) and _is_writable(key)}
    return tensors, (*left_out, *(_name(key) for key in content if key not in tensors))


def _nest(content: Mapping[Any, Any]) -> Any:
    """Return the name under which the tensors lie; None if they lie here."""
    for name in (_EMBEDDING, *NESTS):
        if isinstance(content.get(name), Mapping):
            return name
    (only,) = content if len(content) == 1 else (None,)
    return only if isinstance(content.get(only), Mapping) else None


def _is_writable(name: Any) -> bool:
    """Whether a safetensors file can call a tensor so."""
    return isinstance(name, str) and name != "__metadata__" and name.encode(errors="replace").decode() == name


def _name(key: Any) -> str:
    return key[:80] if isinstance(key, str) else repr(key)[:80]


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _check_kind(name: str, tensor: Tensor, path: Path) -> None:
    kind = f"{tensor.layout} of {tensor.dtype} on {tensor.device}".replace("torch.", "")
    if tensor.layout != torch.strided or tensor.dtype not in DTYPE_NAMES or tensor.device.type != "cpu":
        raise ModelError(f"{path}: {name[:80]} is {kind}, which safetensors cannot hold; get another version of it")


def _check_numbers(name: str, tensor: Tensor, path: Path) -> None:
    if tensor.is_floating_point():
        numbers = tensor.float() if tensor.itemsize == 1 else tensor
        if not bool(torch.isfinite(numbers).all()):
            raise ModelError(f"{path}: {name[:80]} holds NaN or infinity: the file is damaged; get another")
