"""What other programs and older versions write differently in an infotext, said in the words of today's A1111."""

import math
import re
from collections.abc import Mapping

from studio.metadata.a1111_keys import OURS

_SCHEDULES = ("Align Your Steps", "Exponential", "Karras", "KL Optimal", "Polyexponential", "SGM Uniform", "Turbo")
"""Schedule types that ended a sampler's name before they had a key of their own (A1111 1.9)."""

_HIRES_OF_SDNEXT = {
    "Hires scale": "Hires upscale",
    "Hires fixed-1": "Hires resize-1",
    "Hires fixed-2": "Hires resize-2",
    "Hires size-1": "Hires resize-1",
    "Hires size-2": "Hires resize-2",
    "Hires CFG scale": "Hires CFG Scale",
}
_ENLARGED_OF_SDNEXT = {
    "Hires scale": "Postprocess upscale by",
    "Hires fixed-1": "Postprocess upscale to-1",
    "Hires fixed-2": "Postprocess upscale to-2",
    "Hires size-1": "Postprocess upscale to-1",
    "Hires size-2": "Postprocess upscale to-2",
    "Hires upscaler": "Postprocess upscaler",
}
"""SD.Next's key -> what it is in A1111."""


def program_of(pairs: Mapping[str, str]) -> str:
    """Return what wrote these pairs."""
    version = pairs.get("Version", "")
    if "App" in pairs:
        return pairs["App"]
    if {"Pipeline", "Operations", "Backend"} & pairs.keys():
        return "SD.Next"  # before it wrote its name
    if re.match(r"f[0-9]", version):
        return "Forge"
    for name in (OURS, "ComfyUI", "Fooocus", "InvokeAI"):
        if version.startswith(name):
            return name
    return "A1111"


def modernise(pairs: dict[str, str], program: str) -> None:
    """Replace, in place, what a program or an older version says by what A1111 says of it today."""
    _split_sampler(pairs)
    _modernise_first_pass(pairs)
    if program == "SD.Next":
        _translate_sdnext(pairs)


def _split_sampler(pairs: dict[str, str]) -> None:
    sampler = pairs.get("Sampler", "")
    for schedule in _SCHEDULES:
        if "Schedule type" not in pairs and sampler.endswith(f" {schedule}"):
            pairs |= {"Sampler": sampler.removesuffix(f" {schedule}"), "Schedule type": schedule}


def _modernise_first_pass(pairs: dict[str, str]) -> None:
    """Before 1.0, Size was the final size, and "First pass size: 0x0" a first pass of about 512 × 512 pixels."""
    first = [_whole(pairs.get(f"First pass size-{side}", "")) for side in (1, 2)]
    final = [_whole(pairs.get(f"Size-{side}", "")) for side in (1, 2)]
    if "First pass size-1" not in pairs or 0 in final:
        return
    if 0 in first:
        scale = math.sqrt(512 * 512 / (final[0] * final[1]))
        first = [math.ceil(scale * side / 64) * 64 for side in final]
    for side in (0, 1):
        pairs[f"Hires resize-{side + 1}"] = str(final[side])
        pairs[f"Size-{side + 1}"] = str(first[side])


def _translate_sdnext(pairs: dict[str, str]) -> None:
    """Say in A1111's words how the picture was made larger: painted again, or as in the Extras tab."""
    upscaler = pairs.get("Hires upscaler", "")
    is_painted = "Hires strength" in pairs or pairs.get("Hires force") == "True" or "Latent" in upscaler
    names = _HIRES_OF_SDNEXT if is_painted else _ENLARGED_OF_SDNEXT
    has_size = bool({"Hires scale", "Hires fixed-1"} & pairs.keys())
    for key in [key for key in names if key in pairs]:
        text = pairs.pop(key)
        if not (has_size and key.startswith("Hires size")):  # follows from the others
            pairs[names[key]] = text


def _whole(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
