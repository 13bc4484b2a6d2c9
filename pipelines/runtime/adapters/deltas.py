"""What an adapter adds to a layer: one class per kind, each written as its paper says.

A layer computes y = W x + b. A delta returns what is to be added to y so that the layer acts as W + strength · ΔW,
while W itself is never changed. Names of tensors are those of the files (kohya, LyCORIS).
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

Layer = nn.Linear | nn.Conv2d | nn.GroupNorm | nn.LayerNorm
"""What can be adapted."""


class Delta(Protocol):
    """A change of one layer."""

    def change(self, layer: Any, x: Tensor, y: Tensor, strength: float) -> Tensor:
        """Return what is added to the output.

        Args:
            layer: the base layer.
            x: (batch, …) its input.
            y: (batch, …) its output, bias included.
            strength: 1 is as trained; any number, negative ones too.
        """

    def tensors(self) -> tuple[Tensor, ...]:
        """Return all that it holds."""


@dataclass(frozen=True)
class LowRank:
    """LoRA (arXiv:2106.09685) and LoCon: ΔW = scale · up · down, for convolutions with the layer's kernel in `down`.

    With `mid`, the Tucker decomposition of a convolution's kernel (arXiv:2309.14859, section 3.2).
    """

    down: Tensor
    """(rank, in, …kernel), or (rank, in, 1, 1) before `mid`."""
    up: Tensor
    """(out, rank), or (out, rank, 1, 1)."""
    scale: float
    mid: Tensor | None = None
    """(rank, rank, …kernel)."""

    def change(self, layer: Any, x: Tensor, y: Tensor, strength: float) -> Tensor:
        factor = strength * self.scale  # counts where the numbers are few: between down and up
        if isinstance(layer, nn.Linear):
            return functional.linear(functional.linear(x, self.down) * factor, self.up)
        if self.mid is not None:
            return functional.conv2d(_like(layer, functional.conv2d(x, self.down), self.mid) * factor, self.up)
        return functional.conv2d(_like(layer, x, self.down) * factor, self.up)

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.down, self.up) if self.mid is None else (self.down, self.up, self.mid)


class Dense(Protocol):
    """A kind whose ΔW is full.

    Rebuilding it from factors takes as long as the layer itself for small pictures, and longer than large convolutions.
    """

    def weight(self) -> Tensor:
        """Return ΔW in the shape of W."""

    def tensors(self) -> tuple[Tensor, ...]:
        """Return all that it holds."""


@dataclass(frozen=True)
class Hadamard:
    """LoHa (arXiv:2108.06098): ΔW = scale · (w1a · w1b) ∘ (w2a · w2b), with cores t1 and t2 for convolutions."""

    w1_a: Tensor
    w1_b: Tensor
    w2_a: Tensor
    w2_b: Tensor
    scale: float
    shape: tuple[int, ...]
    t1: Tensor | None = None
    t2: Tensor | None = None

    def weight(self) -> Tensor:
        return (self.product() * self.scale).reshape(self.shape)

    def product(self) -> Tensor:
        """Return ΔW before it is scaled; of a convolution, with its kernel flat or not."""
        return _product(self.w1_a, self.w1_b, self.t1) * _product(self.w2_a, self.w2_b, self.t2)

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(
            each for each in (self.w1_a, self.w1_b, self.w2_a, self.w2_b, self.t1, self.t2) if each is not None
        )


@dataclass(frozen=True)
class Kronecker:
    """LoKr (arXiv:2309.14859): ΔW = scale · w1 ⊗ w2, where either may be a product of two."""

    w1: tuple[Tensor, ...]
    """The factor, or the two it is the product of."""
    w2: tuple[Tensor, ...]
    scale: float
    shape: tuple[int, ...]
    t2: Tensor | None = None

    def weight(self) -> Tensor:
        return (self.product() * self.scale).reshape(self.shape)

    def product(self) -> Tensor:
        """Return ΔW before it is scaled; of a convolution, with its kernel flat or not."""
        first = self.w1[0] if len(self.w1) == 1 else self.w1[0] @ self.w1[1]
        second = self.w2[0] if len(self.w2) == 1 else _product(self.w2[0], self.w2[1], self.t2)
        first = first.reshape(*first.shape, *[1] * (second.dim() - first.dim()))
        return torch.kron(first, second)

    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.w1, *self.w2) if self.t2 is None else (*self.w1, *self.w2, self.t2)


@dataclass(frozen=True)
class Difference:
    """A full difference: ΔW as it stands."""

    diff: Tensor

    def weight(self) -> Tensor:
        return self.diff

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.diff,)


@dataclass(frozen=True)
class DenseDelta:
    """Any kind with a full ΔW, applied to a linear layer or a convolution."""

    dense: Dense

    def change(self, layer: Any, x: Tensor, y: Tensor, strength: float) -> Tensor:
        weight = self.dense.weight()
        weight = weight if strength == 1 else weight * strength
        return functional.linear(x, weight) if isinstance(layer, nn.Linear) else _like(layer, x, weight)

    def tensors(self) -> tuple[Tensor, ...]:
        return self.dense.tensors()


@dataclass(frozen=True)
class Bias:
    """A difference of the bias, (out,)."""

    diff: Tensor

    def change(self, layer: Any, x: Tensor, y: Tensor, strength: float) -> Tensor:
        return _along_outputs(layer, self.diff * strength, y).expand_as(y)

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.diff,)


@dataclass(frozen=True)
class Norm:
    """Differences of the weight and bias of a normalisation, which is linear in both."""

    weight: Tensor
    bias: Tensor | None

    def change(self, layer: Any, x: Tensor, y: Tensor, strength: float) -> Tensor:
        if isinstance(layer, nn.GroupNorm):
            return strength * functional.group_norm(x, layer.num_groups, self.weight, self.bias, layer.eps)
        return strength * functional.layer_norm(x, layer.normalized_shape, self.weight, self.bias, layer.eps)

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


@dataclass(frozen=True)
class Decomposed:
    """DoRA (arXiv:2402.09353): W + ΔW, its columns or rows brought to given lengths.

    At a strength between 0 and 1 it lies between the base layer and that, as in A1111 and ComfyUI.
    """

    inner: Delta
    excess: Tensor
    """Wanted length / length in W + ΔW, less 1: (out,) or (in,). Near 1 half precision tells few numbers apart."""
    is_on_outputs: bool

    def change(self, layer: Any, x: Tensor, y: Tensor, strength: float) -> Tensor:
        if self.is_on_outputs:
            inner = self.inner.change(layer, x, y, 1.0)
            excess = _along_outputs(layer, self.excess, y)
            return strength * (inner + excess * (_without_bias(layer, y) + inner))
        more = x * _along_outputs(layer, self.excess, x)
        again = type(layer).forward(layer, more)
        return strength * (_without_bias(layer, again) + self.inner.change(layer, x + more, y, 1.0))

    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.inner.tensors(), self.excess)


@dataclass(frozen=True)
class Scaled:
    """IA3 (arXiv:2205.05638): outputs or inputs times 1 + scale."""

    scale: Tensor
    """(out,) or (in,)."""
    is_on_outputs: bool

    def change(self, layer: Any, x: Tensor, y: Tensor, strength: float) -> Tensor:
        if self.is_on_outputs:
            return _along_outputs(layer, self.scale * strength, y) * _without_bias(layer, y)
        scaled = x * _along_outputs(layer, self.scale * strength, x)
        return _without_bias(layer, type(layer).forward(layer, scaled))

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.scale,)


@dataclass(frozen=True)
class Rotated:
    """OFT (arXiv:2306.07280): outputs turned, block by block."""

    rotations: Tensor
    """(blocks, size, size), with blocks · size outputs."""
    rescale: Tensor | None = None
    """(out,): what each output is multiplied with afterwards."""

    def change(self, layer: Any, x: Tensor, y: Tensor, strength: float) -> Tensor:
        base = _without_bias(layer, y)
        axis = _output_axis(layer, y)
        blocks = base.movedim(axis, -1)
        shape = blocks.shape
        turned = torch.einsum(
            "knm,...kn->...km", self.rotations, blocks.reshape(*shape[:-1], *self.rotations.shape[:2])
        ).reshape(shape)
        if self.rescale is not None:
            turned = turned * self.rescale
        return strength * (turned.movedim(-1, axis) - base)

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.rotations,) if self.rescale is None else (self.rotations, self.rescale)


@dataclass(frozen=True)
class Butterfly:
    """BOFT (arXiv:2311.06243): outputs turned in stages, in the i-th of which those 2^i · size/2 apart meet.

    As in LyCORIS, strength leads each stage from the identity to its rotations.
    """

    rotations: Tensor
    """(stages, blocks, size, size), with blocks · size outputs."""
    rescale: Tensor | None = None
    """(out,): what each output is multiplied with afterwards."""

    def change(self, layer: Any, x: Tensor, y: Tensor, strength: float) -> Tensor:
        base = _without_bias(layer, y)
        axis = _output_axis(layer, y)
        turned = base.movedim(axis, -1)
        _, blocks, size, _ = self.rotations.shape
        identity = torch.eye(size, device=y.device, dtype=self.rotations.dtype)
        for stage, rotation in enumerate(self.rotations):
            apart = 2**stage * size // 2
            mixed = turned.reshape(*turned.shape[:-1], -1, 2, apart).transpose(-1, -2)
            grouped = mixed.reshape(*turned.shape[:-1], blocks, size)
            grouped = torch.einsum("kmn,...kn->...km", torch.lerp(identity, rotation, strength), grouped)
            turned = grouped.reshape(mixed.shape).transpose(-1, -2).reshape(turned.shape)
        if self.rescale is not None:
            turned = turned * self.rescale
        return turned.movedim(-1, axis) - base

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.rotations,) if self.rescale is None else (self.rotations, self.rescale)


def rotations(blocks: Tensor, *, constraint: float) -> Tensor:
    """Return (…, size, size) orthogonal matrices by Cayley's parametrisation: (I + Q)(I - Q)⁻¹, Q = B - Bᵀ.

    Args:
        blocks: (…, size, size), any numbers.
        constraint: the largest norm of all Q together; 0 is no limit.
    """
    skewed = blocks.float() - blocks.float().transpose(-1, -2)
    if constraint > 0:
        norm = skewed.norm()
        skewed = skewed * ((norm.clamp(max=constraint) + 1e-8) / (norm + 1e-8))
    identity = torch.eye(blocks.shape[-1], device=blocks.device)
    turned: Tensor = torch.linalg.solve(identity - skewed, identity + skewed, left=False)
    return turned


def dora_excess(lengths: Tensor, *, weight: Tensor, change: Tensor, is_on_outputs: bool) -> Tensor:
    """Return wanted length / length in W + ΔW, less 1, (out,) or (in,); 0 for what has no length, and so stays.

    Args:
        lengths: the wanted ones, as many as there are outputs or inputs.
        weight: W, (out, in, …kernel).
        change: ΔW in the same shape.
        is_on_outputs: whether each output has a length, or each input.
    """
    merged = weight.float() + change.float()
    found = torch.linalg.vector_norm(merged.transpose(0, 0 if is_on_outputs else 1).flatten(1), dim=1)
    has_length = found > 0
    return torch.where(has_length, lengths.float().flatten() / torch.where(has_length, found, 1) - 1, 0)


def delta_weight(delta: Delta, shape: tuple[int, ...]) -> Tensor:
    """Return ΔW of a linear layer or convolution in the shape of W: what is added for every unit input. Float32."""
    if isinstance(delta, DenseDelta):
        return delta.dense.weight().float()
    if isinstance(delta, LowRank):
        down, up = delta.down.float(), delta.up.float()
        if delta.mid is not None:
            rebuilt = torch.einsum("ijhw,jc,oi->ochw", delta.mid.float(), down.flatten(1), up.flatten(1))
            return rebuilt * delta.scale
        return ((up.flatten(1) @ down.flatten(1)) * delta.scale).reshape(shape)
    raise TypeError(f"{type(delta).__name__} has no weight of its own")


def _product(a: Tensor, b: Tensor, core: Tensor | None) -> Tensor:
    """Return a · b, or for a convolution with a core (rank, rank, …kernel) the Tucker product (out, in, …kernel)."""
    if core is None:
        return a @ b.flatten(1) if b.dim() == 2 else (a @ b.flatten(1)).reshape(a.shape[0], *b.shape[1:])
    return torch.einsum("ijhw,jc,io->ochw", core, b, a).contiguous()  # or torch.kron refuses it


def _like(layer: Any, x: Tensor, weight: Tensor) -> Tensor:
    """Convolve as the layer does, without its bias."""
    return functional.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)


def _output_axis(layer: Any, y: Tensor) -> int:
    return 1 if isinstance(layer, nn.Conv2d | nn.GroupNorm) else y.dim() - 1


def _along_outputs(layer: Any, values: Tensor, y: Tensor) -> Tensor:
    """Lay (channels,) values along the channels of y."""
    axis = _output_axis(layer, y)
    return values.reshape(*(-1 if index == axis else 1 for index in range(y.dim())))


def _without_bias(layer: Any, y: Tensor) -> Tensor:
    return y if layer.bias is None else y - _along_outputs(layer, layer.bias, y)
