"""The file: its layout, its metadata, and that it means in other programs what it meant while training."""

import hashlib
import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from pipelines.runtime.loading import Components, ModelCache
from pipelines.spec.model import Model
from pipelines.spec.training import TrainingRequest
from pipelines.training.adapters import Adapter, kohya_module
from pipelines.training.files import write_safetensors
from tests.pipelines.training.conftest import Train


def _components(model: Model) -> Components:
    return ModelCache(torch.device("cpu"), dtype=torch.float32, max_bytes=2**30).get(model)


def _with_random_adapter(model: Model, **fields: Any) -> tuple[Components, Adapter]:
    components = _components(model)
    request = TrainingRequest.parse({"data": "x", "name": "x", "rank": 2, "alpha": 3, "train_conv": True, **fields})
    adapter = Adapter.inject(request, components)
    generator = torch.Generator().manual_seed(0)
    for parameter in adapter.parameters().values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return components, adapter


@torch.no_grad()
def _unet_output(unet: Any, family: str) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    embeds = torch.randn(2, 77, unet.config.cross_attention_dim, generator=generator)
    added = None
    if family == "sdxl":
        added = {"text_embeds": torch.randn(2, 32, generator=generator), "time_ids": torch.ones(2, 6)}
    output: Tensor = unet(latents, torch.tensor(7), encoder_hidden_states=embeds, added_cond_kwargs=added).sample
    return output


@torch.no_grad()
def _text_output(encoder: Any) -> Tensor:
    output: Tensor = encoder(torch.arange(77)[None], output_hidden_states=True).hidden_states[-1]
    return output


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_stock_diffusers_loads_the_file_exactly(family: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    model: Model = request.getfixturevalue(family)
    components, adapter = _with_random_adapter(model, train_text_encoder=True)
    write_safetensors(tmp_path / "style.safetensors", adapter.to_kohya(dtype=torch.float32), {})

    pipeline = diffusers.DiffusionPipeline.from_pretrained(model.path, safety_checker=None)
    pipeline.load_lora_weights(tmp_path, weight_name="style.safetensors")

    ours, theirs = (_unet_output(unet, family) for unet in (components.unet, pipeline.unet))
    assert (ours - _unet_output(_components(model).unet, family)).abs().max() > 1e-2
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    encoders = [pipeline.text_encoder, *([pipeline.text_encoder_2] if family == "sdxl" else [])]
    for mine, other, plain in zip(components.text_encoders, encoders, _components(model).text_encoders, strict=True):
        assert (_text_output(mine) - _text_output(plain)).abs().max() > 1e-2
        torch.testing.assert_close(_text_output(mine), _text_output(other), rtol=0, atol=1e-5)


def _merged(weight: Tensor, module: dict[str, Tensor], rank: int) -> Tensor:
    """Compute a trained weight from a file alone, in float64, by the papers' formulas."""
    t = {name: tensor.double() for name, tensor in module.items()}
    weight = weight.double()
    if "lokr_w1" in t or "lokr_w1_a" in t:
        w1 = t["lokr_w1"] if "lokr_w1" in t else t["lokr_w1_a"] @ t["lokr_w1_b"]
        is_whole = "lokr_w1" in t and "lokr_w2" in t
        w2 = t["lokr_w2"].flatten(1) if "lokr_w2" in t else t["lokr_w2_a"] @ t["lokr_w2_b"]
        columns = weight.shape[1] // w1.shape[1]
        w2 = w2.reshape(w2.shape[0], columns, -1)  # (out, in, kernel)
        delta = torch.stack([torch.kron(w1, w2[:, :, k]) for k in range(w2.shape[2])], dim=-1)
        return weight + (1.0 if is_whole else t["alpha"] / rank) * delta.reshape(weight.shape)
    delta = t["lora_up.weight"].flatten(1) @ t["lora_down.weight"].flatten(1) * (t["alpha"] / rank)
    trained = weight + delta.reshape(weight.shape)
    if "dora_scale" not in t:
        return trained
    norm = trained.flatten(1).norm(dim=1).reshape(-1, *(1,) * (weight.dim() - 1))  # arXiv:2402.09353, equation 5
    return t["dora_scale"] * trained / norm


@pytest.mark.parametrize("kind", ["lora", "lokr", "dora"])
@pytest.mark.parametrize("rank", [2, 64])
def test_every_kind_means_what_its_formula_says(kind: str, rank: int, sd1: Model) -> None:
    components, adapter = _with_random_adapter(sd1, kind=kind, rank=rank)
    tensors = adapter.to_kohya(dtype=torch.float32)
    plain = _components(sd1).unet
    for name, layer in plain.named_modules():
        prefix = f"{kohya_module(f'lora_unet.{name}')}."
        module = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        if module:
            layer.weight.data = _merged(layer.weight.data, module, rank).float()

    ours = _unet_output(components.unet, "sd1")
    torch.testing.assert_close(ours, _unet_output(plain, "sd1"), rtol=0, atol=1e-5)
    assert (ours - _unet_output(_components(sd1).unet, "sd1")).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["lora", "lokr", "dora"])
def test_strength_zero_is_the_base_and_one_is_the_trained_model(kind: str, sd1: Model) -> None:
    components, adapter = _with_random_adapter(sd1, kind=kind, train_text_encoder=True)
    trained, base = (_unet_output(unet, "sd1") for unet in (components.unet, _components(sd1).unet))

    with adapter.at_strength(0.0):
        assert torch.equal(_unet_output(components.unet, "sd1"), base)
    with adapter.at_strength(1.0):
        torch.testing.assert_close(_unet_output(components.unet, "sd1"), trained, rtol=0, atol=1e-5)
    assert torch.equal(_unet_output(components.unet, "sd1"), trained)


def test_a_file_of_equal_content_has_equal_bytes_and_is_whole(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(6.0).view(2, 3).half(), "a": torch.tensor(2.0)}

    write_safetensors(tmp_path / "one.safetensors", tensors, {"x": "1", "ß": "ü"})
    write_safetensors(tmp_path / "two.safetensors", dict(reversed(tensors.items())), {"ß": "ü", "x": "1"})

    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    loaded = load_file(tmp_path / "one.safetensors")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.safetensors", "two.safetensors"]


def test_the_metadata_tells_the_whole_story(train: Train, data: Path, sd1: Model) -> None:
    trained = train(
        steps=3,
        batch_size=2,
        rank=4,
        alpha=2,
        trigger_word="sks",
        licence="CC0-1.0",
        description="for tests",
        learning_rate=2e-3,
        train_text_encoder=True,
        text_encoder_learning_rate=1e-3,
        ema_decay=0.9,
    )

    with safe_open(trained.path, framework="pt") as file:
        metadata = file.metadata()
    raw = trained.path.read_bytes()
    body = raw[8 + int.from_bytes(raw[:8], "little") :]
    assert metadata["sshs_model_hash"] == hashlib.sha256(body).hexdigest()
    assert metadata["modelspec.hash_sha256"] == f"0x{hashlib.sha256(body).hexdigest()}"
    assert (
        metadata.items()
        >= {
            "ss_output_name": "style",
            "ss_base_model_version": "sd_v1",
            "ss_sd_model_name": sd1.name,
            "ss_network_module": "networks.lora",
            "ss_network_dim": "4",
            "ss_network_alpha": "2.0",
            "ss_resolution": "(64, 64)",
            "ss_learning_rate": "0.002",
            "ss_unet_lr": "0.002",
            "ss_text_encoder_lr": "0.001",
            "ss_steps": "3",
            "ss_num_epochs": "1",
            "ss_seed": "0",
            "ss_ema_decay": "0.9",
            "sshs_legacy_hash": hashlib.sha256(b"").hexdigest()[:8],  # of the second MiB
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.architecture": "stable-diffusion-v1/lora",
            "modelspec.title": "style",
            "modelspec.trigger_phrase": "sks",
            "modelspec.license": "CC0-1.0",
            "modelspec.description": "for tests",
            "modelspec.prediction_type": "epsilon",
            "modelspec.resolution": "64x64",
        }.items()
    )
    unet = next((sd1.path / "unet").glob("*.safetensors")).read_bytes()
    assert metadata["ss_new_sd_model_hash"] == hashlib.sha256(unet).hexdigest()
    assert metadata["ss_sd_model_hash"] == hashlib.sha256(unet[0x100000:0x110000]).hexdigest()[:8]
    assert 0 <= int(metadata["ss_session_id"]) < 2**32
    assert json.loads(metadata["ss_tag_frequency"])[data.name]["a house"] == 5
    assert json.loads(metadata["ss_dataset_dirs"]) == {data.name: {"n_repeats": 1, "img_count": 5}}
    buckets = json.loads(metadata["ss_bucket_info"])["buckets"].values()
    assert sum(bucket["count"] for bucket in buckets) == 5
    assert float(metadata["ss_training_started_at"]) < float(metadata["ss_training_finished_at"])
