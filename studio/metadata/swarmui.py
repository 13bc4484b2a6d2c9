"""SwarmUI: a JSON object in the text field `parameters`, under `sui_image_params`."""

from collections.abc import Mapping

from studio.metadata.foreign import Foreign, Lora, json_object, number_of, plain, stem, text_of

_SPOKEN = frozenset({"prompt", "negativeprompt"})


def read(texts: Mapping[str, str]) -> Foreign | None:
    """Read the JSON that SwarmUI writes."""
    data = (json_object(texts.get("parameters", "")) or {}).get("sui_image_params")
    if not isinstance(data, dict):
        return None
    names, weights = data.get("loras"), data.get("loraweights")
    pairs = zip(names, weights, strict=False) if isinstance(names, list) and isinstance(weights, list) else ()
    return Foreign(
        format="swarmui",
        program="SwarmUI",
        prompt=text_of(data.get("prompt")),
        negative_prompt=text_of(data.get("negativeprompt")),
        pairs=plain(data, without=_SPOKEN),
        loras=tuple(Lora(stem(text_of(name)), number_of(weight, default=1.0)) for name, weight in pairs),
        defaults={"noise": "cpu"},
    )
