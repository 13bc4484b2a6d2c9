"""A1111's "infotext", in the text field `parameters`, which most other programs and sites can read.

Grammar: prompt, a line "Negative prompt: …", then one line of "key: value" pairs; a value that holds a comma, colon or
line break is written as a JSON string. Forge, SD.Next, Civitai and Fooocus write dialects of it.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping

from pipelines.spec.hires import second_pass
from pipelines.spec.lora_tags import writable_name, write_lora
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.schedulers import NOISE_SCHEDULES, SCHEDULERS
from pipelines.spec.templates import TEMPLATES
from pipelines.spec.upscalers import upscaler_label
from pipelines.spec.values import Emphasis, MaskedContent, NoiseSource, Task
from studio import __version__
from studio.metadata.foreign import Foreign, json_object
from studio.metadata.record import Record

KEY = "parameters"
OURS = "Open Weights Studio"
"""The program whose pictures carry our own record."""
_NEGATIVE = "Negative prompt:"
_MIN_PAIRS = 3
"""Fewer pairs are a line of prose with colons in it."""

_EXTRAS_ONLY = "Postprocess "
"""So begins a line of the Extras tab, which in a JPEG stands alone; it may have a single pair."""

_MAX_PAIRS_CHARACTERS = 200_000

_PAIR = re.compile(r'(\w[\w \-/]{1,200}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_SIZE = re.compile(r"([0-9]{1,9})x([0-9]{1,9})")
_SCHEDULES = ("Align Your Steps", "Exponential", "Karras", "KL Optimal", "Polyexponential", "SGM Uniform", "Turbo")
"""Schedule types that ended a sampler's name before they had a key of their own (A1111 1.9)."""

_DEFAULTS = {"Emphasis": "Original", "RNG": "GPU", "Schedule type": "Automatic"}
_DEFAULTS_OF_COMFYUI = {"Emphasis": "Comfy", "RNG": "CPU", "Step rule": "exact"}
"""Where one of its nodes wrote this text."""

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

_SOFT = {
    "Soft inpainting schedule bias": "soft_schedule_bias",
    "Soft inpainting preservation strength": "soft_preservation",
    "Soft inpainting transition contrast boost": "soft_contrast_boost",
    "Soft inpainting mask influence": "soft_mask_influence",
    "Soft inpainting difference threshold": "soft_difference_threshold",
    "Soft inpainting difference contrast": "soft_difference_contrast",
}
"""A1111's keys, which it writes all or none -> our fields."""

_INPAINT_DEFAULTS = {
    "Mask mode": "Inpaint masked",
    "Masked content": "original",
    "Inpaint area": "Whole picture",
    "Masked area padding": "32",
}

TEMPLATE_KEYS: Mapping[str, str] = {
    "prompt": "Template",
    "negative_prompt": "Negative template",
    "hires_prompt": "Hires template",
    "hires_negative_prompt": "Hires negative template",
}
"""Our texts -> the keys of what they were made from."""

EXTRAS = ("postprocessing", "extras")
"""The text fields where A1111's Extras tab says what it did to a finished picture."""

ENLARGED = (
    *("Postprocess upscale by", "Postprocess upscale to", "Postprocess max side length", "Postprocess crop to"),
    *("Postprocess upscaler", "Postprocess upscaler 2"),
)
"""A1111's keys of a picture that was made larger without painting."""

NOT_IN_HASHES = str.maketrans("", "", ":,")
"""What A1111 takes out of the name of a LoRA or an embedding when it writes its hash down."""

HASH_DIGITS = 10
"""Of a model's hash."""

_Pair = tuple[str, object]
"""A key and its value; None is not written."""


_RNG: Mapping[NoiseSource, str] = {"cpu": "CPU", "nv": "NV", "device": "Device"}
"""What A1111 calls the sources of noise, but for Device, where it says nothing: to others that means an NVIDIA card."""
_EMPHASIS: Mapping[Emphasis, str | None] = {"a1111": None, "no_norm": "No norm", "comfy": "Comfy"}
_MASKED_CONTENT: Mapping[MaskedContent, str | None] = {
    "original": None,
    "fill": "fill",
    "latent_noise": "latent noise",
    "latent_nothing": "latent nothing",
}


def write(record: Record) -> str:
    """Return the infotext of a picture, its pairs in A1111's order; what is as it is by default there is left out."""
    request = record.request
    lines = [_prompt(request)]
    if request.negative_prompt:
        lines.append(f"{_NEGATIVE} {request.negative_prompt}")
    pairs = [
        *_sampling(request, _short_hash(record, "model_hash")),
        *_inpaint(request, is_mask_blank=bool(record.provenance.get("blank_mask"))),
        *_options(request),
        *_hires(request, _short_hash(record, "hires_model_hash")),
        ("Lora hashes", _lora_hashes(request)),
        ("Version", f"{OURS} {__version__}"),
    ]
    lines.append(_line(pairs))
    return "\n".join(lines).strip()


def write_extras(request: ResolvedRequest) -> str:
    """Say in the words of the Extras tab what strength 0 does: cover a size, and crop what overhangs."""
    size = f"{request.width}x{request.height}" if request.resize_mode == "crop" else None
    return _line(
        [
            ("Postprocess upscale to", size),
            ("Postprocess crop to", size),
            ("Postprocess upscaler", upscaler_label(request.upscaler or "lanczos")),
        ]
    )


def _line(pairs: Iterable[_Pair]) -> str:
    return ", ".join(f"{key}: {_quoted(value)}" for key, value in pairs if value is not None)


def disagreements(record: Record, texts: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield what the infotext beside a record says otherwise: a key, what the text says, and what the record says.

    A text that another version wrote may lack keys, or have others; what both have must be the same.
    """
    byte_order_mark = "\ufeff"  # EXIF loses one that begins a prompt
    meant, said = (read({KEY: text.removeprefix(byte_order_mark)}) for text in (write(record), texts.get(KEY, "")))
    if KEY not in texts or meant is None:
        return
    if said is None:
        yield "infotext", texts[KEY], "the settings of the picture"
        return
    yield from (
        (field, getattr(said, field), getattr(meant, field))
        for field in ("prompt", "negative_prompt")
        if getattr(said, field) != getattr(meant, field)
    )
    is_of_this_version = record.software == f"{OURS} {__version__}"
    keys = [*meant.pairs, *said.pairs] if is_of_this_version else [key for key in meant.pairs if key in said.pairs]
    for key in dict.fromkeys(keys):
        before, after = said.pairs.get(key, "nothing"), meant.pairs.get(key, "nothing")
        if before != after and (is_of_this_version or key != "Version"):
            yield key, before, after


def _short_hash(record: Record, key: str) -> str | None:
    """Return a model's hash as A1111 writes it, if it is known."""
    return str(record.provenance.get(key, ""))[:HASH_DIGITS] or None


def _prompt(request: ResolvedRequest) -> str:
    """Return the prompt with its LoRAs as tags at its end, outside of a comment that may stand there."""
    tags = " ".join(f"<lora:{write_lora(lora)}>" for lora in request.loras)
    gap = "\n" if "#" in request.prompt.rpartition("\n")[2] else " "
    return f"{request.prompt}{gap}{tags}" if tags and request.prompt else tags or request.prompt


def _lora_hashes(request: ResolvedRequest) -> str | None:
    hashes = (f"{name_in_hashes(writable_name(lora.name))}: {lora.sha256[:12]}" for lora in request.loras)
    return ", ".join(hashes) or None


def _embedding_hashes(request: ResolvedRequest) -> str | None:
    """Return the hashes of embeddings; those that LoRAs bring have the hashes of these."""
    brought = {lora.sha256 for lora in request.loras}
    return _hashes({name: digest for name, digest in request.embeddings.items() if digest not in brought})


def name_in_hashes(name: str) -> str:
    """Return a LoRA's name as A1111 writes it beside its hash."""
    return name.translate(NOT_IN_HASHES)


def _sampling(request: ResolvedRequest, model_hash: str | None) -> list[_Pair]:
    strength = request.hires_strength if request.strength is None else request.strength
    has_variation, has_other_size = request.variation_seed is not None, request.seed_resize_width is not None
    return [
        ("Steps", request.num_inference_steps),
        ("Sampler", SCHEDULERS[request.scheduler].label),
        ("Schedule type", NOISE_SCHEDULES[request.noise_schedule]),
        ("CFG scale", _number(request.guidance_scale)),
        ("Seed", request.seed),
        ("Size", f"{request.width}x{request.height}"),
        ("Model hash", model_hash),
        ("Model", request.model),
        ("Variation seed", request.variation_seed),
        ("Variation seed strength", _number(request.variation_strength) if has_variation else None),
        ("Seed resize from", f"{request.seed_resize_width}x{request.seed_resize_height}" if has_other_size else None),
        ("Denoising strength", None if strength is None else _number(strength)),
        ("Clip skip", request.clip_skip if request.clip_skip > 1 else None),
        ("ENSD", _delta_that_acts(request)),
        ("Init image hash", request.init_image),
        ("RNG", _RNG[request.noise_source]),
    ]


def _delta_that_acts(request: ResolvedRequest) -> int | None:
    passes = [request] if request.enlargement is None else [request, second_pass(request)]
    is_used = any(SCHEDULERS[one.scheduler].draws(eta=one.eta, s_churn=one.s_churn) for one in passes)
    return (request.eta_noise_seed_delta or None) if is_used else None


def _inpaint(request: ResolvedRequest, *, is_mask_blank: bool) -> list[_Pair]:
    if request.task is not Task.INPAINT:
        return []
    is_only_masked = request.inpaint_area == "only_masked" and not is_mask_blank
    is_soft = request.mask_mode == "soft"
    left, top, right, bottom = (margin or None for margin in request.margins)
    return [
        ("Soft inpainting enabled", True if is_soft else None),
        *((key, _number(getattr(request, field)) if is_soft else None) for key, field in _SOFT.items()),
        ("Mask blur", _number(request.mask_blur_x)),
        ("Mask blur y", None if request.mask_blur_y == request.mask_blur_x else _number(request.mask_blur_y)),
        ("Mask mode", "Inpaint not masked" if request.invert_mask else None),
        ("Masked content", _MASKED_CONTENT[request.masked_content]),
        ("Inpaint area", "Only masked" if is_only_masked else None),
        ("Masked area padding", request.mask_padding if is_only_masked else None),
        ("Mask greys", "differential" if request.mask_mode == "differential" else None),
        ("Outpaint left", left),
        ("Outpaint top", top),
        ("Outpaint right", right),
        ("Outpaint bottom", bottom),
    ]


def _options(request: ResolvedRequest) -> list[_Pair]:
    return [
        ("Styles", ", ".join(request.styles) or None),
        *((label, _typed(request, field)) for field, label in TEMPLATE_KEYS.items()),
        ("Resize mode", None if request.resize_mode == "crop" else request.resize_mode),
        ("Image upscaler", None if request.upscaler is None else upscaler_label(request.upscaler)),
        ("Step rule", None if request.step_rule == "a1111" else request.step_rule),
        ("Emphasis", _EMPHASIS[request.emphasis]),
        ("Prompt comments", None if request.prompt_comments else "False"),
        ("Schedule max sigma", None if request.sigma_max is None else _number(request.sigma_max)),
        ("Schedule min sigma", None if request.sigma_min is None else _number(request.sigma_min)),
        ("Schedule rho", None if request.rho is None else _number(request.rho)),
        ("Eta", None if request.eta == SCHEDULERS[request.scheduler].eta else _number(request.eta)),
        ("Sigma churn", _number(request.s_churn) if request.s_churn else None),
        ("Sigma tmin", _number(request.s_tmin) if request.s_tmin else None),
        ("Sigma tmax", None if request.s_tmax is None else _number(request.s_tmax)),
        ("Sigma noise", _number(request.s_noise) if request.s_noise != 1 else None),
        ("Tile size", request.tile_size),
        ("Tile overlap", request.tile_overlap),
        ("TI hashes", _embedding_hashes(request)),
    ]


def _typed(request: ResolvedRequest, field: str) -> str | None:
    """Return what a text was made from, where that says more than the text."""
    template: str | None = getattr(request, TEMPLATES[field])
    return template if template != getattr(request, field) else None


def _hires(request: ResolvedRequest, model_hash: str | None) -> list[_Pair]:
    """What the second pass has in common with the first is left out; its strength is the one "Denoising strength"."""
    if request.enlargement is None or request.hires_guidance_scale is None:
        return []
    guidance_scale, scheduler = request.hires_guidance_scale, str(request.hires_scheduler)
    noise_schedule = str(request.hires_noise_schedule)
    scale, is_other = request.hires_scale, request.hires_prompt not in {None, request.prompt}
    model = f"{request.hires_model} [{model_hash}]" if model_hash else request.hires_model
    is_other_negative = request.hires_negative_prompt not in {None, request.negative_prompt}
    return [
        ("Hires upscale", None if scale is None else _number(scale)),
        ("Hires resize", f"{request.hires_width or 0}x{request.hires_height or 0}" if scale is None else None),
        ("Hires steps", None if request.hires_steps == request.num_inference_steps else request.hires_steps),
        ("Hires upscaler", upscaler_label(str(request.hires_upscaler))),
        ("Hires sampler", None if scheduler == request.scheduler else SCHEDULERS[scheduler].label),
        ("Hires schedule type", None if noise_schedule == request.noise_schedule else NOISE_SCHEDULES[noise_schedule]),
        ("Hires CFG Scale", None if guidance_scale == request.guidance_scale else _number(guidance_scale)),
        ("Hires prompt", request.hires_prompt if is_other else None),
        ("Hires negative prompt", request.hires_negative_prompt if is_other_negative else None),
        ("Hires checkpoint", model),
    ]


def read(texts: Mapping[str, str]) -> Foreign | None:
    """Read an infotext of any program, old or new.

    Sizes come as two pairs, "Size-1" and "Size-2"; a schedule type in the sampler's name as a pair of its own; the
    sizes of the old hires fix ("First pass size") as those of today.
    """
    text = texts.get(KEY, "").strip()
    extras = next((texts[key].strip() for key in EXTRAS if texts.get(key)), "")
    if not (text or extras) or (text.startswith("{") and json_object(text) is not None):
        return None
    *lines, last = text.split("\n")
    pairs = _pairs(last) if len(last) <= _MAX_PAIRS_CHARACTERS else {}
    if len(pairs) < _MIN_PAIRS and not last.startswith(_EXTRAS_ONLY):
        lines, pairs = [*lines, last], {}
    if extras.startswith(_EXTRAS_ONLY) and len(extras) <= _MAX_PAIRS_CHARACTERS:
        pairs |= _pairs(extras)
    prompt, negative_prompt = _prompts(lines)
    program = _program(pairs)
    defaults = (_DEFAULTS | (_DEFAULTS_OF_COMFYUI if program == "ComfyUI" else {})) if pairs else {}
    _split_sampler(pairs)
    _modernise_first_pass(pairs)
    if program == "SD.Next":
        _translate_sdnext(pairs)
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


def _hashes(digests: Mapping[str, str]) -> str | None:
    """Return "name: hash, name: hash" with the first twelve digits; names lose what separates them."""
    return ", ".join(f"{name.translate(NOT_IN_HASHES)}: {digest[:12]}" for name, digest in digests.items()) or None


def _number(value: float) -> str:
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _quoted(value: object) -> str:
    """Quote what A1111 quotes, and what a reader would strip or unquote."""
    text = str(value)
    is_plain = not any(sign in text for sign in ",\n:") and text == text.strip() and not text.startswith('"')
    return text if is_plain else json.dumps(text, ensure_ascii=False)


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
        if line.startswith(_NEGATIVE):
            target = negative
            line = line.removeprefix(_NEGATIVE).strip()
        target.append(line)
    return "\n".join(prompt).strip(), "\n".join(negative).strip()


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


def _program(pairs: Mapping[str, str]) -> str:
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
