"""From the keys of a LoRA file to the layers they are for. Every key has a meaning, or the file is refused.

kohya and LyCORIS write `lora_unet_mid_block_attentions_0_proj_in.lora_down.weight`: a layer's name without dots, then
the name of a tensor. diffusers and PEFT write `unet.mid_block.attentions.0.proj_in.lora_A.weight`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from pipelines.runtime.adapters.layers import FLAT_PREFIXES, Layers, Place, Target
from pipelines.runtime.adapters.unfit import Unreadable
from pipelines.spec.embeddings import BUNDLED

_TENSOR_NAMES: Mapping[str, str] = MappingProxyType(
    {
        # PEFT and diffusers -> kohya
        "lora_A.weight": "lora_down.weight",
        "lora_B.weight": "lora_up.weight",
        "lora_B.bias": "lora_up.bias",
        "lora_A.default.weight": "lora_down.weight",
        "lora_B.default.weight": "lora_up.weight",
        "lora_B.default.bias": "lora_up.bias",
        "lora.down.weight": "lora_down.weight",
        "lora.up.weight": "lora_up.weight",
        "lora_linear_layer.down.weight": "lora_down.weight",
        "lora_linear_layer.up.weight": "lora_up.weight",
        "down.weight": "lora_down.weight",
        "up.weight": "lora_up.weight",
        "lora_magnitude_vector": "magnitude",
        "lora_magnitude_vector.weight": "magnitude",
        "lora_magnitude_vector.default.weight": "magnitude",
        # kohya's own, behind names with dots: ComfyUI, ai-toolkit, OneTrainer
        **{name: name for name in ("lora_down.weight", "lora_up.weight", "lora_mid.weight", "alpha", "dora_scale")},
    }
)
_DOTTED_ENDINGS = sorted(_TENSOR_NAMES, key=len, reverse=True)
_PROCESSOR = re.compile(r"\.processor\.(to_q|to_k|to_v|to_out)_lora$|\.(to_q|to_k|to_v|to_out)_lora$")
_TEXT_ATTENTION: Mapping[str, str] = MappingProxyType(
    {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
)


@dataclass(frozen=True)
class Sorted:
    """The keys of a file, by what they are for."""

    layers: Mapping[Target, dict[str, Tensor]]
    """Tensors of each layer under kohya's names: lora_down.weight, alpha, hada_w1_a, …"""
    unknown: tuple[str, ...] = ()
    """Keys that name no layer of this model."""
    embeddings: tuple[str, ...] = ()
    """Keys of bundled textual inversions."""


def sort_keys(tensors: Mapping[str, Tensor], layers: Layers) -> Sorted:
    """Sort the keys of a file by the model's layers.

    Raises:
        Unreadable: two keys say the same of one layer.
    """
    found: dict[Target, dict[str, Tensor]] = {}
    unknown: list[str] = []
    embeddings: list[str] = []
    said: dict[tuple[Place, str], str] = {}
    """What is said of each layer -> the key that says it."""
    for key, tensor in tensors.items():
        if key.startswith(BUNDLED):
            embeddings.append(key)
            continue
        target, name = _flat(key, layers) if key.startswith(FLAT_PREFIXES) else _dotted(key, layers)
        if target is None:
            unknown.append(key)
            continue
        for place in target.places:
            if said.setdefault((place, name), key) != key:
                raise Unreadable(f"says the same of one layer twice, as {said[place, name]} and {key}")
        found.setdefault(target, {})[name] = tensor
    return Sorted(found, tuple(unknown), tuple(embeddings))


def _flat(key: str, layers: Layers) -> tuple[Target | None, str]:
    layer, _, name = key.partition(".")
    return layers.flat(layer), name


def _dotted(key: str, layers: Layers) -> tuple[Target | None, str]:
    key = key.removeprefix("base_model.model.")
    for ending in _DOTTED_ENDINGS:
        if key.endswith(f".{ending}"):
            return layers.dotted(_module(key.removesuffix(f".{ending}"))), _TENSOR_NAMES[ending]
    layer, _, name = key.rpartition(".")
    return layers.dotted(layer), name


def _module(name: str) -> str:
    """Return the module that an attention processor's projection stands beside, in files of old."""
    match = _PROCESSOR.search(name)
    if match is None:
        return name
    before, projection = name[: match.start()], match[1] or match[2]
    if name.startswith("text_encoder"):
        return f"{before}.{_TEXT_ATTENTION[projection]}"
    return f"{before}.{projection}" + (".0" if projection == "to_out" else "")
