"""Tags of extra networks in other programs' prompts: <lora:name:0.8>. What such a tag says beyond our words is told."""

import re
from collections.abc import Mapping

from pipelines.spec.lora_tags import parse_lora
from studio.metadata.foreign import Lora

TAG = re.compile(r"<(\w{1,40}):([^<>]{0,400})>")
_PRESETS: Mapping[str, str] = {
    "NONE": "0" * 17,
    "ALL": "1" * 17,
    "INS": "1" "111000" "0" "000000000",
    "IND": "1" "000111" "0" "000000000",
    "INALL": "1" "111111" "0" "000000000",
    "MIDD": "1" "000111" "1" "111100000",
    "OUTD": "1" "000000" "0" "111100000",
    "OUTS": "1" "000000" "0" "000011111",
    "OUTALL": "1" "000000" "0" "111111111",
}  # fmt: skip
"""What names behind lbw= mean in A1111's extension lora-block-weight until someone edits them.

One digit each for the text encoders, the blocks on the way down, the one in the middle, and those on the way up.
"""


def read_tag(arguments: str) -> Lora:
    """Read the inside of a tag of a LoRA. An argument that means nothing here is left out, and named in `unlike`."""
    name, *rest = arguments.split(":")
    kept, unlike = name, []
    for argument in rest:
        listed, said = _listed(argument)
        try:
            parse_lora(f"{kept}:{listed}")
        except ValueError:
            unlike.append(f"{argument} means nothing here")
        else:
            kept = f"{kept}:{listed}"
            unlike += said
    try:
        fields = parse_lora(kept)
    except ValueError:  # without a name, it is none
        return Lora(name, 1.0)
    weights = fields.pop("weight"), "", fields.pop("text_encoder_weight", None)
    return Lora(fields.pop("name"), *weights, fields, ", ".join(unlike))


def _listed(argument: str) -> tuple[str, list[str]]:
    """Return an argument with numbers for the name of a list of block weights, and a word on that if there was one."""
    key, _, preset = argument.partition("=")
    if key.strip() != "lbw" or preset.strip() not in _PRESETS:
        return argument, []
    numbers = ",".join(_PRESETS[preset.strip()])
    return f"lbw={numbers}", [f"{argument} is taken for {numbers} of Stable Diffusion 1.x"]
