"""LoRA files for tiny models, in the dialects that programs write."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipelines.runtime.adapters.layers import sgm_path
from pipelines.runtime.loading import Components
from pipelines.spec.loras import LoraFile, ResolvedLora
from pipelines.spec.safetensors_header import read_header

RANK = 2
Weights = dict[tuple[str, str], tuple[Tensor, Tensor]]
"""(part, module path) -> down and up."""


def random_weights(components: Components, *, parts: tuple[str, ...] = ("unet", "text_encoder")) -> Weights:
    """A LoRA on every projection of attention and every convolution of residual blocks."""
    generator = torch.Generator().manual_seed(7)
    modules = {"unet": components.unet, "text_encoder": components.text_encoders[0]}
    modules |= {"text_encoder_2": components.text_encoders[-1]} if len(components.text_encoders) > 1 else {}
    weights: Weights = {}
    for part in parts:
        for path, module in modules[part].named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and path.rpartition(".")[2] in _TARGETS:
                out, inside, *kernel = module.weight.shape
                down = torch.randn(RANK, inside, *kernel, generator=generator) / 4
                up = torch.randn(out, RANK, *[1] * len(kernel), generator=generator) / 4
                weights[part, path.removeprefix("text_model.")] = down, up
    return weights


_TARGETS = {"to_q", "to_k", "to_v", "0", "proj_in", "conv1", "conv2", "q_proj", "k_proj", "v_proj", "out_proj", "fc1"}


def kohya(weights: Weights, *, text_prefixes: Mapping[str, str] | None = None, sgm: Any = None) -> dict[str, Tensor]:
    prefixes = text_prefixes or {"text_encoder": "lora_te_"}
    tensors = {}
    for (part, path), (down, up) in weights.items():
        name = sgm_path(path, **sgm) if sgm is not None and part == "unet" else path
        name = name if part == "unet" else f"text_model.{name}"
        stem = {"unet": "lora_unet_", **prefixes}[part] + name.replace(".", "_")
        tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(1.0)}
    return tensors


def dotted(weights: Weights, *, prefix: str = "", names: tuple[str, str] = ("lora_A", "lora_B")) -> dict[str, Tensor]:
    """diffusers and PEFT; no alpha, which means the rank."""
    tensors = {}
    for (part, path), (down, up) in weights.items():
        name = path if part == "unet" else f"text_model.{path}"
        stem = f"{prefix}{part}.{name}" if not prefix else f"{prefix}{name}"
        tensors |= {f"{stem}.{names[0]}.weight": down, f"{stem}.{names[1]}.weight": up}
    return tensors


def processors(weights: Weights) -> dict[str, Tensor]:
    """diffusers before PEFT: projections stand beside the attention processor."""
    tensors = {}
    for (part, path), (down, up) in weights.items():
        before, _, projection = path.removesuffix(".0").rpartition(".")
        if part == "unet" and projection in {"to_q", "to_k", "to_v", "to_out"}:
            stem = f"unet.{before}.processor.{projection}_lora"
            tensors |= {f"{stem}.down.weight": down, f"{stem}.up.weight": up}
    return tensors


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> LoraFile:
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata)
    return lora_file(path)


def write_packed(path: Path, tensors: dict[str, Tensor]) -> LoraFile:
    """Write tensors one behind the other, which safetensors' own writer sorts by the size of their numbers."""
    write(path, tensors)
    entries = read_header(path).tensors
    header, data = {}, b""
    for key, value in tensors.items():
        raw = value.reshape(-1).view(torch.uint8).numpy().tobytes()
        offsets = len(data), len(data) + len(raw)
        header[key] = {"dtype": entries[key].dtype, "shape": list(value.shape), "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return lora_file(path)


def lora_file(path: Path, *, name: str | None = None) -> LoraFile:
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    return LoraFile(name or path.stem, path, hashlib.sha256(data[start:]).hexdigest())


def asked(file: LoraFile, weight: float = 1.0, **fields: Any) -> ResolvedLora:
    values = {"text_encoder_weight": weight, "block_weights": {}, "start": 0.0, "end": 1.0, **fields}
    return ResolvedLora(name=file.name, sha256=file.sha256, weight=weight, **values)


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite a file's header, whatever that breaks."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
