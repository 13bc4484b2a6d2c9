"""peft's adapters in the layers of a model of our own: what is trained, and its names in kohya's layout."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from peft import LoKrConfig, LoraConfig, PeftConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from pipelines.runtime.loading import Components
from pipelines.spec.training import AdapterKind, TrainingRequest

ATTENTION_LAYERS = r".*attentions\..*\b(to_q|to_k|to_v|to_out\.0|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2)"
CONVOLUTION_LAYERS = r".*\b(conv1|conv2|conv_shortcut|time_emb_proj|downsamplers\.0\.conv|upsamplers\.0\.conv)"
TEXT_LAYERS = r".*\b(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"

MAGNITUDE = "lora_magnitude_vector"
"""In names of DoRA's own parameters."""
_ADAPTER = "default"
KOHYA_NAMES: Mapping[str, str] = MappingProxyType(
    {
        f"lora_A.{_ADAPTER}.weight": "lora_down.weight",
        f"lora_B.{_ADAPTER}.weight": "lora_up.weight",
        f"{MAGNITUDE}.{_ADAPTER}.weight": "dora_scale",
        **{f"lokr_{part}.{_ADAPTER}": f"lokr_{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b")},
    }
)
"""The end of a parameter's name in peft -> the end of its name in a kohya or LyCORIS file."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """What is trained."""

    parts: Mapping[str, nn.Module]
    """Models with injected layers, by their prefix in kohya's layout: lora_unet, lora_te or lora_te1 and lora_te2."""
    rank: int
    alpha: float

    @classmethod
    def inject(cls, request: TrainingRequest, components: Components) -> "Adapter":
        """Put fresh adapters, which change nothing yet, into the models. They must be the caller's alone.

        Parameters are float32 whatever the model runs in, and follow from the request's seed.
        """
        parts: dict[str, nn.Module] = {"lora_unet": components.unet}
        if request.train_text_encoder:
            parts |= dict(zip(text_prefixes(len(components.text_encoders)), components.text_encoders, strict=True))
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(request.seed)
            for prefix, module in parts.items():
                inject_layers(module, request, is_unet=prefix == "lora_unet")
        adapter = cls(parts, request.rank, request.effective_alpha)
        for parameter in adapter.parameters().values():
            parameter.data = parameter.data.float()
        return adapter

    def parameters(self, prefix: str = "") -> dict[str, nn.Parameter]:
        """Return what is trained, by name, of the parts whose prefix begins so."""
        return {
            f"{part}.{name}": parameter
            for part, module in self.parts.items()
            if part.startswith(prefix)
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }

    def to_kohya(self, *, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the tensors of a LoRA file, on the processor."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.parameters().items():
            path, end = _split(name)
            module = kohya_module(path)
            value = parameter.detach().float().cpu()
            if end == "dora_scale":  # one number per output channel, as LyCORIS keeps it with wd_on_output
                ones = (1,) * (len(self._layer(path).weight.shape) - 1)
                value = value.reshape(-1, *ones)
            tensors[f"{module}.{end}"] = value.to(dtype).contiguous()
            tensors[f"{module}.alpha"] = torch.tensor(self.alpha, dtype=dtype)
        for module in {name.removesuffix(".lokr_w1") for name in tensors if name.endswith(".lokr_w1")}:
            # Where both factors are whole, LyCORIS takes no alpha: what it would do stands in the factor.
            if f"{module}.lokr_w2" in tensors:
                scaled = tensors[f"{module}.lokr_w1"].float() * (self.alpha / self.rank)
                tensors[f"{module}.lokr_w1"] = scaled.to(dtype)
        return tensors

    @contextmanager
    def at_strength(self, strength: float) -> Iterator[None]:
        """Make the models as a loader would at this strength: weight + strength · (trained weight - weight)."""
        before: list[tuple[nn.Parameter, Tensor]] = []
        layers: list[Any] = [
            each for module in self.parts.values() for each in module.modules() if isinstance(each, BaseTunerLayer)
        ]
        try:
            for layer in layers:
                weight = layer.get_base_layer().weight
                original = weight.data.clone()
                before.append((weight, original.cpu()))  # beside a card: on it, all of them would double the model
                layer.merge(safe_merge=False)
                weight.data = torch.lerp(original, weight.data, strength)
            yield
        finally:
            for layer in layers:
                layer.merged_adapters.clear()
            for weight, original in before:
                weight.data = original.to(weight.device)

    def _layer(self, path: str) -> Any:
        part, _, inner = path.partition(".")
        layer: Any = self.parts[part].get_submodule(inner)
        return layer.get_base_layer()


def inject_layers(module: nn.Module, request: TrainingRequest, *, is_unet: bool) -> None:
    """Put adapters into one model."""
    layers = [TEXT_LAYERS] if not is_unet else [ATTENTION_LAYERS, *([CONVOLUTION_LAYERS] if request.train_conv else [])]
    inject_adapter_in_model(_config(request.kind, request, "|".join(layers)), module, adapter_name=_ADAPTER)


def text_prefixes(num_text_encoders: int) -> Sequence[str]:
    """Return the prefixes of text encoders in kohya's layout."""
    return ("lora_te",) if num_text_encoders == 1 else ("lora_te1", "lora_te2")


def kohya_module(path: str) -> str:
    """Return a layer's name in a LoRA file: lora_unet.mid_block.resnets.0.conv1 -> lora_unet_mid_block_resnets_0_conv1.

    Blocks are named as in diffusers, also for SDXL: ComfyUI, A1111 and diffusers read both dialects.
    """
    part, _, inner = path.partition(".")
    if part != "lora_unet" and not inner.startswith("text_model."):
        inner = f"text_model.{inner}"
    return f"{part}_{inner}".replace(".", "_")


def _split(name: str) -> tuple[str, str]:
    """Part a parameter's name into the layer's path and what it is called in a LoRA file."""
    for end, kohya in KOHYA_NAMES.items():
        if name.endswith(f".{end}"):
            return name.removesuffix(f".{end}"), kohya
    raise ValueError(f"{name} is no adapter's parameter")


def _config(kind: AdapterKind, request: TrainingRequest, layers: str) -> PeftConfig:
    if kind == "lokr":
        return LoKrConfig(
            r=request.rank,
            alpha=request.effective_alpha,  # type: ignore[arg-type]  # a number; any divides
            target_modules=layers,
            decompose_both=False,
        )
    return LoraConfig(
        r=request.rank,
        lora_alpha=request.effective_alpha,  # type: ignore[arg-type]
        target_modules=layers,
        use_dora=kind == "dora",
    )
