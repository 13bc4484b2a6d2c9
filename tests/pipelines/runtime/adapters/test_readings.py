"""How files are meant that say the same thing differently, and what is refused since it cannot be meant."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipelines.runtime.adapters.formats import build
from pipelines.runtime.adapters.layers import Layers
from pipelines.runtime.adapters.loaded import LoadedLora, load
from pipelines.runtime.adapters.unfit import Unfit
from pipelines.runtime.loading import Components, ModelCache
from pipelines.spec.errors import LoraError
from pipelines.spec.model import Model
from tests.pipelines.runtime.adapters import lora_files

RANK, SIDE = 4, 12
Query = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def components(sd1: Model) -> Components:
    return ModelCache(torch.device("cpu"), dtype=torch.float32, max_bytes=10**9).get(sd1)


@pytest.fixture
def read(components: Components, tmp_path: Path) -> Callable[..., LoadedLora]:
    def read(tensors: dict[str, Tensor], metadata: dict[str, Any] | None = None) -> LoadedLora:
        notes = {"lora_adapter_metadata": json.dumps(metadata)} if metadata is not None else None
        file = lora_files.write(tmp_path / "x.safetensors", tensors, notes)
        return load(file, layers=Layers(components.unet, components.text_encoders), model_name="sd1")

    return read


def change(tensors: dict[str, Tensor], layer: nn.Module, x: Tensor) -> Tensor:
    y = layer(x)
    return torch.stack([each.change(layer, x, y, 1.0) for each in build(tensors, (layer,))[0]]).sum(0)


def factors(*, kernel: tuple[int, ...] = (), **more: Tensor) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    down = torch.randn(RANK, SIDE, *kernel, generator=generator) / 3
    up = torch.randn(SIDE, RANK, *[1] * len(kernel), generator=generator) / 3
    return {"lora_down.weight": down, "lora_up.weight": up, **more}


@pytest.mark.parametrize(
    ("alpha", "scale"),
    [(torch.tensor(2.0), 0.5), (torch.tensor([2.0]), 0.5), (torch.tensor(2), 0.5), (torch.tensor(0.0), 1.0)],
)
def test_alpha_in_every_shape(alpha: Tensor, scale: float) -> None:
    """0 is the rank, as for the trainers that write it (kohya's sd-scripts, LyCORIS)."""
    ((delta,),) = build(factors(alpha=alpha), (nn.Linear(SIDE, SIDE),))

    assert delta.scale == scale  # type: ignore[attr-defined]


def test_what_diffusers_notes_beside_the_tensors_counts_for_each_part(read: Callable[..., LoadedLora]) -> None:
    key = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"
    paths = [f"unet.{key}.to_q", f"unet.{key}.to_k", "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"]
    tensors = {}
    for path in paths:
        tensors |= {f"{path}.lora_A.weight": torch.ones(RANK, 32), f"{path}.lora_B.weight": torch.ones(32, RANK)}
    metadata = {
        **{"unet.r": 4, "unet.lora_alpha": 8, "unet.use_rslora": True, "unet.alpha_pattern": {"attn1.to_k": 2}},
        **{"text_encoder.r": 4, "text_encoder.lora_alpha": 1, "text_encoder.rank_pattern": {}},
    }

    lora = read(tensors, metadata)

    scales = {place.path.rpartition(".")[2]: delta.scale for place, (delta,) in lora.deltas.items()}  # type: ignore[attr-defined]
    assert scales == {"to_q": 8 / math.sqrt(4), "to_k": 2 / math.sqrt(4), "q_proj": 1 / 4}


@pytest.mark.parametrize(
    "metadata",
    [
        [1],
        {"unet.lora_alpha": "8"},
        {"unet.lora_alpha": 8, "unet.alpha_pattern": {"(a+)+$": 3}},
        {"unet.use_rslora": 3},
    ],
)
def test_notes_that_mean_nothing_are_refused(metadata: Any, read: Callable[..., LoadedLora]) -> None:
    tensors = {f"unet.{Query}.lora_A.weight": torch.ones(2, 32), f"unet.{Query}.lora_B.weight": torch.ones(32, 2)}

    with pytest.raises(LoraError, match="lora_adapter_metadata"):
        read(tensors, metadata)


def test_the_bias_of_pefts_second_matrix(read: Callable[..., LoadedLora]) -> None:
    """PEFT's lora_bias: scale · (B A x + b)."""
    layer = nn.Linear(SIDE, SIDE).requires_grad_(False)
    tensors, x, bias = factors(alpha=torch.tensor(2.0)), torch.randn(3, SIDE), torch.randn(SIDE)

    with_bias = change({**tensors, "lora_up.bias": bias}, layer, x)

    torch.testing.assert_close(with_bias, change(tensors, layer, x) + 0.5 * bias)
    lora = read(
        {
            f"unet.{Query}.lora_A.weight": torch.ones(2, 32),
            f"unet.{Query}.lora_B.weight": torch.ones(32, 2),
            f"unet.{Query}.lora_B.bias": torch.ones(32),
        }
    )
    assert lora.audit(lora.deltas) == "1/1: unet 1"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("on_input", [True, False])
def test_a_dora_whose_weight_has_a_row_of_zeros(dtype: torch.dtype, on_input: bool) -> None:
    layer = nn.Linear(SIDE, SIDE).requires_grad_(False)
    tensors = factors()
    layer.weight[:, 3] = layer.weight[3] = 0
    tensors["lora_up.weight"][3], tensors["lora_down.weight"][:, 3] = 0, 0
    tensors["dora_scale"] = torch.full((1, SIDE) if on_input else (SIDE, 1), 2.0)
    ((delta,),) = build(tensors, (layer,))
    excess = delta.excess.to(dtype)  # type: ignore[attr-defined]

    assert torch.isfinite(excess).all()
    assert torch.isfinite(change(tensors, layer, torch.randn(2, SIDE))).all()


@pytest.mark.parametrize("kind", ["loha", "lokr"])
@pytest.mark.parametrize("on_input", [True, False])
def test_dora_around_other_kinds(kind: str, on_input: bool) -> None:
    layer, x = nn.Linear(SIDE, SIDE).requires_grad_(False), torch.randn(3, SIDE)
    if kind == "loha":
        a, b, c, d = torch.randn(SIDE, 2), torch.randn(2, SIDE), torch.randn(SIDE, 2), torch.randn(2, SIDE)
        tensors, delta = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d}, (a @ b) * (c @ d)
    else:
        w1, w2 = torch.randn(3, 4), torch.randn(4, 3)
        tensors, delta = {"lokr_w1": w1, "lokr_w2": w2}, torch.kron(w1, w2)
    wanted = torch.rand(SIDE) + 0.5
    merged = layer.weight + delta
    shape = (1, SIDE) if on_input else (SIDE, 1)
    lengths = merged.norm(dim=0 if on_input else 1).reshape(shape)
    expected = functional.linear(x, merged * wanted.reshape(shape) / lengths, layer.bias) - layer(x)

    result = change({**tensors, "dora_scale": wanted.reshape(shape)}, layer, x)

    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stored", [(), (1, 1)])
@pytest.mark.parametrize("layer", [nn.Linear(SIDE, SIDE), nn.Conv2d(SIDE, SIDE, 1)])
def test_pointwise_convolutions_and_linear_layers_are_stored_as_each_other(
    layer: nn.Module, stored: tuple[int, ...]
) -> None:
    layer.requires_grad_(False)
    tensors = factors(kernel=stored)
    x = torch.randn(2, SIDE, 5, 5) if isinstance(layer, nn.Conv2d) else torch.randn(2, 5, SIDE)
    weight = tensors["lora_up.weight"].flatten(1) @ tensors["lora_down.weight"].flatten(1)
    expected = torch.einsum("oi,bihw->bohw", weight, x) if x.dim() == 4 else x @ weight.T

    torch.testing.assert_close(change(tensors, layer, x), expected, atol=1e-5, rtol=1e-5)


def test_a_core_between_the_matrices_of_a_linear_layer() -> None:
    layer, x, mid = nn.Linear(SIDE, SIDE).requires_grad_(False), torch.randn(2, SIDE), torch.randn(RANK, RANK)
    tensors = factors()

    result = change({**tensors, "lora_mid.weight": mid}, layer, x)

    expected = x @ (tensors["lora_up.weight"] @ mid @ tensors["lora_down.weight"]).T
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16])
def test_small_numbers(dtype: torch.dtype, read: Callable[..., LoadedLora]) -> None:
    down, up = (torch.randn(2, 32) / 3).to(dtype), (torch.randn(32, 2) / 3).to(dtype)

    (delta,) = next(
        iter(read({f"unet.{Query}.lora_A.weight": down, f"unet.{Query}.lora_B.weight": up}).deltas.values())
    )

    assert torch.equal(delta.down, down.float())  # type: ignore[attr-defined]
    assert torch.equal(delta.up, up.float())  # type: ignore[attr-defined]


def test_the_norm_behind_the_text_encoder(read: Callable[..., LoadedLora]) -> None:
    stem = "lora_te_text_model_final_layer_norm"

    lora = read({f"{stem}.w_norm": torch.ones(32), f"{stem}.b_norm": torch.ones(32)})

    assert lora.audit(lora.deltas) == "1/1: text encoder 1"


WIDE = {"hada_w1_a": (20, 2), "hada_w1_b": (2, 12), "hada_w2_a": (20, 2), "hada_w2_b": (2, 12)}
MATRICES = {"lora_down.weight": (2, 20), "lora_up.weight": (12, 2)}
WRONG: list[tuple[str, nn.Module, dict[str, tuple[int, ...]], str]] = [
    ("a product on its side", nn.Linear(20, 12), WIDE, "factors whose product"),
    ("kron on its side", nn.Linear(20, 12), {"lokr_w1": (5, 3), "lokr_w2": (4, 4)}, "factors whose product"),
    ("many alphas", nn.Linear(20, 12), {**MATRICES, "alpha": (2,)}, "alpha of 2, where one number"),
    ("no rank", nn.Linear(20, 12), {"lora_down.weight": (0, 20), "lora_up.weight": (12, 0)}, "of 0×20"),
    ("a number", nn.Linear(20, 12), {**MATRICES, "lora_down.weight": ()}, "lora_down.weight of one number"),
    ("matrices for a norm", nn.LayerNorm(12), MATRICES, "a normalisation"),
    ("factors for a norm", nn.GroupNorm(2, 12), {"lokr_w1": (3, 2), "lokr_w2": (4, 2)}, "a normalisation"),
    ("scales for a norm", nn.LayerNorm(12), {"weight": (12,), "on_input": (1,)}, "a normalisation"),
    ("rotations for a norm", nn.LayerNorm(12), {"oft_blocks": (3, 4, 4)}, "a normalisation"),
    ("flat factor", nn.Linear(20, 12), {**WIDE, "hada_w1_a": (20,)}, "hada_w1_a of 20"),
    ("butterfly", nn.Linear(20, 12), {"oft_blocks": (2, 3, 4, 4)}, "do not turn 12 outputs"),
    ("bias beside lengths", nn.Linear(20, 12), {**MATRICES, "lora_up.bias": (12,), "dora_scale": (12,)}, "together"),
    ("side said twice", nn.Linear(20, 12), {"weight": (12,), "on_input": (2,)}, "on_input of 2, where one number"),
]  # fmt: skip


@pytest.mark.parametrize(("layer", "shapes", "words"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_what_cannot_be_meant_is_told(layer: nn.Module, shapes: dict[str, tuple[int, ...]], words: str) -> None:
    with pytest.raises(Unfit, match=words):
        build({name: torch.ones(shape) for name, shape in shapes.items()}, (layer,))


def test_a_layer_that_is_named_twice_is_refused(read: Callable[..., LoadedLora]) -> None:
    down, up = torch.ones(2, 32), torch.ones(32, 2)
    flat = f"lora_unet_{Query.replace('.', '_')}"
    tensors = {f"unet.{Query}.lora_A.weight": down, f"unet.{Query}.lora_B.weight": up}

    with pytest.raises(LoraError, match=r"twice, as lora_unet_down_blocks_1.* and unet.down_blocks.1"):
        read({**tensors, f"{flat}.lora_down.weight": down * 2, f"{flat}.lora_up.weight": up * 2})


def test_what_comfyui_saves(read: Callable[..., LoadedLora]) -> None:
    stem = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q"

    with pytest.raises(LoraError, match="belongs to it"):
        read({f"{stem}x.lora_down.weight": torch.ones(2, 32), f"{stem}x.lora_up.weight": torch.ones(32, 2)})
    for name in (stem.replace("blocks.4", "blocks.3"), f"diffusion_model.{Query}"):
        lora = read({f"{name}.lora_down.weight": torch.ones(2, 32), f"{name}.lora_up.weight": torch.ones(32, 2)})
        assert [place.path for place in lora.deltas] == [Query]


def test_a_kind_that_is_not_known_is_not_blamed_on_the_model(read: Callable[..., LoadedLora]) -> None:
    with pytest.raises(LoraError) as refusal:
        read({f"lora_unet_{Query.replace('.', '_')}.vera_lambda_b": torch.ones(8)})

    assert "no kind that is known" in str(refusal.value)
    assert "another kind of model" not in str(refusal.value)
