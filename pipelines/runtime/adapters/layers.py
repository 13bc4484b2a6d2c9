"""Which layers a model has, and every name that LoRA files have for each of them."""

import re
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor, nn

from pipelines.runtime.adapters.transformer_names import original_names

UNET, TRANSFORMER = "unet", "transformer"
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
_DENOISER_FLAT = ("lora_unet_", "lora_transformer_", "lycoris_", "oft_unet_")
_BLOCK = re.compile(r"\w+(\.\d+)?")
FLAT_PREFIXES = (*_DENOISER_FLAT, "lora_te")
"""How names without dots begin."""


class Place(NamedTuple):
    """A layer of a model."""

    part: str
    """unet, transformer, text_encoder or text_encoder_2."""
    path: str
    """Name of the module within its part, in diffusers' words."""

    @property
    def is_in_denoiser(self) -> bool:
        return self.part not in TEXT_ENCODERS


class Target(NamedTuple):
    """What a layer in a file is here."""

    places: tuple[Place, ...]
    """One layer, or several whose outputs lie one after the other in the file."""
    is_swapped: bool = False
    """Whether the second half of the outputs stands first in the file."""


def is_within(path: str, block: str) -> bool:
    """Whether a layer is the block of that name, or a part of it."""
    return f"{path}.".startswith(f"{block}.")


class Layers:
    """The layers of one loaded model that can be adapted, by their names in files.

    Args:
        denoiser: a U-Net or transformer of diffusers.
        text_encoders: one, or SDXL's two.
    """

    def __init__(self, denoiser: Any, text_encoders: tuple[Any, ...]) -> None:
        self._modules: dict[Place, nn.Module] = {}
        self._flat: dict[str, Target] = {}
        self._dotted: dict[str, Target] = {}
        part = UNET if hasattr(denoiser, "up_blocks") else TRANSFORMER
        places = {path: Place(part, path) for path, _ in _adaptable(denoiser)}
        self._modules.update((places[path], module) for path, module in _adaptable(denoiser))
        names: list[tuple[str, tuple[str, ...], bool]] = [(path, (path,), False) for path in places]
        names += _sgm_names(denoiser, places) if part == UNET else original_names(denoiser)
        for name, paths, is_swapped in names:
            if all(path in places for path in paths):
                target = Target(tuple(places[path] for path in paths), is_swapped)
                for prefix in _DENOISER_FLAT:
                    self._flat.setdefault(prefix + name.replace(".", "_"), target)
                for prefix in (f"{part}.", "diffusion_model.", ""):
                    self._dotted.setdefault(prefix + name, target)
        width = denoiser.config.get("cross_attention_dim")
        self.text_width = None if width is None else int(width)
        """Of the text that cross-attention reads; transformers have none."""
        self.text_widths = tuple(int(encoder.config.hidden_size) for encoder in text_encoders)
        """Of the text encoders' vectors, in their order."""
        for number, encoder in enumerate(text_encoders):
            self._add_text_encoder(number, encoder, is_alone=len(text_encoders) == 1)

    @property
    def blocks(self) -> tuple[str, ...]:
        """What the denoiser is made of: conv_in, down_blocks.0, down_blocks.1, mid_block, …"""
        found = (_BLOCK.match(place.path) for place in self._modules if place.is_in_denoiser)
        return tuple(dict.fromkeys(match[0] for match in found if match))

    def holds(self, block: str) -> bool:
        """Whether layers of the denoiser are within a block."""
        return any(place.is_in_denoiser and is_within(place.path, block) for place in self._modules)

    def __getitem__(self, place: Place) -> Any:
        return self._modules[place]

    def flat(self, name: str) -> Target | None:
        """Return what kohya's name means, such as lora_unet_mid_block_attentions_0_proj_in."""
        return self._flat.get(name)

    def dotted(self, name: str) -> Target | None:
        """Return what diffusers' name means, such as unet.mid_block.attentions.0.proj_in."""
        return self._dotted.get(name)

    def _add_text_encoder(self, number: int, encoder: Any, *, is_alone: bool) -> None:
        """Add one; files say `text_model.` before most names, whether transformers' class has that level or not."""
        part = TEXT_ENCODERS[number]
        prefixes = ("lora_te_", "lora_te1_", "lycoris_") if is_alone else (f"lora_te{number + 1}_",)
        dotted = (f"{part}.", "") if is_alone else (f"{part}.",)
        for path, module in _adaptable(encoder):
            place = Place(part, path)
            self._modules[place] = module
            short = path.removeprefix("text_model.")
            names = (short, f"text_model.{short}")
            for prefix in prefixes:
                for name in names:
                    self._flat.setdefault(prefix + name.replace(".", "_"), Target((place,)))
            for prefix in dotted:
                for name in names:
                    self._dotted.setdefault(prefix + name, Target((place,)))


def _adaptable(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    kinds = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)
    return ((path, module) for path, module in model.named_modules() if isinstance(module, kinds))


def _sgm_names(unet: Any, paths: Collection[str]) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    per_block = int(unet.config.layers_per_block)
    attentive = {int(level) for level, block in enumerate(unet.up_blocks) if hasattr(block, "attentions")}
    return ((sgm_path(path, layers_per_block=per_block, attentive=attentive), (path,), False) for path in paths)


_OUTER: Mapping[str, str] = MappingProxyType(
    {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
)
_IN_RESNET: Mapping[str, str] = MappingProxyType(
    {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    }
)


def sgm_path(path: str, *, layers_per_block: int, attentive: Collection[int]) -> str:
    """Return the name that a layer of diffusers' U-Net has in Stability's code (input_blocks.4.1.proj_in, …).

    Args:
        path: in diffusers' words.
        layers_per_block: residual blocks at each resolution of the way down; the way up has one more.
        attentive: which levels of the way up have attention; their upsampler stands behind it.
    """
    if path in _OUTER:
        return _OUTER[path]
    block, *rest = path.split(".")
    if block == "mid_block":
        kind, number, *inner = rest
        return f"middle_block.{2 * int(number) if kind == 'resnets' else 1}.{_inner(kind, inner)}"
    if block not in {"down_blocks", "up_blocks"}:
        return path
    level, kind, number, *inner = rest
    if block == "down_blocks":
        first = 1 + int(level) * (layers_per_block + 1)
        if kind == "downsamplers":
            return f"input_blocks.{first + layers_per_block}.0.op"
        return f"input_blocks.{first + int(number)}.{int(kind == 'attentions')}.{_inner(kind, inner)}"
    first = int(level) * (layers_per_block + 1)
    if kind == "upsamplers":
        return f"output_blocks.{first + layers_per_block}.{2 if int(level) in attentive else 1}.conv"
    return f"output_blocks.{first + int(number)}.{int(kind == 'attentions')}.{_inner(kind, inner)}"


def _inner(kind: str, inner: list[str]) -> str:
    name = ".".join(inner)
    return _IN_RESNET.get(name, name) if kind == "resnets" else name


def is_made_of_others(weight: Tensor) -> bool:
    """Whether a weight stands for tensors that it holds, as torchao's quantized ones do; few operations take it."""
    return type(weight) is not nn.Parameter and hasattr(weight, "__tensor_flatten__")
