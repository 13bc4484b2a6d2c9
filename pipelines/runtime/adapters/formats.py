"""From the keys of a LoRA file to one delta per layer. Every key has a meaning, or the file is refused.

kohya and LyCORIS write `lora_unet_mid_block_attentions_0_proj_in.lora_down.weight`: a layer's name without dots, then
the name of a tensor. diffusers and PEFT write `unet.mid_block.attentions.0.proj_in.lora_A.weight`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.runtime.adapters import deltas
from pipelines.runtime.adapters.deltas import Delta
from pipelines.runtime.adapters.layers import Layers, Place
from pipelines.spec.embeddings import BUNDLED

Tensors = Mapping[str, Tensor]

_FLAT_PREFIXES = ("lora_unet_", "lora_te", "lycoris_", "oft_unet_")
_TENSOR_NAMES: Mapping[str, str] = MappingProxyType(
    {
        # PEFT and diffusers -> kohya
        "lora_A.weight": "lora_down.weight",
        "lora_B.weight": "lora_up.weight",
        "lora_A.default.weight": "lora_down.weight",
        "lora_B.default.weight": "lora_up.weight",
        "lora.down.weight": "lora_down.weight",
        "lora.up.weight": "lora_up.weight",
        "lora_linear_layer.down.weight": "lora_down.weight",
        "lora_linear_layer.up.weight": "lora_up.weight",
        "down.weight": "lora_down.weight",
        "up.weight": "lora_up.weight",
        "lora_magnitude_vector": "magnitude",
        "lora_magnitude_vector.weight": "magnitude",
        "lora_magnitude_vector.default.weight": "magnitude",
        # kohya's own behind a name with dots, as OneTrainer and others write
        **{name: name for name in ("lora_down.weight", "lora_up.weight", "lora_mid.weight", "alpha", "dora_scale")},
    }
)
_DOTTED_ENDINGS = sorted(_TENSOR_NAMES, key=len, reverse=True)
_PROCESSOR = re.compile(r"\.processor\.(to_q|to_k|to_v|to_out)_lora$|\.(to_q|to_k|to_v|to_out)_lora$")
_TEXT_ATTENTION: Mapping[str, str] = MappingProxyType(
    {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
)


class Unfit(Exception):
    """The file does not fit the model. `str(error)` says why, without naming the file."""


@dataclass(frozen=True)
class Sorted:
    """The keys of a file, by what they are for."""

    layers: Mapping[Place, dict[str, Tensor]]
    """Tensors of each layer under kohya's names: lora_down.weight, alpha, hada_w1_a, …"""
    unknown: tuple[str, ...] = ()
    """Keys that name no layer of this model."""
    embeddings: tuple[str, ...] = ()
    """Keys of bundled textual inversions."""


@dataclass
class _Collected:
    layers: dict[Place, dict[str, Tensor]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    embeddings: list[str] = field(default_factory=list)


def sort_keys(tensors: Tensors, layers: Layers) -> Sorted:
    """Sort the keys of a file by the model's layers."""
    found = _Collected()
    for key, tensor in tensors.items():
        if key.startswith(BUNDLED):
            found.embeddings.append(key)
            continue
        place, name = _flat(key, layers) if key.startswith(_FLAT_PREFIXES) else _dotted(key, layers)
        if place is None:
            found.unknown.append(key)
        else:
            found.layers.setdefault(place, {})[name] = tensor
    return Sorted(found.layers, tuple(found.unknown), tuple(found.embeddings))


def build(tensors: Tensors, layer: Any, *, scale: Callable[[int], float]) -> tuple[Delta, ...]:
    """Return what the tensors of one layer add to it.

    Args:
        tensors: under kohya's names.
        layer: the base layer.
        scale: what a change of a rank is multiplied with where the layer has no alpha of its own.

    Raises:
        Unfit: a shape does not fit the layer, a tensor is missing or unknown.
    """
    names = frozenset(tensors)
    for builder, required, optional in _KINDS:
        if required <= names <= required | optional:
            return builder(_Parts(tensors, layer, scale))
    raise Unfit(f"has {', '.join(sorted(names))}, which together are no kind that is known")


def _flat(key: str, layers: Layers) -> tuple[Place | None, str]:
    layer, _, name = key.partition(".")
    return layers.flat(layer), name


def _dotted(key: str, layers: Layers) -> tuple[Place | None, str]:
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


@dataclass(frozen=True)
class _Parts:
    """The tensors of one layer while they are put together."""

    tensors: Tensors
    layer: Any
    file_scale: Callable[[int], float]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def get(self, name: str) -> Tensor | None:
        return self.tensors.get(name)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the base weight; packed weights of quantized layers have another."""
        layer = self.layer
        if isinstance(layer, nn.Linear):
            return layer.out_features, layer.in_features
        return tuple(layer.weight.shape)

    def scale(self, rank: int) -> float:
        alpha = self.get("alpha")
        return self.file_scale(rank) if alpha is None else float(alpha) / rank

    def check(self, name: str, *, shape: tuple[int, ...]) -> Tensor:
        """Return a tensor of the wanted shape, or of one that differs by sides of 1 at the end."""
        tensor = self[name]
        if tuple(tensor.shape) == shape:
            return tensor
        if _trimmed(tensor.shape) == _trimmed(shape) and tensor.numel() == torch.Size(shape).numel():
            return tensor.reshape(shape)
        raise Unfit(f"has {name} of {_by(tensor.shape)}, where the model needs {_by(shape)}")


def _lora(parts: _Parts) -> tuple[Delta, ...]:
    rank = parts["lora_down.weight"].shape[0]
    out, inside, *kernel = parts.shape
    pointwise = [1] * len(kernel)
    mid = None
    if parts.get("lora_mid.weight") is not None:
        mid = parts.check("lora_mid.weight", shape=(rank, rank, *kernel))
        down = parts.check("lora_down.weight", shape=(rank, inside, *pointwise))
    else:
        down = parts.check("lora_down.weight", shape=(rank, inside, *kernel))
    up = parts.check("lora_up.weight", shape=(out, rank, *pointwise))
    return _decomposed(parts, deltas.LowRank(down, up, parts.scale(rank), mid))


def _loha(parts: _Parts) -> tuple[Delta, ...]:
    rank = parts["hada_w1_b"].shape[0]
    hadamard = deltas.Hadamard(
        parts["hada_w1_a"],
        parts["hada_w1_b"],
        parts["hada_w2_a"],
        parts["hada_w2_b"],
        parts.scale(rank),
        parts.shape,
        t1=parts.get("hada_t1"),
        t2=parts.get("hada_t2"),
    )
    return _decomposed(parts, _dense(hadamard))


def _lokr(parts: _Parts) -> tuple[Delta, ...]:
    first = _factor(parts, "lokr_w1")
    second = _factor(parts, "lokr_w2")
    split = [each[1] for each in (first, second) if len(each) == 2]
    # where both factors are whole there is no rank, and LyCORIS ignores alpha
    scale = parts.scale(split[0].shape[0]) if split else 1.0
    kronecker = deltas.Kronecker(first, second, scale, parts.shape, parts.get("lokr_t2"))
    return _decomposed(parts, _dense(kronecker))


def _factor(parts: _Parts, name: str) -> tuple[Tensor, ...]:
    whole = parts.get(name)
    if whole is not None:
        return (whole,)
    try:
        return parts[f"{name}_a"], parts[f"{name}_b"]
    except KeyError as error:
        raise Unfit(f"lacks {error.args[0]}") from error


def _diff(parts: _Parts) -> tuple[Delta, ...]:
    change = _dense(deltas.Difference(parts.check("diff", shape=parts.shape)))
    return (change, *_bias(parts))


def _bias(parts: _Parts) -> tuple[Delta, ...]:
    if parts.get("diff_b") is None:
        return ()
    return (deltas.Bias(parts.check("diff_b", shape=parts.shape[:1])),)


def _norm(parts: _Parts) -> tuple[Delta, ...]:
    names = ("w_norm", "b_norm") if parts.get("w_norm") is not None else ("diff", "diff_b")
    weight = parts.check(names[0], shape=parts.shape)
    bias = None if parts.get(names[1]) is None else parts.check(names[1], shape=parts.shape)
    return (deltas.Norm(weight, bias),)


def _diff_of_any(parts: _Parts) -> tuple[Delta, ...]:
    return _norm(parts) if isinstance(parts.layer, nn.GroupNorm | nn.LayerNorm) else _diff(parts)


def _ia3(parts: _Parts) -> tuple[Delta, ...]:
    on_input = bool(parts["on_input"].item())
    size = parts.shape[1 if on_input else 0]
    if parts["weight"].numel() != size:
        raise Unfit(f"has weight of {_by(parts['weight'].shape)}, where the model needs {size}")
    return (deltas.Scaled(parts["weight"].flatten(), not on_input),)


def _oft(parts: _Parts) -> tuple[Delta, ...]:
    """Blocks (blocks, size, size) of OFT, or (stages, blocks, size, size) of BOFT; alpha limits the turn (COFT)."""
    blocks = parts["oft_blocks" if parts.get("oft_blocks") is not None else "oft_diag"]
    out = parts.shape[0]
    *stages, number, size, also_size = blocks.shape if blocks.dim() in {3, 4} else (0, 0, 0)
    widest = 2 ** stages[0] * size // 2 if stages else size
    if size != also_size or number * size != out or (stages and size % 2) or widest == 0 or out % widest:
        raise Unfit(f"has oft_blocks of {_by(blocks.shape)}, which do not turn {out} outputs")
    alpha = parts.get("alpha")
    turned = deltas.rotations(blocks, constraint=0.0 if alpha is None else float(alpha) * out)
    rescale = None if parts.get("rescale") is None else parts.check("rescale", shape=(out,))
    return (deltas.Butterfly(turned, rescale) if stages else deltas.Rotated(turned, rescale),)


def _dense(dense: deltas.Dense) -> deltas.DenseDelta:
    try:
        dense.weight()
    except RuntimeError as error:
        raise Unfit("has factors whose product does not have the shape of the model's weight") from error
    return deltas.DenseDelta(dense)


def _decomposed(parts: _Parts, change: Delta) -> tuple[Delta, ...]:
    """Put DoRA's lengths around a change, where the file has them, and a change of the bias beside it."""
    if not parts.tensors.keys().isdisjoint({"dora_scale", "magnitude"}):
        lengths, is_on_outputs = _lengths(parts)
        weight = parts.layer.weight
        if tuple(weight.shape) != parts.shape or not weight.is_floating_point():
            raise Unfit("is a DoRA, whose lengths need the whole weight, and this layer is quantized")
        full = deltas.delta_weight(change, parts.layer).to(weight.device)
        ratio = deltas.dora_ratio(lengths.to(weight.device), weight=weight, change=full, is_on_outputs=is_on_outputs)
        change = deltas.Decomposed(change, ratio, is_on_outputs)
    return (change, *_bias(parts))


def _lengths(parts: _Parts) -> tuple[Tensor, bool]:
    """Return the lengths that DoRA wants, and whether they are of outputs.

    PEFT has one per output, as (out,) or (1, out, 1, 1). LyCORIS has one per input as (1, in, …), or with
    `wd_on_output` one per output as (out, 1, …).
    """
    out, inside, *kernel = parts.shape
    ones = (1,) * len(kernel)
    on_outputs = {"magnitude": {(out,), (1, out, *ones)}, "dora_scale": {(out,), (out, 1, *ones)}}
    (name,) = on_outputs.keys() & parts.tensors.keys()
    lengths = parts[name]
    if tuple(lengths.shape) in on_outputs[name]:
        return lengths, True
    if name == "dora_scale" and tuple(lengths.shape) == (1, inside, *ones):
        return lengths, False
    raise Unfit(f"has {name} of {_by(lengths.shape)}, for a weight of {_by(parts.shape)}")


_Builder = Callable[[_Parts], tuple[Delta, ...]]
_EXTRAS = frozenset({"alpha", "dora_scale", "diff_b"})
_LORA_EXTRAS = _EXTRAS | {"lora_mid.weight", "magnitude"}
_KINDS: tuple[tuple[_Builder, frozenset[str], frozenset[str]], ...] = (
    (_lora, frozenset({"lora_down.weight", "lora_up.weight"}), _LORA_EXTRAS),
    (_loha, frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}), _EXTRAS | {"hada_t1", "hada_t2"}),
    *(
        (_lokr, frozenset(required), _EXTRAS | {"lokr_t2"})
        for required in (
            ("lokr_w1", "lokr_w2"),
            ("lokr_w1", "lokr_w2_a", "lokr_w2_b"),
            ("lokr_w1_a", "lokr_w1_b", "lokr_w2"),
            ("lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"),
        )
    ),
    (_diff_of_any, frozenset({"diff"}), frozenset({"diff_b"})),
    (_bias, frozenset({"diff_b"}), frozenset()),
    (_norm, frozenset({"w_norm"}), frozenset({"b_norm"})),
    (_ia3, frozenset({"weight", "on_input"}), frozenset()),
    (_oft, frozenset({"oft_blocks"}), frozenset({"alpha", "rescale"})),
    (_oft, frozenset({"oft_diag"}), frozenset({"alpha", "rescale"})),
)
"""What builds a kind, the tensors it must have, and those it may have."""


def _trimmed(shape: torch.Size | tuple[int, ...]) -> tuple[int, ...]:
    sides = tuple(shape)
    while sides and sides[-1] == 1:
        sides = sides[:-1]
    return sides


def _by(shape: torch.Size | tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "one number"
