"""LoRAs of transformers (FLUX, FLUX.2, SD3, Qwen-Image, Z-Image) in the dialects of their makers and trainers.

The peer is diffusers: its converters name the layers, the weights are merged, and the model must paint the same.
"""

import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders import lora_conversion_utils as theirs
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from torch import Tensor, nn

from pipelines.runtime.adapters.applied import AppliedLoras
from pipelines.runtime.adapters.layers import Layers
from pipelines.runtime.adapters.loaded import LoadedLora, load
from pipelines.runtime.adapters.transformer_names import original_names
from pipelines.spec.errors import LoraError
from tests.pipelines.runtime.adapters import lora_files
from tests.pipelines.runtime.adapters.lora_files import asked

RANK, ALPHA = 3, 2.0
Tensors = dict[str, Tensor]


def flux() -> nn.Module:
    return diffusers.FluxTransformer2DModel(
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=10,
        guidance_embeds=True,
        axes_dims_rope=(2, 2, 4),
    )


def flux2() -> nn.Module:
    return diffusers.Flux2Transformer2DModel(
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        timestep_guidance_channels=16,
        axes_dims_rope=(2, 2, 2, 2),
    )


def sd3() -> nn.Module:
    return diffusers.SD3Transformer2DModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        pooled_projection_dim=10,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
    )


def qwen() -> nn.Module:
    return diffusers.QwenImageTransformer2DModel(
        in_channels=4,
        out_channels=1,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        axes_dims_rope=(2, 2, 4),
    )


def z_image() -> nn.Module:
    return diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=16,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=12,
        axes_dims=[2, 2, 4],
        axes_lens=[64, 32, 32],
    )


def paint(model: Any) -> Tensor:
    generator = torch.Generator().manual_seed(5)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    time = torch.tensor([0.5])
    with torch.no_grad():
        match model:
            case diffusers.SD3Transformer2DModel():
                return model(randn(1, 4, 4, 4), randn(1, 3, 12), randn(1, 10), time).sample
            case diffusers.QwenImageTransformer2DModel():
                text, mask = randn(1, 3, 12), torch.ones(1, 3, dtype=torch.bool)
                return model(randn(1, 4, 4), text, mask, time, img_shapes=[[(1, 2, 2)]]).sample
            case diffusers.ZImageTransformer2DModel():
                return model([randn(4, 1, 4, 4)], time, [randn(3, 12)]).sample[0]
        axes = len(model.config.axes_dims_rope)
        ids: dict[str, Any] = {"img_ids": torch.zeros(4, axes), "txt_ids": torch.zeros(3, axes), "guidance": time}
        ids["img_ids"][:, 1] = torch.arange(4)
        if isinstance(model, diffusers.FluxTransformer2DModel):
            ids["pooled_projections"] = randn(1, 10)
        return model(randn(1, 4, 4), encoder_hidden_states=randn(1, 3, 12), timestep=time, **ids).sample


def products(shapes: Mapping[str, tuple[int, int]]) -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: (torch.randn(RANK, inside, generator=generator) / 2, torch.randn(out, RANK, generator=generator) / 2)
        for name, (out, inside) in shapes.items()
    }


def original_shapes(model: Any, *, like: str, but: str = "(?!)") -> dict[str, tuple[int, int]]:
    layers = dict(model.named_modules())
    return {
        name: (sum(layers[path].out_features for path in paths), layers[paths[0]].in_features)
        for name, paths, _ in original_names(model)
        if re.search(like, name) and not re.search(but, name) and isinstance(layers.get(paths[0]), nn.Linear)
    }


def own_shapes(model: nn.Module, *, like: str = "") -> dict[str, tuple[int, int]]:
    return {
        path: (layer.out_features, layer.in_features)
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and re.search(like, path)
    }


def kohya(shapes: Mapping[str, tuple[int, int]], *, prefix: str = "lora_unet_") -> Tensors:
    tensors = {}
    for name, (down, up) in products(shapes).items():
        stem = prefix + name.replace(".", "_")
        tensors |= {
            f"{stem}.lora_down.weight": down,
            f"{stem}.lora_up.weight": up,
            f"{stem}.alpha": torch.tensor(ALPHA),
        }
    return tensors


def dotted(
    shapes: Mapping[str, tuple[int, int]], *, prefix: str, ends: tuple[str, str] = ("lora_A", "lora_B")
) -> Tensors:
    return {
        f"{prefix}{name}.{end}.weight": matrix
        for name, pair in products(shapes).items()
        for end, matrix in zip(ends, pair, strict=True)
    }


def sd3_checkpoint(tensors: Tensors, model: Any) -> Tensors:
    """ΔW under the names of Stability's checkpoint, beside zeros for all else, through diffusers' table of it."""
    deltas = {
        name: up @ down * (ALPHA / RANK) for name, (down, up) in products(original_shapes(model, like="")).items()
    }

    class Zeros(dict[str, Tensor]):
        def pop(self, key: str, *_: Any) -> Tensor:  # type: ignore[override]
            return dict.pop(self, key, torch.zeros(3 * 16))

        def __missing__(self, key: str) -> Tensor:
            return torch.zeros(48)

    named = {f"{name}.weight": delta for name, delta in deltas.items()}
    marks = {f"joint_blocks.{number}.context_block.adaLN_modulation.1.bias": torch.zeros(32) for number in range(2)}
    dual = {"joint_blocks.0.x_block.attn2.qkv.bias": torch.zeros(48)}
    converted = convert_sd3_transformer_checkpoint_to_diffusers(Zeros({**named, **marks, **dual}))
    return {key.removesuffix(".weight"): value for key, value in converted.items() if value.dim() == 2}


Case = tuple[Callable[[], nn.Module], Callable[[Any], Tensors], Callable[[Tensors], Mapping[str, Tensor]]]
CASES: dict[str, Case] = {
    "flux kohya": (
        flux,
        lambda model: kohya(original_shapes(model, like="block|_in|guid", but="processor|single.*linear1")),
        theirs._convert_kohya_flux_lora_to_diffusers,
    ),
    "flux OneTrainer": (
        flux,
        lambda model: kohya(own_shapes(model, like=r"attn\.|embedder|^proj_out"), prefix="lora_transformer_"),
        theirs._convert_kohya_flux_lora_to_diffusers,
    ),
    "flux xlabs": (
        flux,
        lambda model: dotted(original_shapes(model, like="processor"), prefix="", ends=("down", "up")),
        theirs._convert_xlabs_flux_lora_to_diffusers,
    ),
    "flux diffusers": (flux, lambda model: dotted(own_shapes(model), prefix="transformer."), lambda tensors: tensors),
    "flux2 kohya": (
        flux2,
        lambda model: kohya(original_shapes(model, like="block|img_in|txt_in|time_in|final_layer.linear")),
        theirs._convert_kohya_flux2_lora_to_diffusers,
    ),
    "flux2 ai-toolkit": (
        flux2,
        lambda model: dotted(original_shapes(model, like="", but="adaLN"), prefix="diffusion_model."),
        theirs._convert_non_diffusers_flux2_lora_to_diffusers,
    ),
    "qwen kohya": (
        qwen,
        lambda model: kohya(own_shapes(model, like=r"blocks.*(attn|mlp|mod)|img_in|txt_in|proj_out$")),
        theirs._convert_non_diffusers_qwen_lora_to_diffusers,
    ),
    "qwen ai-toolkit": (
        qwen,
        lambda model: dotted(own_shapes(model), prefix="diffusion_model."),
        theirs._convert_non_diffusers_qwen_lora_to_diffusers,
    ),
    "z-image kohya": (
        z_image,
        lambda model: kohya(own_shapes(model, like=r"attention|feed_forward")),
        theirs._convert_non_diffusers_z_image_lora_to_diffusers,
    ),
    "z-image diffusers": (
        z_image,
        lambda model: dotted(own_shapes(model), prefix="diffusion_model."),
        theirs._convert_non_diffusers_z_image_lora_to_diffusers,
    ),
}  # fmt: skip


def read(tensors: Tensors, model: Any, path: Path) -> LoadedLora:
    return load(lora_files.write(path / "x.safetensors", tensors), layers=Layers(model, ()), model_name="tiny")


def hooked(lora: LoadedLora, model: Any, path: Path, *, weight: float = 1.0) -> Tensor:
    applied = AppliedLoras([(asked(lora_files.lora_file(path / "x.safetensors"), weight), lora)])
    with applied.hooked(Layers(model, ())):
        return paint(model)


def merged(model: nn.Module, changes: Mapping[str, Tensor], *, weight: float = 1.0) -> nn.Module:
    """The model with W + weight · ΔW."""
    changed = deepcopy(model)
    for path, change in changes.items():
        with torch.no_grad():
            changed.get_submodule(path).weight.add_(weight * change)  # type: ignore[operator, union-attr]
    return changed


@pytest.mark.parametrize("name", CASES)
def test_it_paints_as_the_merged_weights_do(name: str, tmp_path: Path) -> None:
    build, write, convert = CASES[name]
    torch.manual_seed(0)
    model = build().eval()
    tensors = write(model)
    converted = {key.removeprefix("transformer."): value for key, value in convert(dict(tensors)).items()}
    stems = [key.removesuffix(".lora_A.weight") for key in converted if key.endswith(".lora_A.weight")]
    changes = {each: converted[f"{each}.lora_B.weight"] @ converted[f"{each}.lora_A.weight"] for each in stems}
    plain = paint(model)

    lora = read(tensors, model, tmp_path)
    result = hooked(lora, model, tmp_path, weight=0.3)

    assert lora.audit(lora.deltas) == f"{len(changes)}/{len(changes)}: transformer {len(changes)}"
    expected = paint(merged(model, changes, weight=0.3))
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    assert (result - plain).abs().max() > 1e-2
    assert torch.equal(paint(model), plain)


@pytest.mark.parametrize("build", [flux, sd3, qwen, z_image])
def test_onetrainer_says_transformer_where_kohya_says_unet(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = build().eval()
    one, other = (
        read(kohya(own_shapes(model), prefix=prefix), model, tmp_path) for prefix in ("lora_transformer_", "lora_unet_")
    )

    assert one.deltas.keys() == other.deltas.keys()
    assert torch.equal(hooked(one, model, tmp_path, weight=0.3), hooked(other, model, tmp_path, weight=0.3))


def test_sd3_in_stabilitys_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = sd3().eval()
    tensors = kohya(original_shapes(model, like=""))
    changes = {path: change for path, change in sd3_checkpoint(tensors, model).items() if path in own_shapes(model)}

    lora = read(tensors, model, tmp_path)
    result = hooked(lora, model, tmp_path, weight=0.3)

    assert lora.audit(lora.deltas) == f"{len(changes)}/{len(changes)}: transformer {len(changes)}"
    torch.testing.assert_close(result, paint(merged(model, changes, weight=0.3)), atol=1e-5, rtol=1e-5)


def test_z_image_in_its_makers_names(tmp_path: Path) -> None:
    """q, k and v in one layer; a third of the outputs each."""
    torch.manual_seed(0)
    model = z_image().eval()
    stem = "layers.0.attention"
    down, up = torch.randn(RANK, 16), torch.randn(48, RANK)
    tensors = {f"diffusion_model.{stem}.qkv.lora_A.weight": down, f"diffusion_model.{stem}.qkv.lora_B.weight": up}
    changes = {f"{stem}.to_{name}": part @ down for name, part in zip("qkv", up.chunk(3), strict=True)}

    lora = read(tensors, model, tmp_path)

    assert lora.audit(lora.deltas) == "3/3: transformer 3"
    expected = paint(merged(model, changes))
    torch.testing.assert_close(hooked(lora, model, tmp_path), expected, atol=1e-5, rtol=1e-5)


def test_the_first_layer_of_a_single_block_is_four(tmp_path: Path) -> None:
    """q, k, v and the way into the MLP, which is wider; diffusers' converter knows only the size of the real model."""
    torch.manual_seed(0)
    model = flux().eval()
    down, up = torch.randn(RANK, 16), torch.randn(112, RANK)
    stem, own = "lora_unet_single_blocks_1_linear1", "single_transformer_blocks.1"
    names = [f"{own}.attn.to_q", f"{own}.attn.to_k", f"{own}.attn.to_v", f"{own}.proj_mlp"]

    lora = read({f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}, model, tmp_path)

    assert lora.audit(lora.deltas) == "4/4: transformer 4"
    changes = {name: part @ down for name, part in zip(names, up.split((16, 16, 16, 64)), strict=True)}
    expected = paint(merged(model, changes))
    torch.testing.assert_close(hooked(lora, model, tmp_path), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("build", [flux, flux2])
def test_the_last_modulation_of_flux_has_its_halves_in_the_other_order(
    build: Callable[[], nn.Module], tmp_path: Path
) -> None:
    """BFL's code takes shift, scale = chunk(2); diffusers scale, shift."""
    model = build().eval()
    down, up = torch.randn(RANK, 16), torch.randn(32, RANK)
    stem = "lora_unet_final_layer_adaLN_modulation_1"
    tensors = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}

    lora = read(tensors, model, tmp_path)

    shift, scale = up.chunk(2)
    expected = paint(merged(model, {"norm_out.linear": torch.cat([scale, shift]) @ down}))
    torch.testing.assert_close(hooked(lora, model, tmp_path), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["lokr", "loha", "diff", "dora on inputs", "dora on outputs"])
def test_other_kinds_on_a_layer_that_diffusers_splits(kind: str, tmp_path: Path) -> None:
    """What diffusers refuses (or drops, with DoRA)."""
    torch.manual_seed(0)
    model: Any = flux().eval()
    attention = model.transformer_blocks[0].attn
    layers = {f"transformer_blocks.0.attn.to_{name}": getattr(attention, f"to_{name}") for name in "qkv"}
    base = torch.cat([layer.weight.detach() for layer in layers.values()])
    down, up, more = torch.randn(RANK, 16), torch.randn(48, RANK), {}
    match kind:
        case "lokr":
            w1, w2 = torch.randn(6, 4), torch.randn(8, 4)
            tensors, change = {"lokr_w1": w1, "lokr_w2": w2}, torch.kron(w1, w2)
        case "loha":
            other, more_up = torch.randn(RANK, 16), torch.randn(48, RANK)
            tensors = {"hada_w1_a": up, "hada_w1_b": down, "hada_w2_a": more_up, "hada_w2_b": other}
            change = (up @ down) * (more_up @ other)
        case "diff":
            change = torch.randn(48, 16)
            tensors = {"diff": change}
        case _:
            dimension = 0 if kind.endswith("inputs") else 1
            whole = base + up @ down
            lengths = torch.rand(1, 16) + 0.5 if dimension == 0 else torch.rand(48, 1) + 0.5
            more = {"dora_scale": lengths}
            tensors = {"lora_down.weight": down, "lora_up.weight": up}
            change = whole * lengths / whole.norm(dim=dimension, keepdim=True) - base
    stem = "lora_unet_double_blocks_0_img_attn_qkv"

    lora = read({f"{stem}.{name}": tensor for name, tensor in {**tensors, **more}.items()}, model, tmp_path)

    expected = paint(merged(model, dict(zip(layers, change.chunk(3), strict=True))))
    torch.testing.assert_close(hooked(lora, model, tmp_path), expected, atol=1e-5, rtol=1e-5)


def test_another_familys_file_is_refused(tmp_path: Path) -> None:
    tensors = kohya(original_shapes(flux(), like="single_blocks", but="processor"))

    for model in (sd3(), qwen(), z_image()):
        with pytest.raises(LoraError, match="changes no layer of model tiny"):
            read(dict(tensors), model, tmp_path)
    with pytest.raises(LoraError, match=r"does not fit model tiny|in part only"):
        read(dict(tensors), flux2(), tmp_path)
