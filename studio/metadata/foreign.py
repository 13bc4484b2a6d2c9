"""What a picture of another program says about itself, still in that program's words."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Format = Literal["a1111", "comfyui", "fooocus", "invokeai", "novelai", "swarmui"]

MAX_VALUE_CHARACTERS = 20_000
"""A longer value of another program is no setting that anyone made."""


@dataclass(frozen=True)
class Lora:
    """A LoRA that a picture was made with; `hash` is empty where the program wrote none."""

    name: str
    weight: float
    hash: str = ""
    text_encoder_weight: float | None = None
    """None: as `weight`."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of a LoraSpec that the program wrote."""
    unlike: str = ""
    """What the program wrote and these fields do not say, in words."""


@dataclass(frozen=True)
class Foreign:
    """What one program wrote, read but not yet understood."""

    format: Format
    """Whose words the keys of `pairs` are."""
    program: str
    """What wrote the picture, as a person would call it."""
    prompt: str
    negative_prompt: str
    pairs: Mapping[str, str]
    """Key -> value in the order of the file, both in the program's own words."""
    loras: tuple[Lora, ...] = ()
    """Those that stand in fields of their own; tags in the prompt are still in the prompt."""
    defaults: Mapping[str, str] = field(default_factory=dict)
    """What the program means where a key is absent."""

    doubts: Mapping[str, str] = field(default_factory=dict)
    """A prompt's field of ours -> why the file holds it only in part, or not at all."""

    def get(self, key: str, default: str = "") -> str:
        """Return what stands for a key, in the file or else by the program's own default."""
        return self.pairs.get(key, self.defaults.get(key, default))


def json_object(text: str) -> dict[str, Any] | None:
    """Return the JSON object that a text holds, or None: the text may be anyone's."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def plain(values: Mapping[str, Any], *, without: frozenset[str] = frozenset()) -> dict[str, str]:
    """Return the plain values of a JSON object as texts; nothing, objects and lists are left out."""
    texts = {}
    for key, value in values.items():
        if key not in without and isinstance(value, str | int | float):
            written = text_of(value)
            if len(written) <= MAX_VALUE_CHARACTERS:
                texts[key] = written
    return texts


def text_of(value: object) -> str:
    """Return a JSON value as text; empty for what is neither text, number nor truth value."""
    match value:
        case str():
            return value
        case bool():
            return str(value)
        case int():
            return str(value) if value.bit_length() <= 256 else "a number of more than 256 bits"
        case float():
            return repr(value)
    return ""


def number_of(value: object, *, default: float) -> float:
    """Return a JSON value as a number, or the default."""
    try:
        return float(value) if isinstance(value, str | int | float) else default
    except (ValueError, OverflowError):
        return default


def stem(file: str) -> str:
    """Return the name of a model file without folders and ending: "SDXL/base.safetensors" -> "base"."""
    name = file.replace("\\", "/").rstrip("/").rpartition("/")[2]
    for ending in (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".sft"):
        name = name.removesuffix(ending)
    return name
