"""Reading A1111's "infotext", in the text field `parameters`, which most other programs and sites can read.

Grammar: prompt, a line "Negative prompt: …", then one line of "key: value" pairs; a value that holds a comma, colon or
line break is written as a JSON string. Forge, SD.Next, Civitai and Fooocus write dialects of it.
"""

import json
import re
from collections.abc import Mapping

from studio.metadata.a1111_dialects import modernise, program_of
from studio.metadata.a1111_keys import EXTRAS, KEY, NEGATIVE, OURS, TEMPLATE_KEYS
from studio.metadata.foreign import Foreign, json_object

_MIN_PAIRS = 3
"""Fewer pairs are a line of prose with colons in it."""

_EXTRAS_ONLY = "Postprocess "
"""So begins a line of the Extras tab, which in a JPEG stands alone; it may have a single pair."""

_MAX_PAIRS_CHARACTERS = 200_000

_PAIR = re.compile(r'(\w[\w \-/]{1,200}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_BELOW = re.compile(r"\n(?:Negative )?Template: ")
_SIZE = re.compile(r"([0-9]{1,9})x([0-9]{1,9})")

_DEFAULTS = {"Emphasis": "Original", "RNG": "GPU", "Schedule type": "Automatic"}
_DEFAULTS_OF_COMFYUI = {"Emphasis": "Comfy", "RNG": "CPU", "Step rule": "exact"}
"""Where one of its nodes wrote this text."""
_DEFAULTS_OF_SDNEXT = {"Parser": "native"}

_OUR_DEFAULTS = {"Clip skip": "1"}
"""Others mean by it, too, what their model does by itself: that is not 1 for Stable Diffusion XL."""
_HIRES_DEFAULTS = {
    "Hires resize-1": "0",
    "Hires resize-2": "0",
    "Hires sampler": "Use same sampler",
    "Hires checkpoint": "Use same checkpoint",
    "Hires schedule type": "Use same scheduler",
    "Hires prompt": "",
    "Hires negative prompt": "",
}
_INPAINT_DEFAULTS = {
    "Mask mode": "Inpaint masked",
    "Masked content": "original",
    "Inpaint area": "Whole picture",
    "Masked area padding": "32",
}


def read(texts: Mapping[str, str]) -> Foreign | None:
    """Read an infotext of any program, old or new.

    Sizes come as two pairs, "Size-1" and "Size-2"; a schedule type in the sampler's name as a pair of its own; the
    sizes of the old hires fix ("First pass size") as those of today.
    """
    text, templates = _part_templates(texts.get(KEY, "").strip())
    extras = next((texts[key].strip() for key in EXTRAS if texts.get(key)), "")
    if not (text or extras) or (text.startswith("{") and json_object(text) is not None):
        return None
    *lines, last = text.split("\n")
    pairs = _pairs(last) if len(last) <= _MAX_PAIRS_CHARACTERS else {}
    if len(pairs) < _MIN_PAIRS and not last.startswith(_EXTRAS_ONLY):
        lines, pairs = [*lines, last], {}
    pairs |= templates
    if extras.startswith(_EXTRAS_ONLY) and len(extras) <= _MAX_PAIRS_CHARACTERS:
        pairs |= _pairs(extras)
    prompt, negative_prompt = _prompts(lines)
    program = program_of(pairs)
    defaults = (_DEFAULTS | (_DEFAULTS_OF_COMFYUI if program == "ComfyUI" else {})) if pairs else {}
    modernise(pairs, program)
    if program == "SD.Next":
        defaults |= _DEFAULTS_OF_SDNEXT
    if program == OURS:
        defaults |= _OUR_DEFAULTS
    if is_hires(pairs):
        defaults |= _HIRES_DEFAULTS
    if any(key.startswith("Mask") for key in pairs):
        defaults |= _INPAINT_DEFAULTS
    return Foreign("a1111", program, prompt, negative_prompt, pairs, defaults=defaults)


def is_hires(pairs: Mapping[str, str]) -> bool:
    """Whether the picture had a second, larger pass; its strength then stands under "Denoising strength"."""
    return any(key.startswith(("Hires upscale", "Hires resize", "Hires steps", "First pass size")) for key in pairs)


def hashes(pairs: Mapping[str, str], key: str) -> dict[str, str]:
    """Return name -> hash from "Lora hashes", "TI hashes" ("name: hash, name: hash") or "Hashes" (JSON)."""
    text = pairs.get(key, "")
    if (data := json_object(text)) is not None:
        return {name: value for name, value in data.items() if isinstance(value, str)}
    parts = (part.rpartition(":") for part in text.split(","))
    return {name.strip(): value.strip() for name, colon, value in parts if colon and name.strip()}


def _part_templates(text: str) -> tuple[str, dict[str, str]]:
    """Part off what the extension Dynamic Prompts writes below the settings: what the prompts were made from."""
    for match in _BELOW.finditer(text):
        above = text[: match.start()]
        last = above.rpartition("\n")[2]
        if len(last) <= _MAX_PAIRS_CHARACTERS and len(_pairs(last)) >= _MIN_PAIRS:
            template, _, negative = text[match.start() :].partition("\nNegative Template: ")
            found = {
                TEMPLATE_KEYS["prompt"]: template.removeprefix("\nTemplate: "),
                TEMPLATE_KEYS["negative_prompt"]: negative,
            }
            return above, {key: value for key, value in found.items() if value}
    return text, {}


def _pairs(line: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    line = _without_hashes(line, pairs)
    for match in _PAIR.finditer(line):
        key, value = match[1].strip(), _unquoted(match[2].strip())
        if size := _SIZE.fullmatch(value):
            pairs[f"{key}-1"], pairs[f"{key}-2"] = size[1], size[2]
        else:
            pairs[key] = value
    return pairs


def _without_hashes(line: str, pairs: dict[str, str]) -> str:
    """Move "Hashes: {…}" into the pairs: it is JSON with commas, and no quotes stand around it."""
    for name in ("Hashes", "Civitai metadata", "Civitai resources"):
        start = re.search(rf"(?:^|, ){name}: (?=[{{\[])", line)
        if start is None:
            continue
        try:
            _, end = json.JSONDecoder().raw_decode(line, start.end())
        except (ValueError, RecursionError):
            continue
        pairs[name] = line[start.end() : end]
        line = line[: start.start()] + line[end:]
    return line


def _unquoted(value: str) -> str:
    if len(value) < 2 or not value.startswith('"') or not value.endswith('"'):
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value


def _prompts(lines: list[str]) -> tuple[str, str]:
    """Every line is stripped; from "Negative prompt:" on, all lines belong to the negative prompt."""
    prompt: list[str] = []
    negative: list[str] = []
    target = prompt
    for line in map(str.strip, lines):
        if line.startswith(NEGATIVE):
            target = negative
            line = line.removeprefix(NEGATIVE).strip()
        target.append(line)
    return "\n".join(prompt).strip(), "\n".join(negative).strip()
