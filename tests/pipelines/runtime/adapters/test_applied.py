"""Applied LoRAs act on whole models as merged weights do, and leave them as they were."""

import copy
import gc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

from pipelines.runtime.adapters.applied import AppliedLoras
from pipelines.runtime.adapters.base_weights import BaseWeights
from pipelines.runtime.adapters.deltas import Difference, Hadamard, Kronecker, LowRank
from pipelines.runtime.adapters.layers import Layers
from pipelines.runtime.adapters.loaded import load
from pipelines.runtime.loading import Components, ModelCache
from pipelines.spec.model import Model
from tests.pipelines.runtime.adapters import lora_files
from tests.pipelines.runtime.adapters.lora_files import asked

RANK = 2
TOLERANCE = 1e-5

File = Mapping[str, Tensor]
Kind = Callable[[Tensor, torch.Generator], tuple[File, Tensor]]
"""From a base weight to the tensors of a layer and the weight that they make of it, each as its paper says."""


def draw(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator) / 8


def lora(base: Tensor, generator: torch.Generator) -> tuple[File, Tensor]:
    """arXiv:2106.09685, section 4.1: W + alpha / r · B A."""
    out, inside, *kernel = base.shape
    down, up = draw(generator, RANK, inside, *kernel), draw(generator, out, RANK)
    change = (up.double() @ down.flatten(1).double()).reshape(base.shape)
    tensors = {"lora_down.weight": down, "lora_up.weight": up.reshape(out, RANK, *[1] * len(kernel))}
    return {**tensors, "alpha": torch.tensor(3.0)}, base + 3.0 / RANK * change


def tucker(base: Tensor, generator: torch.Generator) -> tuple[File, Tensor]:
    """arXiv:2309.14859, section 3.2; a linear layer has no kernel to decompose."""
    if base.dim() == 2:
        return lora(base, generator)
    out, inside, *kernel = base.shape
    down, up = draw(generator, RANK, inside), draw(generator, out, RANK)
    core = 4 * draw(generator, RANK, RANK, *kernel)
    change = torch.einsum("or,rskl,si->oikl", up.double(), core.double(), down.double())
    tensors = {"lora_down.weight": down[..., None, None], "lora_up.weight": up[..., None, None]}
    return {**tensors, "lora_mid.weight": core}, base + change


def loha(base: Tensor, generator: torch.Generator) -> tuple[File, Tensor]:
    """arXiv:2108.06098, equation 2: (X1 Y1ᵀ) ∘ (X2 Y2ᵀ)."""
    out, inside = base.shape[0], base[0].numel()
    a1, a2 = 4 * draw(generator, out, RANK), 4 * draw(generator, out, RANK)
    b1, b2 = draw(generator, RANK, inside), draw(generator, RANK, inside)
    change = ((a1.double() @ b1.double()) * (a2.double() @ b2.double())).reshape(base.shape)
    return {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2}, base + change


def lokr(base: Tensor, generator: torch.Generator) -> tuple[File, Tensor]:
    """arXiv:2309.14859, section 3.2: blocks of w2, each times a number of w1."""
    out, inside, *kernel = base.shape
    w1, w2 = 4 * draw(generator, 2, 2), draw(generator, out // 2, inside // 2, *kernel)
    rows = [torch.cat([w1[i, j].double() * w2.double() for j in range(2)], dim=1) for i in range(2)]
    return {"lokr_w1": w1, "lokr_w2": w2}, base + torch.cat(rows)


def dora(base: Tensor, generator: torch.Generator) -> tuple[File, Tensor]:
    """arXiv:2402.09353, equation 5, over the inputs."""
    tensors, merged = lora(base, generator)
    columns = merged.transpose(0, 1).flatten(1)
    wanted = columns.norm(dim=1) * (1 + draw(generator, columns.shape[0]).double())
    scale = wanted.reshape(1, -1, *[1] * (base.dim() - 2))
    lengths = columns.norm(dim=1).reshape(scale.shape)
    return {**tensors, "dora_scale": scale.float()}, merged * scale / lengths


def difference(base: Tensor, generator: torch.Generator) -> tuple[File, Tensor]:
    change = draw(generator, *base.shape) / 4
    return {"diff": change}, base + change


def ia3(base: Tensor, generator: torch.Generator) -> tuple[File, Tensor]:
    """arXiv:2205.05638, section 3.3."""
    scale = draw(generator, base.shape[0])
    columns = scale.reshape(-1, *[1] * (base.dim() - 1))
    return {"weight": columns, "on_input": torch.tensor(False)}, base * (1 + columns)


def oft(base: Tensor, generator: torch.Generator) -> tuple[File, Tensor]:
    """arXiv:2306.07280, section 3.2: blocks on the diagonal, each orthogonal. kohya multiplies with the transposed."""
    size = base.shape[0] // 2
    blocks = draw(generator, 2, size, size)
    skewed = (blocks - blocks.transpose(1, 2)).double()
    identity = torch.eye(size).double()
    rotation = torch.block_diag(*((identity + q) @ torch.linalg.inv(identity - q) for q in skewed))
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(base.shape[0]).double())
    return {"oft_blocks": blocks}, (rotation.T @ base.flatten(1).double()).reshape(base.shape)


KINDS: dict[str, Kind] = {kind.__name__: kind for kind in (lora, tucker, loha, lokr, dora, difference, ia3, oft)}  # type: ignore[misc]
UNET_LAYERS = (
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
    "down_blocks.1.attentions.0.transformer_blocks.0.ff.net.2",
    "down_blocks.1.resnets.0.conv1",
    "mid_block.attentions.0.proj_in",
    "up_blocks.1.resnets.0.conv_shortcut",
    "up_blocks.0.upsamplers.0.conv",
)
TEXT_LAYERS = ("encoder.layers.0.self_attn.q_proj", "encoder.layers.2.self_attn.out_proj")


@pytest.fixture(scope="module")
def loaded(sd1: Model, sdxl: Model) -> dict[str, Components]:
    cache = ModelCache(torch.device("cpu"), dtype=torch.float32, max_bytes=10**9)
    return {model.family.name: cache.get(model) for model in (sd1, sdxl)}


def outputs(components: Components) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(5)
    encoders = components.text_encoders
    texts = [encoder(torch.arange(10)[None], output_hidden_states=True) for encoder in encoders]
    added = {}
    if len(encoders) > 1:
        added = {"text_embeds": texts[-1].text_embeds, "time_ids": torch.full((1, 6), 64.0)}
    embeds = torch.cat([each.hidden_states[-1] for each in texts], dim=-1)
    latents = torch.randn(1, 4, 8, 8, generator=generator)
    prediction = components.unet(latents, 500, encoder_hidden_states=embeds, added_cond_kwargs=added).sample
    return embeds, prediction


@pytest.mark.parametrize("strength", [1.0, -0.7])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@torch.inference_mode()
def test_a_model_acts_as_if_the_weights_were_merged(
    family: str, kind: str, strength: float, loaded: dict[str, Components], tmp_path: Path
) -> None:
    components = loaded[family]
    merged = copy.deepcopy((components.unet, components.text_encoders))
    generator = torch.Generator().manual_seed(3)
    tensors: dict[str, Tensor] = {}
    parts = [("lora_unet_", "", components.unet, merged[0], UNET_LAYERS)]
    prefixes = ("lora_te_",) if family == "sd1" else ("lora_te1_", "lora_te2_")
    for prefix, *encoders in zip(prefixes, components.text_encoders, merged[1], strict=True):
        parts.append((f"{prefix}text_model_", "text_model.", *encoders, TEXT_LAYERS))  # type: ignore[arg-type]
    for prefix, nested, module, other, names in parts:
        for name in names:
            layer, twin = (_layer(each, name, nested) for each in (module, other))
            file, weight = KINDS[kind](layer.weight, generator)
            tensors |= {f"{prefix}{name.replace('.', '_')}.{key}": value for key, value in file.items()}
            twin.weight = nn.Parameter(layer.weight + strength * (weight - layer.weight).float())
    file = lora_files.write(tmp_path / "a.safetensors", tensors)
    plain = outputs(components)
    layers = Layers(components.unet, components.text_encoders)

    applied = AppliedLoras([(asked(file, strength), load(file, layers=layers, model_name="tiny"))])
    with applied.hooked(layers):
        result = outputs(components)

    expected = outputs(_replaced(components, *merged))
    for ours, theirs, before in zip(result, expected, plain, strict=True):
        torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=TOLERANCE)
        assert (ours - before).abs().max() > 1e-3
    assert all(map(torch.equal, outputs(components), plain))


def _layer(module: Any, name: str, nested: str) -> Any:
    """The second text encoder of SDXL has a level that the first has not."""
    return module.get_submodule(name if not nested or not hasattr(module, "text_model") else nested + name)


def _replaced(components: Components, unet: Any, text_encoders: Any) -> Components:
    return Components(**{**vars(components), "unet": unet, "text_encoders": text_encoders})


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_diffusers_gives_the_same_where_it_reads_the_file(
    family: str, loaded: dict[str, Components], sd1: Model, sdxl: Model, tmp_path: Path
) -> None:
    model = {"sd1": sd1, "sdxl": sdxl}[family]
    kind: Any = {"sd1": diffusers.StableDiffusionPipeline, "sdxl": diffusers.StableDiffusionXLPipeline}[family]
    numbers = ("",) if family == "sd1" else ("1", "2")
    names = dict(zip(("text_encoder", "text_encoder_2"), (f"lora_te{n}_" for n in numbers), strict=False))
    weights = lora_files.random_weights(loaded[family], parts=("unet", *names))
    file = lora_files.write(tmp_path / "a.safetensors", lora_files.kohya(weights, text_prefixes=names))
    pipeline = kind.from_pretrained(model.path)
    pipeline.load_lora_weights(file.path, adapter_name="a")
    pipeline.set_adapters(["a"], [0.6])
    encoders = [pipeline.text_encoder] if family == "sd1" else [pipeline.text_encoder, pipeline.text_encoder_2]
    layers = Layers(loaded[family].unet, loaded[family].text_encoders)

    applied = AppliedLoras([(asked(file, 0.6), load(file, layers=layers, model_name="tiny"))])
    with torch.inference_mode(), applied.hooked(layers):
        result = outputs(loaded[family])
        expected = outputs(_replaced(loaded[family], pipeline.unet, tuple(encoders)))

    for ours, theirs in zip(result, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=TOLERANCE)


def test_a_lora_follows_a_text_encoder_to_another_device(
    loaded: dict[str, Components], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in reduced-memory mode, where the encoders leave the accelerator."""
    seen = set()
    change = LowRank.change

    def spy(self: LowRank, *arguments: Any) -> Tensor:
        seen.update(tensor.device.type for tensor in self.tensors())
        return change(self, *arguments)

    monkeypatch.setattr(LowRank, "change", spy)
    components = loaded["sd1"]
    encoder = copy.deepcopy(components.text_encoders[0])
    layers = Layers(components.unet, (encoder,))
    weights = lora_files.random_weights(components, parts=("text_encoder",))
    file = lora_files.write(tmp_path / "a.safetensors", lora_files.kohya(weights))
    applied = AppliedLoras([(asked(file), load(file, layers=layers, model_name="tiny"))])

    encoder.to("meta")
    with applied.hooked(layers):
        encoder(torch.arange(10, device="meta")[None])

    assert seen == {"meta"}


@pytest.mark.parametrize("kind", ["loha", "lokr", "dora of lokr"])
@torch.inference_mode()
def test_full_changes_are_rebuilt_once_within_a_limit_and_let_go(
    kind: str, loaded: dict[str, Components], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are kept, not a bit differs; those that are not are rebuilt at every call."""
    components, generator = loaded["sd1"], torch.Generator().manual_seed(3)
    tensors: dict[str, Tensor] = {}
    for name in UNET_LAYERS[:4]:
        layer = components.unet.get_submodule(name)
        file, _ = KINDS[kind.split()[-1]](layer.weight, generator)
        if kind.startswith("dora"):
            file = {**file, "dora_scale": torch.ones(layer.weight.shape[0], *[1] * (layer.weight.dim() - 1))}
        tensors |= {f"lora_unet_{name.replace('.', '_')}.{key}": value for key, value in file.items()}
    lora = lora_files.write(tmp_path / "a.safetensors", tensors)
    layers = Layers(components.unet, components.text_encoders)
    applied = AppliedLoras([(asked(lora, 0.7), load(lora, layers=layers, model_name="tiny"))])
    sizes = [components.unet.get_submodule(name).weight.nbytes for name in UNET_LAYERS[:4]]
    calls: list[object] = []
    counted = {"loha": Hadamard, "lokr": Kronecker}[kind.split()[-1]]
    weight: Callable[[Any], Tensor] = counted.weight

    def spy(self: Any) -> Tensor:
        calls.append(self)
        return weight(self)

    monkeypatch.setattr(counted, "weight", spy)

    def pictures(max_rebuilt_bytes: int) -> tuple[list[Tensor], int]:
        calls.clear()
        with applied.hooked(layers, max_rebuilt_bytes=max_rebuilt_bytes):
            predictions = [outputs(components)[1] for _ in range(3)]
            assert _kept() <= max_rebuilt_bytes
        assert not _kept()
        return predictions, len(calls)

    never, at_every_call = pictures(0)
    always, once = pictures(2 * sum(sizes))

    assert (at_every_call, once) == (3 * 4, 4)
    assert all(map(torch.equal, never, always))
    some, in_between = pictures(sum(sizes[:2]) + 2000)
    assert once < in_between < at_every_call
    assert all(map(torch.equal, never, some))


def _kept() -> int:
    return sum(each.diff.nbytes for each in gc.get_objects() if type(each) is Difference)


WRITES: dict[str, Callable[[nn.Linear], object]] = {
    "one number": lambda layer: layer.weight[3, 5].add_(1e-3),
    "written and written back": lambda layer: layer.weight.add_(1).sub_(1),
    "another tensor": lambda layer: setattr(layer, "weight", nn.Parameter(layer.weight.clone())),
    "past torch": lambda layer: layer.weight.data.numpy().__imul__(1.5),
    "merged by PEFT": lambda layer: layer.weight.data.add_(torch.full((8, 8), 1e-3)),
    "the bias": lambda layer: layer.bias.zero_(),
}


@pytest.mark.parametrize("write", WRITES)
def test_every_write_to_the_base_is_seen(write: str) -> None:
    module = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8)).requires_grad_(False)
    base = BaseWeights([module])
    writes = base.writes()
    module(torch.randn(2, 6))
    assert base.are_unchanged(since=writes)

    WRITES[write](module[1])  # type: ignore[arg-type]

    assert not base.are_unchanged(since=writes)
