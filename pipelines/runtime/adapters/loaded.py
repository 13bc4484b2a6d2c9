"""A LoRA in memory: read, checked against the model key by key, and kept while it fits."""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pipelines.runtime.adapters.deltas import Delta
from pipelines.runtime.adapters.formats import Unfit, build, file_alpha, sort_keys
from pipelines.runtime.adapters.layers import Layers, Place
from pipelines.spec.embeddings import bundled_layouts
from pipelines.spec.errors import LoraError
from pipelines.spec.loras import LoraFile
from pipelines.spec.safetensors_header import Header, read_header

MAX_BYTES = 2 * 2**30
"""What loaded LoRAs may hold together."""


@dataclass(frozen=True, eq=False)
class LoadedLora:
    """A LoRA whose every key has found its layer."""

    name: str
    sha256: str
    deltas: Mapping[Place, tuple[Delta, ...]]
    keys: Mapping[str, int]
    """How many keys of the file each part of the model took: text_encoder, unet, …; embeddings are words."""
    embeddings: Mapping[str, tuple[Tensor, ...]]
    """What it brings for words of prompts: name -> vectors for each text encoder, (vectors, width)."""
    num_bytes: int

    @property
    def audit(self) -> str:
        """How many keys were applied: "264/264: text encoder 72, unet 192"."""
        total = sum(self.keys.values())
        parts = ", ".join(f"{part.replace('_', ' ')} {count}" for part, count in sorted(self.keys.items()))
        return f"{total}/{total}: {parts}"


class LoraCache:
    """Loaded LoRAs of one model, the most recently used last, within a number of bytes.

    Args:
        layers: of the model.
        model_name: for messages.
        family: "Stable Diffusion 1.x", for messages.
        max_bytes: older ones are dropped to stay below; those in use may exceed it.
    """

    def __init__(self, layers: Layers, *, model_name: str, max_bytes: int = MAX_BYTES) -> None:
        self.layers = layers
        self._model_name = model_name
        self._max_bytes = max_bytes
        self._loaded: OrderedDict[str, LoadedLora] = OrderedDict()

    def get(self, file: LoraFile) -> LoadedLora:
        """Return the LoRA, from the file if it is not in memory.

        Raises:
            LoraError: the file is missing, damaged, changed, not finite, or does not fit the model.
        """
        loaded = self._loaded.get(file.sha256)
        if loaded is None:
            loaded = load(file, layers=self.layers, model_name=self._model_name)
            self._loaded[file.sha256] = loaded
        self._loaded.move_to_end(file.sha256)
        return loaded

    def shrink(self) -> None:
        """Drop those used longest ago until the rest fits."""
        while len(self._loaded) > 1 and sum(each.num_bytes for each in self._loaded.values()) > self._max_bytes:
            self._loaded.popitem(last=False)


def load(file: LoraFile, *, layers: Layers, model_name: str) -> LoadedLora:
    """Read a LoRA and find the layer of every key.

    Raises:
        LoraError: see `LoraCache.get`.
    """
    header = read_header(file.path)
    data = file.path.read_bytes()
    digest = hashlib.sha256(memoryview(data)[header.data_start :]).hexdigest()
    if digest != file.sha256:
        raise LoraError(
            f"LoRA {file.name!r}: {file.path} has changed: its tensors have the hash {digest[:12]}, and "
            f"{file.sha256[:12]} was asked for; choose it again"
        )
    try:
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise LoraError(f"LoRA {file.name!r}: {file.path} cannot be read: {error}") from error
    tensors = _finite(file, tensors)
    found = sort_keys({key: tensors[key] for key in sorted(tensors)}, layers)
    if not found.layers:
        raise LoraError(
            f"LoRA {file.name!r} changes no layer of model {model_name}: none of its {len(tensors)} keys, such as "
            f"{next(iter(tensors), 'none')}, belongs to it; it was made for another kind of model"
        )
    if found.unknown:
        raise LoraError(
            f"LoRA {file.name!r} fits model {model_name} in part only: {len(found.unknown)} of its {len(tensors)} keys "
            f"belong to no layer, first {found.unknown[0]}; it was made for another kind of model"
        )
    alpha = file_alpha(header.metadata)
    deltas: dict[Place, tuple[Delta, ...]] = {}
    keys: dict[str, int] = {}
    for place, parts in found.layers.items():
        layer = layers[place]
        try:
            built = build(parts, layer, alpha=alpha)
        except Unfit as error:
            raise LoraError(
                f"LoRA {file.name!r} does not fit model {model_name}: {place.path} {error}; "
                "it was made for another kind of model"
            ) from error
        deltas[place] = tuple(_settled(each, layer) for each in built)
        keys[place.part] = keys.get(place.part, 0) + len(parts)
    embeddings = _embeddings(file, header, tensors, layers=layers, model_name=model_name)
    if found.embeddings:
        keys["embeddings"] = len(found.embeddings)
    num_bytes = _num_bytes(deltas) + sum(each.nbytes for vectors in embeddings.values() for each in vectors)
    return LoadedLora(file.name, file.sha256, deltas, keys, embeddings, num_bytes)


def _embeddings(
    file: LoraFile, header: Header, tensors: Mapping[str, Tensor], *, layers: Layers, model_name: str
) -> dict[str, tuple[Tensor, ...]]:
    """Return the vectors that the file brings for words, for each text encoder: (vectors, width)."""
    embeddings = {}
    for name, layout in bundled_layouts(header, file.path).items():
        if layout.widths != layers.text_widths:
            raise LoraError(
                f"LoRA {file.name!r} does not fit model {model_name}: it brings embedding {name!r} for "
                f"{layout.made_for}, and this model takes {'+'.join(map(str, layers.text_widths))}"
            )
        embeddings[name] = tuple(tensors[key].reshape(layout.vectors, -1) for key in layout.keys)
    return embeddings


def _finite(file: LoraFile, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors, numbers in float32, after making sure that they are numbers."""
    converted = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}
    for key, tensor in converted.items():
        if tensor.is_floating_point() and tensor.numel():
            least, most = tensor.aminmax()  # one pass; NaN is both
            if not (math.isfinite(least) and math.isfinite(most)):
                raise LoraError(
                    f"LoRA {file.name!r}: {key} holds NaN or infinity: the file is damaged; download it again"
                )
    return converted


def _num_bytes(deltas: Mapping[Place, tuple[Delta, ...]]) -> int:
    return sum(t.nbytes for built in deltas.values() for each in built for t in each.tensors())


def _settled(delta: Delta, layer: Any) -> Delta:
    """Return a delta whose tensors are where the layer computes, in the precision it computes in."""
    weight = layer.weight
    dtype = weight.dtype if weight.is_floating_point() else torch.float32
    settled: Delta = _mapped(delta, lambda tensor: tensor.to(weight.device, dtype).contiguous())
    return settled


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    match value:
        case Tensor():
            return change(value)
        case tuple():
            return tuple(_mapped(each, change) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        own = {each.name: _mapped(getattr(value, each.name), change) for each in fields(value)}
        return replace(value, **own)
    return value
