"""LoRAs on models whose layers hold few bits, by the libraries that diffusers quantizes with: on, exact, and off again.

Both packages change what diffusers imports, so they stand beside the environment: `.ci/run` gives them to this file.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import nn

from pipelines.engines.diffusers_engine import DiffusersEngine
from pipelines.runtime.loading import Components, ModelCache
from pipelines.spec.errors import LoraError
from pipelines.spec.loras import LoraFile
from pipelines.spec.model import Model
from tests.pipelines import tiny_models
from tests.pipelines.engines.lora_sequences import difference, leave_no_trace, make, pixels, request, write_files
from tests.pipelines.runtime.adapters import lora_files
from tests.pipelines.runtime.adapters.lora_files import RANK, asked

Linears = Callable[[nn.Linear], nn.Linear]
"""From a layer to another in its place."""


@pytest.fixture(scope="module")
def bitsandbytes() -> Any:
    return pytest.importorskip("bitsandbytes")


@pytest.fixture(scope="module")
def files(sd1: Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoraFile]:
    components = ModelCache(torch.device("cpu"), dtype=torch.float32, max_bytes=10**9).get(sd1)
    return write_files(tmp_path_factory.mktemp("loras"), lora_files.random_weights(components))


def nf4(bitsandbytes: Any) -> Linears:
    def make_layer(layer: nn.Linear) -> nn.Linear:
        made = bitsandbytes.nn.Linear4bit(
            layer.in_features, layer.out_features, compute_dtype=torch.float32, quant_type="nf4"
        )
        made.weight = bitsandbytes.nn.Params4bit(layer.weight.clone(), requires_grad=False, quant_type="nf4")
        return made

    return make_layer


def int8(bitsandbytes: Any) -> Linears:
    def make_layer(layer: nn.Linear) -> nn.Linear:
        made = bitsandbytes.nn.Linear8bitLt(layer.in_features, layer.out_features, has_fp16_weights=False)
        made.weight = bitsandbytes.nn.Int8Params(layer.weight.clone(), requires_grad=False, has_fp16_weights=False)
        return made

    return make_layer


def exchange(components: Components, make_layer: Linears) -> None:
    """Put other layers in the place of all linear ones, as diffusers does on a card: on the processor it refuses to."""
    for module in (components.unet, *components.text_encoders):
        for parent in list(module.modules()):
            for name, layer in parent.named_children():
                if isinstance(layer, nn.Linear):
                    made = make_layer(layer)
                    made.bias = layer.bias
                    setattr(parent, name, made.to("cpu").requires_grad_(False))


@pytest.mark.parametrize("few_bits", [nf4, int8])
def test_sequences_on_layers_of_bitsandbytes_leave_no_trace(
    few_bits: Callable[[Any], Linears], bitsandbytes: Any, sd1: Model, files: dict[str, LoraFile], tmp_path: Path
) -> None:
    engine = DiffusersEngine(device="cpu")
    exchange(engine._models.get(sd1), few_bits(bitsandbytes))

    outcomes = leave_no_trace(engine, sd1, files, tmp_path, times=40)

    assert outcomes["made"] > 10
    assert len(outcomes) > 3, "some failed"


def test_a_lora_on_four_bits_is_that_on_the_weights_they_stand_for(
    bitsandbytes: Any, sd1: Model, files: dict[str, LoraFile]
) -> None:
    wanted = request(sd1, asked(files["both"], 0.8))
    engine, other = DiffusersEngine(device="cpu"), DiffusersEngine(device="cpu")
    exchange(engine._models.get(sd1), nf4(bitsandbytes))
    components = other._models.get(sd1)
    exchange(components, nf4(bitsandbytes))

    def back(layer: Any) -> nn.Linear:
        dense = nn.Linear(layer.in_features, layer.out_features)
        weight = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        dense.weight = nn.Parameter(weight.float())
        return dense

    exchange(components, back)

    (quantized,), (dense,) = (make(each, sd1, files, wanted) for each in (engine, other))
    (plain,) = make(engine, sd1, files, request(sd1))

    assert quantized.provenance["lora both"] == dense.provenance["lora both"]
    assert difference(quantized.image, dense.image) <= 2
    assert difference(quantized.image, plain.image) > 20


@pytest.fixture(scope="module")
def torchao_model(sd1: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A folder as one finds it on the Hub: the U-Net was quantized and saved by diffusers."""
    pytest.importorskip("torchao")
    quantization = importlib.import_module("torchao.quantization")
    config = diffusers.TorchAoConfig(quantization.Int8WeightOnlyConfig())
    folder = tmp_path_factory.mktemp("torchao") / "int8"
    tiny_models.build_sd1(folder)
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet", quantization_config=config)
    for file in (folder / "unet").iterdir():
        file.unlink()
    unet.save_pretrained(folder / "unet")
    return tiny_models.as_model(folder)


def test_sequences_on_a_model_of_torchao_leave_no_trace(
    torchao_model: Model, files: dict[str, LoraFile], tmp_path: Path
) -> None:
    engine = DiffusersEngine(device="cpu")

    outcomes = leave_no_trace(engine, torchao_model, files, tmp_path, times=40)

    assert "Int8Tensor" in type(engine._models.get(torchao_model).unet.time_embedding.linear_1.weight).__name__
    assert outcomes["made"] > 10
    assert len(outcomes) > 3, "some failed"


def test_a_changed_scale_of_a_quantized_weight_is_noticed(torchao_model: Model, files: dict[str, LoraFile]) -> None:
    engine = DiffusersEngine(device="cpu")
    plain = pixels(make(engine, torchao_model, files, request(torchao_model)))

    def spoil(_: object) -> None:
        weight: Any = engine._models.get(torchao_model).unet.time_embedding.linear_1.weight
        weight.scale.mul_(2)

    with pytest.raises(LoraError, match="have changed while LoRAs were applied"):
        make(engine, torchao_model, files, request(torchao_model, asked(files["both"])), on_step=spoil)
    assert pixels(make(engine, torchao_model, files, request(torchao_model))) == plain, "the model was loaded again"


def test_what_needs_the_whole_weight_is_refused(torchao_model: Model, sd1: Model, tmp_path: Path) -> None:
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {
        f"{layer}.lora_down.weight": torch.ones(RANK, 32),
        f"{layer}.lora_up.weight": torch.ones(32, RANK),
        f"{layer}.dora_scale": torch.ones(1, 32),
    }
    file = lora_files.write(tmp_path / "dora.safetensors", tensors)
    engine = DiffusersEngine(device="cpu")
    make(engine, sd1, {"dora": file}, request(sd1, asked(file)))

    with pytest.raises(LoraError, match="whose lengths need the whole weight, and this layer is quantized"):
        make(engine, torchao_model, {"dora": file}, request(torchao_model, asked(file)))
