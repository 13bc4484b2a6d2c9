"""Fooocus' own scheme: a JSON object in the text field `parameters`. (Its other scheme is A1111's infotext.)"""

import re
from collections.abc import Mapping

from studio.metadata.foreign import Foreign, Lora, json_object, number_of, plain, stem, text_of
from studio.metadata.weights import BREAK

_SPOKEN = frozenset({"prompt", "negative_prompt", "resolution"})


def read(texts: Mapping[str, str]) -> Foreign | None:
    """Read the JSON that Fooocus writes."""
    data = json_object(texts.get("parameters", ""))
    if data is None or not {"base_model", "sampler", "steps"} <= data.keys():
        return None
    pairs = plain(data, without=_SPOKEN)
    if size := re.fullmatch(r"\((\d{1,9}), (\d{1,9})\)", text_of(data.get("resolution"))):
        pairs |= {"width": size[1], "height": size[2]}
    return Foreign(
        format="fooocus",
        program=text_of(data.get("version")) or "Fooocus",
        prompt=_joined(data, "full_prompt", "prompt"),
        negative_prompt=_joined(data, "full_negative_prompt", "negative_prompt"),
        pairs=pairs,
        loras=tuple(_loras(data.get("loras"))),
        defaults={"noise": "cpu"},
    )


def _joined(data: Mapping[str, object], full: str, asked: str) -> str:
    """Return what was encoded: styles and expansion are in the full prompts, each encoded on its own."""
    parts = data.get(full)
    if isinstance(parts, list) and parts:
        return BREAK.join(part for part in parts if isinstance(part, str))
    return text_of(data.get(asked))


def _loras(entries: object) -> list[Lora]:
    """Each is [name, weight] or [name, weight, hash]."""
    loras = []
    for entry in entries if isinstance(entries, list) else []:
        match entry:
            case [str(name), weight, *rest]:
                loras.append(Lora(stem(name), number_of(weight, default=1.0), text_of(rest[0]) if rest else ""))
    return loras
