"""SwarmUI: a JSON object in the text field `parameters`, under `sui_image_params`."""

import re
from collections.abc import Iterator, Mapping, Set
from typing import Any

from studio.metadata.foreign import Foreign, Lora, json_object, number_of, plain, stem, text_of

_LORA_TAG = re.compile(r"<lora:([^<>:]{1,400})(?::[^<>]{0,100})?>", re.IGNORECASE)
_SPOKEN = frozenset({"prompt", "negativeprompt"})


def read(texts: Mapping[str, str]) -> Foreign | None:
    """Read the JSON that SwarmUI writes."""
    data = (json_object(texts.get("parameters", "")) or {}).get("sui_image_params")
    if not isinstance(data, dict):
        return None
    loras = tuple(_loras(data))
    return Foreign(
        format="swarmui",
        program="SwarmUI",
        prompt=_without_tags(text_of(data.get("prompt")), {lora.name for lora in loras}),
        negative_prompt=text_of(data.get("negativeprompt")),
        pairs=plain(data, without=_SPOKEN),
        loras=loras,
        defaults={"noise": "cpu", "emphasis": "comfy"},
    )


def _without_tags(prompt: str, names: Set[str]) -> str:
    """Return a prompt without the tags of LoRAs that the list holds too."""
    return _LORA_TAG.sub(lambda tag: "" if stem(tag[1]) in names else tag[0], prompt)


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
