"""SwarmUI: a JSON object in the text field `parameters`, under `sui_image_params`."""

from collections.abc import Iterator, Mapping
from typing import Any

from studio.metadata.foreign import Foreign, Lora, json_object, number_of, plain, stem, text_of

_SPOKEN = frozenset({"prompt", "negativeprompt"})


def read(texts: Mapping[str, str]) -> Foreign | None:
    """Read the JSON that SwarmUI writes."""
    data = (json_object(texts.get("parameters", "")) or {}).get("sui_image_params")
    if not isinstance(data, dict):
        return None
    return Foreign(
        format="swarmui",
        program="SwarmUI",
        prompt=text_of(data.get("prompt")),
        negative_prompt=text_of(data.get("negativeprompt")),
        pairs=plain(data, without=_SPOKEN),
        loras=tuple(_loras(data)),
        defaults={"noise": "cpu", "emphasis": "comfy"},
    )


def _loras(data: Mapping[str, Any]) -> Iterator[Lora]:
    """Three lists of the same length: names, weights and, where they are others, the text encoders' weights."""
    names, weights, others = (data.get(key) for key in ("loras", "loraweights", "loratencweights"))
    if not isinstance(names, list) or not isinstance(weights, list):
        return
    for index, (name, weight) in enumerate(zip(names, weights, strict=False)):
        other = others[index] if isinstance(others, list) and index < len(others) else None
        number = number_of(weight, default=1.0)
        text_encoder = number_of(other, default=number)
        yield Lora(stem(text_of(name)), number, text_encoder_weight=None if text_encoder == number else text_encoder)
