"""InvokeAI: `invokeai_metadata` (JSON), before that `sd-metadata` (JSON), before that `Dream` (a command line)."""

import re
from collections.abc import Mapping
from typing import Any

from studio.metadata.foreign import Foreign, Lora, json_object, number_of, plain, text_of

_DREAM = {"A": "scheduler", "C": "cfg_scale", "H": "height", "s": "steps", "S": "seed", "W": "width", "f": "strength"}


def read(texts: Mapping[str, str]) -> Foreign | None:
    """Read whichever of the three is there, the newest first."""
    if (data := json_object(texts.get("invokeai_metadata", ""))) is not None:
        return _current(data)
    if (data := json_object(texts.get("sd-metadata", ""))) is not None:
        return _second(data)
    return _dream(texts.get("Dream", ""))


def _current(data: Mapping[str, Any]) -> Foreign:
    pairs = plain(data, without=frozenset({"positive_prompt", "negative_prompt"}))
    for part in ("model", "vae"):
        pairs |= _model(data.get(part), part)
    for part in ("controlnets", "ipAdapters", "t2iAdapters"):
        if (entries := data.get(part)) and isinstance(entries, list):
            pairs[part] = str(len(entries))
    return Foreign(
        format="invokeai",
        program="InvokeAI",
        prompt=text_of(data.get("positive_prompt")),
        negative_prompt=text_of(data.get("negative_prompt")),
        pairs=pairs,
        loras=tuple(_loras(data.get("loras"))),
        defaults={"rand_device": "cpu", "emphasis": "comfy"},
    )


def _second(data: Mapping[str, Any]) -> Foreign | None:
    image = data.get("image")
    if not isinstance(image, dict):
        return None
    pairs = plain(image, without=frozenset({"prompt"}))
    if "sampler" in pairs:
        pairs["scheduler"] = pairs.pop("sampler")
    pairs["model"], pairs["model_hash"] = text_of(data.get("model_weights")), text_of(data.get("model_hash"))
    prompt = image.get("prompt")
    parts = prompt if isinstance(prompt, list) else [{"prompt": prompt}]
    texts = [text_of(part.get("prompt")) for part in parts if isinstance(part, dict)]
    return _foreign(" ".join(texts), pairs)


def _dream(text: str) -> Foreign | None:
    match = re.match(r'"(.*?)"((?:\s+-{1,2}\w+.*)?)$', text, re.DOTALL)
    if match is None:
        return None
    options = re.findall(r"(?:^|\s)-{1,2}(\w+)\s+([^\s-]\S*|-[\d.]+)", match[2])
    return _foreign(match[1], {_DREAM.get(key, key): value for key, value in options})


def _foreign(combined: str, pairs: dict[str, str]) -> Foreign:
    """Old prompts hold their negative part in square brackets."""
    negative = [part.strip() for part in re.findall(r"\[([^\[\]]*)\]", combined)]
    prompt = " ".join(re.sub(r"\[[^\[\]]*\]", " ", combined).split())
    defaults = {"rand_device": "gpu", "emphasis": "comfy"}  # before 3.0 noise was drawn on the device
    return Foreign("invokeai", "InvokeAI", prompt, ", ".join(filter(None, negative)), pairs, defaults=defaults)


def _model(entry: object, key: str) -> dict[str, str]:
    if not isinstance(entry, dict):
        return {}
    texts = {key: text_of(entry.get("name") or entry.get("model_name")), f"{key}_hash": text_of(entry.get("hash"))}
    return {name: text for name, text in texts.items() if text}


def _loras(entries: object) -> list[Lora]:
    """Each is {model: {name, hash}, weight}; older ones say lora: {model_name}."""
    loras = []
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict):
            model = _model(entry.get("model") or entry.get("lora"), "name")
            if "name" in model:
                weight = number_of(entry.get("weight"), default=1.0)
                loras.append(Lora(model["name"], weight, model.get("name_hash", "")))
    return loras
