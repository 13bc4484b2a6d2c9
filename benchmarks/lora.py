"""How long it takes to put LoRAs on and off: `python -m benchmarks.lora`.

A U-Net and a text encoder of Stable Diffusion 1.5's size with random weights, and rank-16 LoRAs in kohya's layout on
all 264 layers that kohya's trainer adapts. Beside it the same files through diffusers' `load_lora_weights` and
`set_adapters`, and merged into the weights and out again (`fuse_lora`, `unfuse_lora`). No picture is made: only what
changes between two pictures is timed. The time on the processor stands beside the time on the clock: only the latter
depends on what else the machine does.
"""

import argparse
import hashlib
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.table import print_table
from pipelines.runtime.adapters.wardrobe import Wardrobe
from pipelines.runtime.loading import Components, Precision
from pipelines.runtime.preview import LatentPreview
from pipelines.runtime.sigmas import ModelSigmas
from pipelines.spec.loras import LoraFile, ResolvedLora

RANK = 16
LOAD_TARGET, SWITCH_TARGET, FUSE_TARGET = 150, 10, 50
"""Milliseconds, milliseconds, times."""
_TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
_UNET = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")


def build_unet() -> nn.Module:
    """Return a U-Net of 860 million random weights."""
    return _randomly(UNet2DConditionModel, cross_attention_dim=768, attention_head_dim=8)


def build_text_encoder() -> nn.Module:
    """Return a text encoder of 123 million random weights."""
    config = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768
    )
    return _randomly(CLIPTextModel, config)


def _randomly(kind: Any, *arguments: Any, **options: Any) -> nn.Module:
    """Build without the slow initialisation of every layer."""
    with torch.device("meta"):
        module: nn.Module = kind(*arguments, **options)
    module = module.to_empty(device="cpu").requires_grad_(False).eval()
    for weight in module.parameters():
        weight.normal_(std=0.02)
    return module


def write_lora(path: Path, parts: Mapping[str, nn.Module], *, seed: int) -> LoraFile:
    """Write a LoRA in float16, as trainers do."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for prefix, module in parts.items():
        for name, layer in module.named_modules():
            if not isinstance(layer, nn.Linear | nn.Conv2d) or not name.endswith((*_UNET, *_TEXT)):
                continue
            out, inside, *kernel = layer.weight.shape
            stem = f"{prefix}_{name.replace('.', '_')}"
            down = torch.randn(RANK, inside, *kernel, generator=generator) / inside**0.5
            up = torch.randn(out, RANK, *kernel, generator=generator) / 1000
            tensors |= {f"{stem}.lora_down.weight": down.half(), f"{stem}.lora_up.weight": up.half()}
            tensors[f"{stem}.alpha"] = torch.tensor(8.0).half()
    save_file(tensors, path)
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    return LoraFile(path.stem, path, hashlib.sha256(data[start:]).hexdigest())


class Studio:
    """The studio's way: hooks beside the layers, the base weights proved unchanged each time."""

    def __init__(self, components: Components, files: Sequence[LoraFile]) -> None:
        self._components = components
        self._files = {file.sha256: file for file in files}
        self._wardrobe = Wardrobe()
        self.wear()

    def wear(self, *files: LoraFile) -> None:
        """Put LoRAs on, and off again."""
        loras = [
            ResolvedLora(
                name=file.name,
                sha256=file.sha256,
                weight=0.8,
                text_encoder_weight=0.8,
                block_weights={},
                start=0.0,
                end=1.0,
            )
            for file in files
        ]
        with self._wardrobe.wear(self._components, loras, self._files, passes=(1,)):
            pass


@dataclass(frozen=True)
class Taken:
    """Milliseconds of one call."""

    clock: float
    processor: float


def measure(calls: Iterable[Callable[[], object]]) -> list[Taken]:
    """Return how long each call takes."""
    taken = []
    for call in calls:
        clock, processor = time.perf_counter(), time.process_time()
        call()
        taken.append(Taken(1000 * (time.perf_counter() - clock), 1000 * (time.process_time() - processor)))
    return taken


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--files", type=int, default=6, help="how many LoRAs; the first warms every way up")
    parser.add_argument("--switches", type=int, default=30)
    arguments = parser.parse_args()
    libraries: tuple[Any, ...] = (diffusers.utils.logging, transformers.utils.logging)
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    warnings.simplefilter("ignore")
    unet, text_encoder = build_unet(), build_text_encoder()
    with tempfile.TemporaryDirectory() as folder:
        parts: dict[str, nn.Module] = {"lora_unet": unet, "lora_te_text_model": text_encoder}
        files = [write_lora(Path(folder) / f"l{n}.safetensors", parts, seed=n) for n in range(arguments.files)]
        rows = [*_studio(unet, text_encoder, files, arguments.switches), *_diffusers(unet, text_encoder, files)]
        size = files[0].path.stat().st_size / 2**20
    print(f"Rank {RANK}, {size:.0f} MB per file; {torch.get_num_threads()} thread(s); medians in milliseconds.\n")
    print_table(("what", "clock", "processor", "target"), [row.cells() for row in rows])
    switched, fused = rows[1], rows[-1]
    clock, processor = fused.clock / switched.clock, fused.processor / switched.processor
    print(f"\nSwitching is {clock:.0f} times faster than merging (processor: {processor:.0f}); target ≥ {FUSE_TARGET}.")


@dataclass(frozen=True)
class _Row:
    what: str
    taken: Sequence[Taken]
    target: str = ""

    @property
    def clock(self) -> float:
        return statistics.median(each.clock for each in self.taken)

    @property
    def processor(self) -> float:
        return statistics.median(each.processor for each in self.taken)

    def cells(self) -> tuple[str, ...]:
        return self.what, f"{self.clock:.1f}", f"{self.processor:.1f}", self.target


def _studio(unet: Any, text_encoder: Any, files: Sequence[LoraFile], switches: int) -> list[_Row]:
    components = Components(
        name="random",
        fingerprint="",
        precision=Precision(torch.float32, torch.float32),
        unet=unet,
        vae=None,
        tokenizers=(),
        text_encoders=(text_encoder,),
        sigmas=ModelSigmas.from_alphas_cumprod(torch.linspace(0.999, 0.005, 1000)),
        prediction_type="epsilon",
        zero_empty_negative=False,
        preview=LatentPreview.__new__(LatentPreview),
        device=torch.device("cpu"),
        num_bytes=0,
    )
    studio = Studio(components, files)
    first, *others = files
    studio.wear(first)  # which also takes the samples of the base weights
    loading = measure(partial(studio.wear, file) for file in others)
    turns = [others[number % len(others)] for number in range(switches)]
    switching = measure(partial(studio.wear, file) for file in turns)
    stacking = measure(partial(studio.wear, *pair) for pair in pairwise(turns))
    return [
        _Row("studio: load a new one, on and off", loading, f"≤ {LOAD_TARGET}"),
        _Row("studio: switch among resident ones", switching, f"≤ {SWITCH_TARGET}"),
        _Row("studio: switch among stacks of two", stacking),
    ]


def _diffusers(unet: Any, text_encoder: Any, files: Sequence[LoraFile]) -> list[_Row]:
    kind: Any = StableDiffusionPipeline
    pipeline = kind(
        vae=None,
        text_encoder=text_encoder,
        tokenizer=None,
        unet=unet,
        scheduler=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    names = [file.name for file in files]

    def load(file: LoraFile) -> None:
        pipeline.load_lora_weights(file.path, adapter_name=file.name)
        pipeline.set_adapters([file.name], [0.8])

    def fuse(name: str) -> None:
        pipeline.set_adapters([name], [1.0])
        pipeline.fuse_lora(lora_scale=0.8, adapter_names=[name])
        pipeline.unfuse_lora()

    load(files[0])
    loading = measure(partial(load, file) for file in files[1:])
    switching = measure(partial(pipeline.set_adapters, [name], [0.8]) for name in names)
    fusing = measure(partial(fuse, name) for name in names[:3])
    return [
        _Row("diffusers: load_lora_weights", loading),
        _Row("diffusers: set_adapters", switching),
        _Row("diffusers: fuse_lora, unfuse_lora", fusing),
    ]


if __name__ == "__main__":
    main()
