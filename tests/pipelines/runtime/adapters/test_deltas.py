"""Every kind of adapter acts as LyCORIS's merged weight does, at any strength, without touching the layer."""

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipelines.runtime.adapters.formats import build
from pipelines.runtime.adapters.keys import _TENSOR_NAMES
from pipelines.runtime.adapters.placing import settled
from pipelines.runtime.adapters.unfit import Unfit
from pipelines.spec.lora_notes import Strength

REFERENCE = safetensors.torch.load_file(Path(__file__).with_name("lycoris_reference.safetensors"))
CASES = sorted({key.partition("/")[0] for key in REFERENCE})
TOLERANCE = 1e-5
"""Of float32 sums of up to 60 products of numbers near 1."""


def case(name: str) -> dict[str, Tensor]:
    return {key.partition("/")[2]: value for key, value in REFERENCE.items() if key.partition("/")[0] == name}


def layer_of(base: Tensor) -> nn.Linear | nn.Conv2d:
    out, inside, *kernel = base.shape
    layer = nn.Conv2d(inside, out, kernel[0], stride=2, padding=1) if kernel else nn.Linear(inside, out)
    layer.weight = nn.Parameter(base.clone(), requires_grad=False)
    return layer.requires_grad_(False)


def run(layer: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
    if isinstance(layer, nn.Conv2d):
        return functional.conv2d(x, weight, layer.bias, layer.stride, layer.padding)
    return functional.linear(x, weight, layer.bias)  # type: ignore[arg-type]


def input_of(layer: nn.Module) -> Tensor:
    shape = (2, layer.in_channels, 9, 7) if isinstance(layer, nn.Conv2d) else (2, 5, layer.in_features)  # type: ignore[union-attr]
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def adapted(layer: nn.Module, tensors: dict[str, Tensor], x: Tensor, *, weight: float) -> Tensor:
    y = layer(x)
    deltas = [settled(each, y.device, y.dtype) for each in build(tensors, (layer,))[0]]
    return y + sum(each.change(layer, x, y, weight) for each in deltas)


@pytest.mark.parametrize("weight", [1.0, 0.4, -1.5])
@pytest.mark.parametrize("name", CASES)
def test_it_acts_as_the_merged_weight(name: str, weight: float) -> None:
    tensors = case(name)
    base, merged = tensors.pop("base"), {key: tensors.pop(key) for key in list(tensors) if key.startswith("merged")}
    layer = layer_of(base)
    x = input_of(layer)

    result = adapted(layer, tensors, x, weight=weight)

    wanted = base + weight * (merged["merged"] - base) if "merged" in merged else merged[f"merged {weight}"]
    expected = run(layer, wanted, x)
    torch.testing.assert_close(result, expected, atol=TOLERANCE, rtol=TOLERANCE)
    assert (expected - layer(x)).abs().max() > 0.05
    assert torch.equal(layer.weight, base)


@pytest.mark.parametrize("is_first_split", [True, False])
@pytest.mark.parametrize(("out", "inside"), [(8, 8), (12, 20)])
def test_lokr_with_a_core(out: int, inside: int, is_first_split: bool) -> None:
    """arXiv:2309.14859, section 3.2: w1 ⊗ w2, where w2 is a Tucker product; LyCORIS's `use_tucker`."""
    rank, generator = 3, torch.Generator().manual_seed(4)
    layer = layer_of(torch.randn(out, inside, 3, 3, generator=generator))
    w1_a, w1_b = torch.randn(4, rank, generator=generator), torch.randn(rank, 2, generator=generator)
    core = torch.randn(rank, rank, 3, 3, generator=generator)
    w2_a, w2_b = (torch.randn(rank, side, generator=generator) for side in (out // 4, inside // 2))
    tensors = {"lokr_w1_a": w1_a, "lokr_w1_b": w1_b} if is_first_split else {"lokr_w1": w1_a @ w1_b}
    tensors |= {"lokr_t2": core, "lokr_w2_a": w2_a, "lokr_w2_b": w2_b, "alpha": torch.tensor(1.5)}
    x = input_of(layer)

    result = adapted(layer, tensors, x, weight=0.7)

    change = torch.einsum("ar,rb,ijhw,ip,jq->apbqhw", *(each.double() for each in (w1_a, w1_b, core, w2_a, w2_b)))
    weight = layer.weight + 0.7 * 1.5 / rank * change.reshape(layer.weight.shape).float()
    torch.testing.assert_close(result, run(layer, weight, x), atol=10 * TOLERANCE, rtol=TOLERANCE)


def test_shapes_are_checked_without_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that lack of memory for one is never told as a shape that does not fit."""
    seen: list[Tensor] = []
    kron = torch.kron
    monkeypatch.setattr(torch, "kron", lambda *factors: (seen.extend(factors), kron(*factors))[1])

    build({"lokr_w1": torch.ones(4, 4), "lokr_w2": torch.ones(3, 5)}, (nn.Linear(20, 12),))

    assert {each.device.type for each in seen} == {"meta"}


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("axis", ["in", "out", "peft"])
def test_dora_keeps_the_lengths_of_its_axis(kind: str, axis: str) -> None:
    """arXiv:2402.09353, equation 5: W' = m (W + ΔW) / |W + ΔW|; over outputs as PEFT has it, over inputs as kohya."""
    tensors = case(f"lora {kind}")
    base, merged = tensors.pop("base"), tensors.pop("merged")
    dimension = 1 if axis == "in" else 0
    wanted = 0.5 + torch.rand(base.shape[dimension], generator=torch.Generator().manual_seed(2))
    shape = [-1 if index == dimension else 1 for index in range(base.dim())]
    key, stored = "dora_scale", wanted.reshape(shape)
    if axis == "peft":  # (out,) of linear layers, (1, out, 1, 1) of convolutions
        key, stored = "magnitude", wanted if base.dim() == 2 else wanted.reshape(1, -1, 1, 1)
    lengths = merged.transpose(0, dimension).flatten(1).norm(dim=1)
    decomposed = merged * (wanted / lengths).reshape(shape)
    layer = layer_of(base)
    x = input_of(layer)

    result = adapted(layer, {**tensors, key: stored}, x, weight=0.7)

    expected = run(layer, base + 0.7 * (decomposed - base), x)
    torch.testing.assert_close(result, expected, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_full_differences_of_weight_and_bias(kind: str) -> None:
    layer = layer_of(case(f"lora {kind}")["base"])
    x = input_of(layer)
    diff, diff_b = torch.randn_like(layer.weight), torch.randn_like(layer.bias)  # type: ignore[arg-type]

    result = adapted(layer, {"diff": diff, "diff_b": diff_b}, x, weight=-0.5)

    other = layer_of(layer.weight - 0.5 * diff)
    other.bias = nn.Parameter(layer.bias - 0.5 * diff_b)  # type: ignore[operator]
    torch.testing.assert_close(result, other(x), atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("names", [("w_norm", "b_norm"), ("diff", "diff_b")])
@pytest.mark.parametrize("layer", [nn.GroupNorm(2, 6), nn.LayerNorm(6)])
def test_differences_of_a_normalisation(layer: nn.GroupNorm | nn.LayerNorm, names: tuple[str, str]) -> None:
    x = torch.randn(2, 6, 6)
    weight, bias = torch.randn(6), torch.randn(6)

    with torch.no_grad():
        result = adapted(layer, {names[0]: weight, names[1]: bias}, x, weight=0.3)
        expected = layer(x) + 0.3 * (
            functional.group_norm(x, 2, weight, bias)
            if isinstance(layer, nn.GroupNorm)
            else functional.layer_norm(x, (6,), weight, bias)
        )

    torch.testing.assert_close(result, expected, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("on_input", [True, False])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_ia3_scales_one_side_of_the_weight(kind: str, on_input: bool) -> None:
    """arXiv:2205.05638: W' = W (1 + scale), per input or per output."""
    layer = layer_of(case(f"lora {kind}")["base"])
    dimension = 1 if on_input else 0
    scale = torch.randn(layer.weight.shape[dimension])
    shape = [-1 if index == dimension else 1 for index in range(layer.weight.dim())]
    x = input_of(layer)

    result = adapted(layer, {"weight": scale, "on_input": torch.tensor(on_input)}, x, weight=0.8)

    expected = run(layer, layer.weight * (1 + 0.8 * scale.reshape(shape)), x)
    torch.testing.assert_close(result, expected, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("on_input", [True, False])
def test_lengths_near_those_of_the_model_keep_their_change_in_half_precision(on_input: bool) -> None:
    """bfloat16 has no number between 1 and 1.0078: a length that is 0.3 % longer is lost if it is kept as a ratio."""
    layer = nn.Linear(64, 64, bias=False).requires_grad_(False)
    x, matrix = torch.randn(256, 64).bfloat16(), layer.weight.bfloat16().float()
    layer.weight.copy_(matrix)
    wanted = 1.003 * matrix.norm(dim=0 if on_input else 1, keepdim=True)
    tensors = {"lora_down.weight": torch.ones(1, 64), "lora_up.weight": torch.zeros(64, 1), "dora_scale": wanted}
    ((delta,),) = build(tensors, (layer,))

    half = copy.deepcopy(layer).bfloat16()
    change = settled(delta, x.device, x.dtype).change(half, x, half(x), 1.0)

    right = 0.003 * x.float() @ matrix.T
    assert (change.float() - right).norm() < 0.01 * right.norm()  # roundings of 1/256


def test_peft_itself_gives_the_same_for_dora() -> None:
    """A square convolution, whose lengths could be of inputs by their shape."""
    network = nn.Sequential(nn.Linear(6, 6), nn.Unflatten(1, (6, 1, 1)), nn.Conv2d(6, 6, 3, padding=1))
    layers: Any = [network[0], network[2]]
    x = torch.randn(4, 6)
    config = peft.LoraConfig(r=2, lora_alpha=8, target_modules=["0", "2"], use_dora=True, init_lora_weights=False)
    theirs = peft.get_peft_model(copy.deepcopy(network), config)
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if "magnitude" in name:
                weight.mul_(1 + torch.rand_like(weight))
    saved = peft.get_peft_model_state_dict(theirs)

    y = x
    with torch.no_grad():
        for number, layer in zip("02", layers, strict=True):
            own = {key.split(f".{number}.")[1]: value for key, value in saved.items() if f".{number}." in key}
            tensors = {_TENSOR_NAMES[key]: value for key, value in own.items()}
            ((delta,),) = build(tensors, (layer,), strength=Strength(8))
            x_of_layer = y if number == "0" else y[..., None, None]
            out = layer(x_of_layer)
            y = out + delta.change(layer, x_of_layer, out, 1.0)
        expected = theirs(x)

    torch.testing.assert_close(y, expected, atol=TOLERANCE, rtol=TOLERANCE)


class PackedLinear(nn.Linear):
    """As layers of 4 bits are: the weight is bytes of another shape, and the layer computes in bfloat16."""

    def __init__(self, inside: int, out: int) -> None:
        super().__init__(inside, out, bias=False)
        self.dense = torch.randn(out, inside).bfloat16()
        self.weight = nn.Parameter(torch.zeros(inside * out // 2, 1, dtype=torch.uint8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.dense)


def test_a_quantized_layer_is_adapted_beside_its_weight() -> None:
    layer = PackedLinear(20, 12)
    x = torch.randn(3, 20).bfloat16()
    tensors = {"lora_down.weight": torch.randn(4, 20), "lora_up.weight": torch.randn(12, 4)}
    ((delta,),) = build(tensors, (layer,))

    y = layer(x)
    change = settled(delta, layer.weight.device, torch.bfloat16).change(layer, x, y, 0.5)

    expected = 0.5 * functional.linear(x.float(), tensors["lora_up.weight"] @ tensors["lora_down.weight"])
    assert change.dtype == torch.bfloat16
    torch.testing.assert_close(change.float(), expected, atol=0.15, rtol=0.05)
    with pytest.raises(Unfit, match="a DoRA, whose lengths need the whole weight"):
        build({**tensors, "dora_scale": torch.ones(12, 1)}, (layer,))


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (
            {"lora_down.weight": (4, 21), "lora_up.weight": (12, 4)},
            "lora_down.weight of 4×21, .* needs 4×20",
        ),
        (
            {"lora_down.weight": (4, 20), "lora_up.weight": (13, 4)},
            "lora_up.weight of 13×4, .* needs 12×4",
        ),
        ({"lora_down.weight": (4, 20)}, "has lora_down.weight, which together are no kind"),
        ({"lora_down.weight": (4, 20), "lora_up.weight": (12, 4), "what": (1,)}, "no kind that is known"),
        ({"lokr_w1": (2, 2), "lokr_w2": (6, 11)}, "product does not have the shape"),
        ({"oft_blocks": (5, 2, 2)}, "do not turn 12 outputs"),
        ({"oft_blocks": (12,)}, "do not turn 12 outputs"),
        ({"oft_blocks": (5, 6, 2, 2)}, "do not turn 12 outputs"),
        ({"oft_blocks": (2, 4, 3, 3)}, "do not turn 12 outputs"),
        ({"lora_down.weight": (4, 20), "lora_up.weight": (12, 4), "dora_scale": (1, 12)}, "dora_scale of 1×12"),
        ({"lora_down.weight": (4, 20), "lora_up.weight": (12, 4), "magnitude": (20,)}, "magnitude of 20"),
        ({"weight": (7,), "on_input": ()}, "where the model needs"),
    ],
)
def test_what_does_not_fit_is_told(tensors: dict[str, tuple[int, ...]], words: str) -> None:
    layer = nn.Linear(20, 12)

    with pytest.raises(Unfit, match=words):
        build({name: torch.ones(shape) for name, shape in tensors.items()}, (layer,))
