"""A LoRA in memory: read, checked against the model key by key, and kept while it fits."""

import re
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from pipelines.runtime.adapters.deltas import Butterfly, Decomposed, Delta, Norm, Rotated
from pipelines.runtime.adapters.formats import build
from pipelines.runtime.adapters.keys import Sorted, sort_keys
from pipelines.runtime.adapters.layers import Layers, Place
from pipelines.runtime.adapters.placing import settled
from pipelines.runtime.adapters.reading import read
from pipelines.runtime.adapters.unfit import Unfit, Unreadable
from pipelines.spec.embeddings import bundled_layouts
from pipelines.spec.errors import LoraError, ModelError
from pipelines.spec.families.sd1 import SD1
from pipelines.spec.families.sdxl import SDXL
from pipelines.spec.lora_notes import Notes, UnreadableNotes, config_stamp
from pipelines.spec.loras import ALL_ZERO, LoraFile
from pipelines.spec.safetensors_header import Header

MAX_BYTES = 2 * 2**30
"""What loaded LoRAs may hold together."""

_CROSS_ATTENTION = re.compile(r"attn2[._](processor[._])?to_[kv]")
_INPUT_SIDE = re.compile(r"(down|lora_A(\.\w+)*)\.weight$|hada_w1_b$|diff$")
_FAMILIES: Mapping[int, str] = MappingProxyType({768: SD1.label, 1024: "Stable Diffusion 2.x", 2048: SDXL.label})
"""By the width of the text that cross-attention reads."""
Stamp = tuple[str, Path, int, int, int | None]
"""Hash, path, size and time of the file, and time of what PEFT notes beside it: the hash is of the tensors alone."""


@dataclass(frozen=True, eq=False)
class LoadedLora:
    """A LoRA whose every key has found its layer."""

    name: str
    stamp: Stamp
    """Another where the tensors, what they are called or what is noted about them is another."""
    deltas: Mapping[Place, tuple[Delta, ...]]
    embeddings: Mapping[str, tuple[Tensor, ...]]
    """What it brings for words of prompts: name -> vectors for each text encoder, (vectors, width)."""
    num_bytes: int
    notes: str = ""
    """`Notes.digest`: strengths that are noted outside of the tensors, which its hash does not cover."""
    idle: frozenset[Place] = frozenset()
    """The layers to which it adds zeros."""

    def audit(self, acting: Iterable[Place]) -> str:
        """Return how much of the file acts, and where: "194/266: embeddings 2, unet 192" without the text encoder.

        Counted are layers and, where the file brings words for prompts, those. Where all that acts adds zeros, it ends
        with ALL_ZERO.

        Args:
            acting: the layers that are changed.
        """
        acting = frozenset(acting)
        counts = Counter(place.part for place in acting) + Counter(embeddings=len(self.embeddings))
        total = len(self.deltas) + len(self.embeddings)
        parts = ", ".join(f"{part.replace('_', ' ')} {count}" for part, count in sorted(counts.items()))
        noted = f"; strengths as noted ({self.notes})" if self.notes else ""
        zero = f"; {ALL_ZERO}" if acting <= self.idle and not self.embeddings else ""
        return f"{counts.total()}/{total}: {parts}{noted}{zero}"


class LoraCache:
    """Loaded LoRAs of one model, the most recently used last, within a number of bytes.

    Args:
        layers: of the model.
        model_name: for messages.
        dtype: what the model computes in, which quantized layers do not say.
        max_bytes: older ones are dropped to stay below; those in use may exceed it.
    """

    def __init__(
        self, layers: Layers, *, model_name: str, dtype: torch.dtype = torch.float32, max_bytes: int = MAX_BYTES
    ) -> None:
        self.layers = layers
        self._model_name = model_name
        self._dtype = dtype
        self._max_bytes = max_bytes
        self._loaded: OrderedDict[Stamp, LoadedLora] = OrderedDict()

    def get(self, file: LoraFile) -> LoadedLora:
        """Return the LoRA, from the file if it is not in memory.

        Raises:
            LoraError: the file is missing, damaged, changed, not finite, or does not fit the model.
        """
        stamp = _stamp(file)
        loaded = self._loaded.get(stamp)
        if loaded is None:
            loaded = load(file, layers=self.layers, model_name=self._model_name, dtype=self._dtype)
            self._loaded[loaded.stamp] = loaded
        self._loaded.move_to_end(loaded.stamp)
        return loaded

    def forget(self) -> None:
        """Drop all of them."""
        self._loaded.clear()

    def shrink(self) -> None:
        """Drop those used longest ago until the rest fits."""
        while len(self._loaded) > 1 and sum(each.num_bytes for each in self._loaded.values()) > self._max_bytes:
            self._loaded.popitem(last=False)


def load(file: LoraFile, *, layers: Layers, model_name: str, dtype: torch.dtype = torch.float32) -> LoadedLora:
    """Read a LoRA and find the layer of every key.

    Raises:
        LoraError: see `LoraCache.get`.
    """
    stamp = _stamp(file)
    tensors, header = read(file)
    try:
        notes = Notes.of(file.path, header)
        found = sort_keys({key: tensors[key] for key in sorted(tensors)}, layers)
    except (Unreadable, UnreadableNotes) as error:
        raise LoraError(f"LoRA {file.name!r} cannot be applied: {file.path} {error}") from error
    _check_found(found, tensors, file=file, layers=layers, model_name=model_name)
    deltas: dict[Place, tuple[Delta, ...]] = {}
    for target, parts in found.layers.items():
        first, *_ = target.places
        adapted = [layers[place] for place in target.places]
        try:
            built = build(parts, adapted, strength=notes.strength(*first), is_swapped=target.is_swapped)
        except Unreadable as error:
            raise LoraError(f"LoRA {file.name!r} cannot be applied: {first.path} {error}") from error
        except Unfit as error:
            sides = _sides(tensors, layers, model_name)
            raise LoraError(
                f"LoRA {file.name!r} does not fit model {model_name}: {sides}{first.path} {error}; "
                "choose another model, or leave the LoRA out"
            ) from error
        for place, layer, each in zip(target.places, adapted, built, strict=True):
            own = tuple(settled(delta, layer.weight.device, dtype) for delta in each)
            deltas[place] = deltas.get(place, ()) + own
    embeddings = _embeddings(file, header, tensors, layers=layers, model_name=model_name)
    num_bytes = _num_bytes(deltas.values()) + sum(each.nbytes for vectors in embeddings.values() for each in vectors)
    idle = frozenset(place for place, own in deltas.items() if all(map(_adds_zeros, own)))
    return LoadedLora(file.name, stamp, deltas, embeddings, num_bytes, notes.digest, idle)


def _stamp(file: LoraFile) -> Stamp:
    try:
        state = file.path.stat()
    except OSError as error:
        raise LoraError(f"LoRA {file.name!r}: {file.path} cannot be read: {error.strerror}") from error
    return file.sha256, file.path, state.st_size, state.st_mtime_ns, config_stamp(file.path)


def _check_found(
    found: Sorted, tensors: Mapping[str, Tensor], *, file: LoraFile, layers: Layers, model_name: str
) -> None:
    """Check that every key has found its layer."""
    if found.layers and not found.unknown:
        return
    sides = _sides(tensors, layers, model_name)
    if not found.layers:
        raise LoraError(
            f"LoRA {file.name!r} changes no layer of model {model_name}: {sides}none of its {len(tensors)} keys, such "
            f"as {next(iter(tensors), 'none')}, belongs to it; choose another model, or leave the LoRA out"
        )
    raise LoraError(
        f"LoRA {file.name!r} fits model {model_name} in part only: {sides}{len(found.unknown)} of its {len(tensors)} "
        f"keys belong to no layer, first {found.unknown[0]}; choose another model, or leave the LoRA out"
    )


def _embeddings(
    file: LoraFile, header: Header, tensors: Mapping[str, Tensor], *, layers: Layers, model_name: str
) -> dict[str, tuple[Tensor, ...]]:
    """Return the vectors that the file brings for words, for each text encoder: (vectors, width)."""
    embeddings = {}
    try:
        layouts = bundled_layouts(header, file.path)
    except ModelError as error:
        raise LoraError(f"LoRA {file.name!r} cannot be applied: {error}") from error
    for name, layout in layouts.items():
        if layout.widths != layers.text_widths:
            raise LoraError(
                f"LoRA {file.name!r} does not fit model {model_name}: it brings embedding {name!r} for "
                f"{layout.made_for}, and this model takes {'+'.join(map(str, layers.text_widths))}"
            )
        embeddings[name] = tuple(tensors[key].reshape(layout.vectors, -1) for key in layout.keys)
    return embeddings


def _sides(tensors: Mapping[str, Tensor], layers: Layers, model_name: str) -> str:
    """Return for what the LoRA was made and what the model is, as far as the text that both read tells them apart."""
    for key, tensor in tensors.items():
        if _CROSS_ATTENTION.search(key) and _INPUT_SIDE.search(key) and tensor.dim() > 1:
            width = tensor.shape[1]
            if layers.text_width is not None and width != layers.text_width:
                return f"it was made for {_reader(width)}, and model {model_name} is for {_reader(layers.text_width)}; "
    return ""


def _reader(width: int) -> str:
    return f"{_FAMILIES[width]} (text of width {width})" if width in _FAMILIES else f"text of width {width}"


def _adds_zeros(delta: Delta) -> bool:
    """Whether a delta adds nothing because of zeros; what turns or rescales outputs is not looked through."""
    match delta:
        case Decomposed() | Rotated() | Butterfly():
            return False
        case Norm():
            return not any(tensor.any() for tensor in delta.tensors())
    return not all(tensor.any() for tensor in delta.tensors())  # its tensors are factors of one product


def _num_bytes(deltas: Iterable[tuple[Delta, ...]]) -> int:
    return sum(tensor.nbytes for built in deltas for each in built for tensor in each.tensors())
