"""What LoRAs cost on a model of Stable Diffusion 1.5's size: `python -m benchmarks.lora`.

U-Net and text encoder have the real architecture and random weights; the file is kohya's layout, rank 16, float16, on
every projection of attention and feed-forward. Three peers do the same work in turns: this engine's hooks, diffusers'
`load_lora_weights` and `set_adapters` (PEFT), and merging into the weights and out again (`fuse_lora`, `unfuse_lora`).
"""

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.table import print_table
from pipelines.runtime.adapters.applied import AppliedLoras
from pipelines.runtime.adapters.base_weights import BaseWeights
from pipelines.runtime.adapters.layers import Layers
from pipelines.runtime.adapters.loaded import load
from pipelines.spec.loras import LoraFile, ResolvedLora
from studio.store import POCKET

RANK = 16
LOAD_TARGET, SWITCH_TARGET, FASTER_TARGET = 0.150, 0.010, 50
_SUFFIXES = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
_TEXT_SUFFIXES = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")

Seconds = list[float]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lora", description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    turns = parser.parse_args(arguments).turns
    pipeline = _pipeline()
    with tempfile.TemporaryDirectory() as folder:
        files = [_write(pipeline, Path(folder) / f"{name}.safetensors", seed=seed) for seed, name in enumerate("ab")]
        taken = _measure(pipeline, files, turns=turns)
    middle = {name: statistics.median(seconds) for name, seconds in taken.items()}
    switch = middle["switch, hooks"] + middle["proof that the base is unchanged"]
    print_table(
        ("what", "median", "worst", "target"),
        [
            *(
                (name, f"{1000 * middle[name]:.1f} ms", f"{1000 * max(taken[name]):.1f} ms", _TARGETS.get(name, ""))
                for name in taken
            ),
            (
                "fuse and unfuse / switch with its proof",
                f"{middle['switch, fuse_lora and unfuse_lora'] / switch:.0f}×",
                "",
                f"≥ {FASTER_TARGET}×",
            ),
        ],
    )


_TARGETS: Mapping[str, str] = {
    "load, hooks": f"≤ {1000 * LOAD_TARGET:.0f} ms",
    "switch, hooks": f"≤ {1000 * SWITCH_TARGET:.0f} ms",
}


def _measure(pipeline: Any, files: Sequence[LoraFile], *, turns: int) -> dict[str, Seconds]:
    """Return the seconds of every turn; the peers leave the pipeline as they found it."""
    unet, encoder = pipeline.unet, pipeline.text_encoder
    layers = Layers(unet, (encoder,))
    base = BaseWeights((unet, encoder))
    taken: dict[str, Seconds] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = work()
        taken.setdefault(name, []).append(time.perf_counter() - started)
        return result

    def switch(loaded: Any, file: LoraFile) -> None:
        with AppliedLoras([(_asked(file), loaded)]).hooked(layers):
            pass

    def merge_and_unmerge() -> None:
        pipeline.fuse_lora()
        pipeline.unfuse_lora()

    for _ in range(turns):
        loaded = [timed("load, hooks", partial(load, each, layers=layers, model_name="sd15")) for each in files]
        for each, file in zip(loaded, files, strict=True):
            timed("switch, hooks", partial(switch, each, file))
        assert timed("proof that the base is unchanged", base.are_unchanged)
        for name, file in zip("ab", files, strict=True):
            timed("load, load_lora_weights", partial(pipeline.load_lora_weights, file.path, adapter_name=name))
        for name in "ab":
            timed("switch, set_adapters", partial(pipeline.set_adapters, [name]))
        timed("switch, fuse_lora and unfuse_lora", merge_and_unmerge)
        timed("unload_lora_weights", pipeline.unload_lora_weights)
        base = BaseWeights((unet, encoder))  # merging and unmerging has rounded the weights
    return taken


def _pipeline() -> Any:
    """Return Stable Diffusion 1.5's U-Net and text encoder with random weights; the rest is as small as may be."""
    torch.manual_seed(0)
    unet_class: Any = UNet2DConditionModel
    scheduler_class: Any = EulerDiscreteScheduler
    pipeline_class: Any = StableDiffusionPipeline
    vae_class: Any = AutoencoderKL
    return pipeline_class(
        vae=vae_class(block_out_channels=(8,), norm_num_groups=4),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
        ),
        tokenizer=CLIPTokenizer.from_pretrained(POCKET / "tokenizer"),
        unet=unet_class(cross_attention_dim=768, sample_size=64, attention_head_dim=8),
        scheduler=scheduler_class(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _write(pipeline: Any, path: Path, *, seed: int) -> LoraFile:
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for prefix, module, suffixes in (
        ("lora_unet_", pipeline.unet, _SUFFIXES),
        ("lora_te_text_model_", pipeline.text_encoder, _TEXT_SUFFIXES),
    ):
        for name, layer in module.named_modules():
            if name.endswith(suffixes) and "resnets" not in name:
                out, inside = layer.weight.shape[:2]
                kernel = layer.weight.shape[2:]
                stem = prefix + name.removeprefix("text_model.").replace(".", "_")
                down, up = (RANK, inside, *kernel), (out, RANK, *[1] * len(kernel))
                tensors[f"{stem}.lora_down.weight"] = torch.randn(down, generator=generator).half() / 100
                tensors[f"{stem}.lora_up.weight"] = torch.randn(up, generator=generator).half() / 100
                tensors[f"{stem}.alpha"] = torch.tensor(float(RANK))
    save_file(tensors, path)
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    return LoraFile(path.stem, path, hashlib.sha256(data[start:]).hexdigest())


def _asked(file: LoraFile) -> ResolvedLora:
    return ResolvedLora(
        name=file.name, sha256=file.sha256, weight=1, text_encoder_weight=1, block_weights={}, start=0, end=1
    )


if __name__ == "__main__":
    main()
