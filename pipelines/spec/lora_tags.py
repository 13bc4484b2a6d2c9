"""A LoRA in writing: `name`, `name:0.8`, `name:te:unet`, `name:te=0.5:unet=1:start=0.2:end=0.8:lbw=1,0,…`.

The same words stand inside a tag of a prompt (`<lora:…>`), behind `--lora`, in the form and in a request's JSON.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.spec.loras import LoraSpec, ResolvedLora

LORA_KINDS = frozenset({"lora", "lyco"})
"""Kinds of tags that name a LoRA: an extension of A1111 had another for LyCORIS; since A1111 1.5 they mean the same."""

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)")
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f:<>=]")
_BLOCK = "block."
_NAMED = ("te", "unet", "start", "end", "lbw", f"{_BLOCK}NAME")

_BASE = "BASE"
"""In A1111's lists of block weights, the factor of the text encoders."""


def _blocks(side: str, level: int, layers: int, *, has_attention: bool, sampler: str) -> list[tuple[str, ...]]:
    """Return the parts of one level of a U-Net: its layers, each with its attention, and its up- or downsampler.

    Going down, the downsampler is a block of its own in Stable Diffusion's first numbering; going up, the upsampler
    belongs to the last layer.
    """
    at = f"{side}_blocks.{level}"
    kinds = ("resnets", "attentions") if has_attention else ("resnets",)
    blocks = [tuple(f"{at}.{kind}.{layer}" for kind in kinds) for layer in range(layers)]
    match sampler:
        case "down":
            return [*blocks, (f"{at}.downsamplers.0",)]
        case "up":
            return [*blocks[:-1], (*blocks[-1], f"{at}.upsamplers.0")]
    return blocks


def _unet(attention: Sequence[bool]) -> Mapping[str, tuple[str, ...]]:
    """Return the blocks IN00 …, MID, OUT00 … of a U-Net in diffusers' words.

    Args:
        attention: which of its levels have attention, the one with the largest latents first.
    """
    last = len(attention) - 1
    down: list[tuple[str, ...]] = [("conv_in",)]
    up: list[tuple[str, ...]] = []
    for level in range(len(attention)):
        down += _blocks("down", level, 2, has_attention=attention[level], sampler="down" if level < last else "")
        up += _blocks("up", level, 3, has_attention=attention[last - level], sampler="up" if level < last else "")
    return {
        **{f"IN{number:02}": block for number, block in enumerate(down)},
        "MID": ("mid_block",),
        **{f"OUT{number:02}": block for number, block in enumerate(up)},
    }


_SD1, _SDXL = _unet((True, True, True, False)), _unet((False, True, True))
_WITH_ATTENTION = [*(f"IN{n:02}" for n in (1, 2, 4, 5, 7, 8)), "MID", *(f"OUT{n:02}" for n in range(3, 12))]
_SDXL_WITH_ATTENTION = [*(f"IN{n:02}" for n in (4, 5, 7, 8)), "MID", *(f"OUT{n:02}" for n in range(6))]

BLOCK_LISTS: Mapping[int, Mapping[str, tuple[str, ...]]] = {
    1 + len(names): {_BASE: (), **{name: unet[name] for name in names}}
    for unet, names in (
        (_SD1, _WITH_ATTENTION),
        (_SD1, list(_SD1)),
        (_SDXL, _SDXL_WITH_ATTENTION),
        (_SDXL, list(_SDXL)),
    )
}
"""How many numbers `lbw=` has -> block -> its parts by diffusers' names.

17: a LoRA, 26: a LoCon of Stable Diffusion 1.x or 2.x; 12: a LoRA, 20: a LoCon of SDXL (the lists of A1111's
extension lora-block-weight).
"""


def writable_name(name: str) -> str:
    """Return a name without the signs that mean something in a tag."""
    return _UNWRITABLE.sub("_", name)


def parse_lora(text: str) -> dict[str, Any]:
    """Read what stands inside a tag or behind `--lora` into the fields of a LoraSpec.

    Raises:
        ValueError: with a sentence that says what is wrong with it.
    """
    positional: list[str] = []
    named: dict[str, str] = {}
    for argument in text.split(":"):
        key, equals, value = argument.partition("=")
        if equals:
            named[key.strip()] = value
        else:
            positional.append(argument)
    name, *weights = positional or [""]
    return lora_fields(name, weights, named)


def lora_fields(name: str, weights: Sequence[str], named: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of a LoraSpec from the arguments of a tag, by A1111's rules.

    The first number is the text encoders' weight, the second the denoiser's; one number is both. `te=` and `unet=` win.

    Raises:
        ValueError: with a sentence that says what is wrong with it.
    """
    if not name.strip():
        raise ValueError("there is no name; write it first, as in pixel-art:0.8")
    if len(weights) > 2 or "dyn" in named:
        raise ValueError("a LoRA is used with its whole rank here; leave out the third number or dyn=")
    for key in named:
        if key not in _NAMED and not key.startswith(_BLOCK):
            raise ValueError(f"{key[:40]}= is unknown; there are {', '.join(f'{one}=' for one in _NAMED)}")
    numbers = dict(zip(("te", "unet"), weights, strict=False)) | dict(named)
    text_encoder = _number("te" if "te" in named else "weight", numbers.get("te", "1"))
    weight = _number("unet", numbers["unet"]) if "unet" in numbers else text_encoder
    blocks = {key.removeprefix(_BLOCK): _number(key, value) for key, value in named.items() if key.startswith(_BLOCK)}
    if "lbw" in named:
        base, listed = _block_list(named["lbw"])
        text_encoder, blocks = text_encoder * base, {**listed, **blocks}
    fields: dict[str, Any] = {"name": name, "weight": weight}
    if text_encoder != weight:
        fields["text_encoder_weight"] = text_encoder
    if blocks:
        fields["block_weights"] = blocks
    return fields | {key: _number(key, named[key]) for key in ("start", "end") if key in named}


def write_lora(lora: LoraSpec | ResolvedLora) -> str:
    """Return what `parse_lora` reads back, with as few numbers as are needed; a tag without its brackets and kind."""
    text_encoder = lora.weight if lora.text_encoder_weight is None else lora.text_encoder_weight
    weights = [lora.weight] if text_encoder == lora.weight else [text_encoder, lora.weight]
    named = {"start": lora.start} if lora.start != 0 else {}
    named |= {"end": lora.end} if lora.end != 1 else {}
    named |= {f"{_BLOCK}{name}": factor for name, factor in lora.block_weights.items()}
    arguments = [*map(_short, weights), *(f"{name}={_short(value)}" for name, value in named.items())]
    return ":".join([writable_name(lora.name), *arguments])


def listed_at(block: str) -> str:
    """Say where lists of block weights name a part: "IN01 of lbw=, number 2 of 17 or 3 of 26"; empty if none does."""
    places = [
        (name, f"{number} of {length}")
        for length, blocks in sorted(BLOCK_LISTS.items())
        for number, (name, parts) in enumerate(blocks.items(), 1)
        if block in parts
    ]
    return f"{places[0][0]} of lbw=, number {' or '.join(number for _, number in places)}" if places else ""


def _block_list(text: str) -> tuple[float, dict[str, float]]:
    """Return the text encoders' factor and those of the denoiser's parts; what is 1 changes nothing."""
    numbers = [_number("lbw", one) for one in text.split(",")]
    if len(numbers) not in BLOCK_LISTS:
        known = ", ".join(map(str, sorted(BLOCK_LISTS)))
        raise ValueError(f"lbw= must be a list of {known} numbers, got {len(numbers)}")
    blocks = BLOCK_LISTS[len(numbers)].values()
    listed = {part: factor for parts, factor in zip(blocks, numbers, strict=True) for part in parts if factor != 1}
    return numbers[0], listed


def _number(key: str, text: str) -> float:
    if _NUMBER.fullmatch(text.strip()) is None:
        raise ValueError(f"{key} must be a number such as 0.8, got {text[:40]!r}")
    return float(text)


def _short(value: float) -> str:
    """Write a number without an exponent, which no tag can hold, and so that it reads back the same."""
    short = repr(float(value)).removesuffix(".0")
    return f"{value:.400f}".rstrip("0").rstrip(".") if "e" in short else short
