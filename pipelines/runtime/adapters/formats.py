"""From the tensors that a LoRA file has for a layer to the delta they mean. Every tensor has a meaning."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.runtime.adapters import deltas
from pipelines.runtime.adapters.deltas import Delta
from pipelines.runtime.adapters.layers import is_made_of_others
from pipelines.runtime.adapters.placing import with_tensors
from pipelines.runtime.adapters.rows import Rows, pick, rows_of
from pipelines.runtime.adapters.unfit import Unfit, Unreadable
from pipelines.spec.lora_notes import Strength

Tensors = Mapping[str, Tensor]
_AS_TRAINED = Strength()


def build(
    tensors: Tensors, layers: Sequence[Any], *, strength: Strength = _AS_TRAINED, is_swapped: bool = False
) -> tuple[tuple[Delta, ...], ...]:
    """Return what the tensors add to each of some layers, whose outputs lie one after the other in the file.

    Args:
        tensors: under kohya's names.
        layers: the base layers; most files have one of each.
        strength: where the tensors have no alpha.
        is_swapped: whether the file has the second half of the outputs first.

    Raises:
        Unfit: a shape does not fit the layers, a tensor is missing or unknown.
    """
    ends = [0, *accumulate(int(layer.weight.shape[0]) for layer in layers)] if len(layers) > 1 else []
    if is_swapped:
        half = int(layers[0].weight.shape[0]) // 2
        own: list[Rows] = [(slice(half, None), slice(None, half))]
    else:
        own = [(slice(start, end),) for start, end in pairwise(ends)]
    built = _builder(frozenset(tensors))(_Parts(tensors, layers, strength, own[0] if is_swapped else ()))
    if not own:
        return (built,)
    if any(isinstance(each, deltas.Rotated | deltas.Butterfly) for each in built):
        raise Unreadable("turns the outputs of several layers together, which is not supported")
    return tuple(tuple(rows_of(each, rows) for each in built) for rows in own)


@dataclass(frozen=True)
class _Parts:
    """The tensors of one layer (or several in one) while they are put together."""

    tensors: Tensors
    layers: Sequence[Any]
    strength: Strength
    swapped: Rows
    """How the rows of the base weight stand in the file, if in another order."""

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def get(self, name: str) -> Tensor | None:
        return self.tensors.get(name)

    @property
    def layer(self) -> Any:
        """One of the layers; all are of one kind."""
        return self.layers[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the base weight; packed weights of quantized layers have another."""
        first, *others = (
            (each.out_features, each.in_features) if isinstance(each, nn.Linear) else tuple(each.weight.shape)
            for each in self.layers
        )
        return (sum(out for out, *_ in (first, *others)), *first[1:])

    @property
    def matrix(self) -> tuple[int, ...]:
        """The shape of a weight that is multiplied with."""
        if len(self.shape) < 2:
            raise Unfit(f"has {', '.join(sorted(self.tensors))}, where the model has a normalisation")
        return self.shape

    @property
    def weight(self) -> Tensor:
        """The base weight as the file sees it."""
        weights = [each.weight for each in self.layers]
        is_dense = all(each.is_floating_point() and not is_made_of_others(each) for each in weights)
        if not is_dense or sum(map(torch.numel, weights)) != _size(self.shape):
            raise Unfit("is a DoRA, whose lengths need the whole weight, and this layer is quantized")
        whole = weights[0] if len(weights) == 1 else torch.cat(weights)
        return pick(whole, self.swapped) if self.swapped else whole

    def number(self, name: str) -> float:
        tensor = self[name]
        if tensor.numel() != 1:
            raise Unreadable(f"has {name} of {_by(tensor.shape)}, where one number is meant")
        return float(tensor)

    def rank(self, name: str) -> int:
        """Return the first side of a matrix."""
        tensor = self[name]
        if tensor.dim() < 2 or not tensor.numel():
            raise Unreadable(f"has {name} of {_by(tensor.shape)}, where a matrix is meant")
        return int(tensor.shape[0])

    def scale(self, rank: int) -> float:
        """Return alpha / rank; an alpha of 0 is the rank, as for the trainers that write it (sd-scripts, LyCORIS)."""
        if "alpha" in self.tensors:
            return (self.number("alpha") or rank) / rank
        return self.strength.scale(rank)

    def check(self, name: str, *, shape: tuple[int, ...]) -> Tensor:
        """Return a tensor of the wanted shape, or of one that differs by sides of 1 at the end."""
        tensor = self[name]
        if tuple(tensor.shape) == shape:
            return tensor
        if _trimmed(tensor.shape) == _trimmed(shape):
            return tensor.reshape(shape)
        raise Unfit(f"has {name} of {_by(tensor.shape)}, where the model needs {_by(shape)}")


def _lora(parts: _Parts) -> tuple[Delta, ...]:
    rank = parts.rank("lora_down.weight")
    out, inside, *kernel = parts.matrix
    pointwise = [1] * len(kernel)
    mid = None
    if parts.get("lora_mid.weight") is not None:
        mid = parts.check("lora_mid.weight", shape=(rank, rank, *kernel))
        down = parts.check("lora_down.weight", shape=(rank, inside, *pointwise))
        if not kernel:
            down, mid = mid @ down, None
    else:
        down = parts.check("lora_down.weight", shape=(rank, inside, *kernel))
    up = parts.check("lora_up.weight", shape=(out, rank, *pointwise))
    scale = parts.scale(rank)
    change = _decomposed(parts, deltas.LowRank(down, up, scale, mid))
    if parts.get("lora_up.bias") is None:
        return change
    if len(change) > 1 or not isinstance(change[0], deltas.LowRank):
        raise Unreadable("has lora_up.bias beside DoRA or diff_b, which together are no kind that is known")
    return (*change, deltas.Bias(parts.check("lora_up.bias", shape=(out,)) * scale))


def _loha(parts: _Parts) -> tuple[Delta, ...]:
    rank, *_ = (parts.rank(name) for name in ("hada_w1_b", "hada_w1_a", "hada_w2_a", "hada_w2_b"))
    hadamard = deltas.Hadamard(
        parts["hada_w1_a"],
        parts["hada_w1_b"],
        parts["hada_w2_a"],
        parts["hada_w2_b"],
        parts.scale(rank),
        parts.matrix,
        t1=parts.get("hada_t1"),
        t2=parts.get("hada_t2"),
    )
    return _decomposed(parts, _dense(hadamard))


def _lokr(parts: _Parts) -> tuple[Delta, ...]:
    first = _factor(parts, "lokr_w1")
    second = _factor(parts, "lokr_w2")
    split = [each[1] for each in (first, second) if len(each) == 2]
    # where both factors are whole the tensors have no rank: LyCORIS ignores alpha, PEFT notes the rank
    scale = parts.scale(split[0].shape[0]) if split else parts.strength.scale(None)
    kronecker = deltas.Kronecker(first, second, scale, parts.matrix, parts.get("lokr_t2"))
    return _decomposed(parts, _dense(kronecker))


def _factor(parts: _Parts, name: str) -> tuple[Tensor, ...]:
    for each in (name, f"{name}_a", f"{name}_b"):
        if each in parts.tensors:
            parts.rank(each)
    whole = parts.get(name)
    if whole is not None:
        return (whole,)
    try:
        return parts[f"{name}_a"], parts[f"{name}_b"]
    except KeyError as error:
        raise Unfit(f"lacks {error.args[0]}") from error


def _diff(parts: _Parts) -> tuple[Delta, ...]:
    change = deltas.DenseDelta(deltas.Difference(parts.check("diff", shape=parts.shape)))
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
    on_input = bool(parts.number("on_input"))
    size = parts.matrix[1 if on_input else 0]
    if parts["weight"].numel() != size:
        raise Unfit(f"has weight of {_by(parts['weight'].shape)}, where the model needs {size}")
    return (deltas.Scaled(parts["weight"].flatten(), not on_input),)


def _oft(parts: _Parts) -> tuple[Delta, ...]:
    """Blocks (blocks, size, size) of OFT, or (stages, blocks, size, size) of BOFT; alpha limits the turn (COFT)."""
    blocks = parts["oft_blocks" if parts.get("oft_blocks") is not None else "oft_diag"]
    out = parts.matrix[0]
    *stages, number, size, also_size = blocks.shape if blocks.dim() in {3, 4} else (0, 0, 0)
    widest = 2 ** stages[0] * size // 2 if stages else size
    if size != also_size or number * size != out or (stages and size % 2) or widest == 0 or out % widest:
        raise Unfit(f"has oft_blocks of {_by(blocks.shape)}, which do not turn {out} outputs")
    constraint = parts.number("alpha") * out if "alpha" in parts.tensors else 0.0
    turned = deltas.rotations(blocks, constraint=constraint)
    rescale = None if parts.get("rescale") is None else parts.check("rescale", shape=(out,))
    return (deltas.Butterfly(turned, rescale) if stages else deltas.Rotated(turned, rescale),)


def _dense(dense: deltas.Hadamard | deltas.Kronecker) -> deltas.DenseDelta:
    reason = "has factors whose product does not have the shape of the model's weight"
    try:
        product = with_tensors(dense, lambda tensor: tensor.to("meta")).product()  # of shapes: nothing else goes wrong
    except (RuntimeError, IndexError) as error:
        raise Unfit(reason) from error
    if product.shape[0] != dense.shape[0] or product.numel() != _size(dense.shape):
        raise Unfit(reason)
    return deltas.DenseDelta(dense)


def _decomposed(parts: _Parts, change: Delta) -> tuple[Delta, ...]:
    """Put DoRA's lengths around a change, where the file has them, and a change of the bias beside it."""
    if not parts.tensors.keys().isdisjoint({"dora_scale", "magnitude"}):
        lengths, is_on_outputs = _lengths(parts)
        weight = parts.weight
        full = deltas.delta_weight(change, parts.shape).to(weight.device)
        excess = deltas.dora_excess(lengths.to(weight.device), weight=weight, change=full, is_on_outputs=is_on_outputs)
        change = deltas.Decomposed(change, excess, is_on_outputs)
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
_LORA_EXTRAS = _EXTRAS | {"lora_mid.weight", "lora_up.bias", "magnitude"}
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


def _builder(names: frozenset[str]) -> _Builder:
    for builder, required, optional in _KINDS:
        if required <= names <= required | optional:
            return builder
    raise Unreadable(f"has {', '.join(sorted(names))}, which together are no kind that is known")


def _trimmed(shape: torch.Size | tuple[int, ...]) -> tuple[int, ...]:
    sides = tuple(shape)
    while sides and sides[-1] == 1:
        sides = sides[:-1]
    return sides


def _size(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def _by(shape: torch.Size | tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "one number"
