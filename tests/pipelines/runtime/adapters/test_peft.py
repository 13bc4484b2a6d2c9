"""PEFT's other kinds than LoRA act as in PEFT, which notes their strength beside the file only."""

import copy
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from pipelines.runtime.adapters.applied import AppliedLoras
from pipelines.runtime.adapters.layers import Layers
from pipelines.runtime.adapters.loaded import load
from pipelines.runtime.loading import Components, ModelCache
from pipelines.spec.errors import LoraError
from pipelines.spec.model import Model
from tests.pipelines.runtime.adapters import lora_files


@pytest.fixture(scope="module")
def components(sd1: Model) -> Components:
    return ModelCache(torch.device("cpu"), dtype=torch.float32, max_bytes=10**9).get(sd1)


@pytest.fixture
def layers(components: Components) -> Layers:
    return Layers(components.unet, components.text_encoders)


CONFIGS: dict[str, peft.PeftConfig] = {
    "loha": peft.LoHaConfig(r=4, alpha=1),
    "loha, convolutions with a core": peft.LoHaConfig(r=2, alpha=3, use_effective_conv2d=True),
    "loha by layer": peft.LoHaConfig(r=4, alpha=1, alpha_pattern={"to_q": 3}, rank_pattern={"to_v": 2}),
    "lokr": peft.LoKrConfig(r=2, alpha=5),
    "lokr, convolutions with a core": peft.LoKrConfig(r=2, alpha=5, use_effective_conv2d=True),
    "lokr, both split": peft.LoKrConfig(r=1, alpha=4, decompose_both=True, decompose_factor=4),
    "lokr without a rank in it": peft.LoKrConfig(r=64, alpha=16),
    "lokr by layer": peft.LoKrConfig(r=64, alpha=16, alpha_pattern={"to_q": 3}, rank_pattern={"attn2.to_q": 32}),
}


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_peft_itself_gives_the_same(name: str, components: Components, layers: Layers, tmp_path: Path) -> None:
    config: Any = copy.deepcopy(CONFIGS[name])
    config.target_modules, config.init_weights = ["to_q", "to_v", "proj_in", "conv1"], False
    unet = components.unet
    torch.manual_seed(0)
    theirs: Any = peft.get_peft_model(copy.deepcopy(unet), config)
    for weight in theirs.parameters():
        weight.mul_(2 if weight.requires_grad else 1)
    theirs.save_pretrained(tmp_path)
    file = lora_files.lora_file(tmp_path / "adapter_model.safetensors")
    lora = load(file, layers=layers, model_name="sd1")
    latents, embeds = torch.randn(1, 4, 8, 8), torch.randn(1, 7, 32)

    with AppliedLoras([(lora_files.asked(file), lora)]).hooked(layers):
        result = unet(latents, 500, encoder_hidden_states=embeds).sample

    expected = theirs(latents, 500, encoder_hidden_states=embeds).sample
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    assert (result - unet(latents, 500, encoder_hidden_states=embeds).sample).abs().max() > 1e-2
    assert "strengths as noted" in lora.audit(lora.deltas)


@pytest.mark.parametrize(
    "notes",
    [
        {"alpha": 8},
        {"alpha": "8", "r": 4},
        {"alpha": 8, "r": 0},
        {"alpha": 8, "r": 4, "rank_pattern": {"to_q": 2.5}},
        {"alpha": 8, "r": 4, "rank_pattern": {"^.*to_q": 2}},
    ],
)
def test_ranks_that_mean_nothing_are_refused(notes: Any, layers: Layers, tmp_path: Path) -> None:
    path = "base_model.model.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{path}.lokr_w1": torch.ones(4, 4), f"{path}.lokr_w2": torch.ones(8, 8)}
    file = lora_files.write(tmp_path / "adapter_model.safetensors", tensors)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LOKR", **notes}))

    with pytest.raises(LoraError, match=r"cannot be applied: .* has adapter_config.json that notes "):
        load(file, layers=layers, model_name="sd1")
