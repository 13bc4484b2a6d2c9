"""Writing A1111's infotext, in its own words and order: what a picture made here says to other programs."""

import json
from collections.abc import Iterable, Mapping

from pipelines.spec.hires import second_pass
from pipelines.spec.lora_tags import writable_name, write_lora
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.schedulers import NOISE_SCHEDULES, SCHEDULERS
from pipelines.spec.templates import TEMPLATES
from pipelines.spec.upscalers import upscaler_label
from pipelines.spec.values import Emphasis, MaskedContent, NoiseSource, Task
from studio import __version__
from studio.metadata.a1111_keys import NEGATIVE, OURS, TEMPLATE_KEYS, name_in_hashes
from studio.metadata.record import Record

_HASH_DIGITS = 10
"""Of a model's hash."""

_SOFT = {
    "Soft inpainting schedule bias": "soft_schedule_bias",
    "Soft inpainting preservation strength": "soft_preservation",
    "Soft inpainting transition contrast boost": "soft_contrast_boost",
    "Soft inpainting mask influence": "soft_mask_influence",
    "Soft inpainting difference threshold": "soft_difference_threshold",
    "Soft inpainting difference contrast": "soft_difference_contrast",
}
"""A1111's keys, which it writes all or none -> our fields."""

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
        lines.append(f"{NEGATIVE} {request.negative_prompt}")
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


def _short_hash(record: Record, key: str) -> str | None:
    """Return a model's hash as A1111 writes it, if it is known."""
    return str(record.provenance.get(key, ""))[:_HASH_DIGITS] or None


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


def _hashes(digests: Mapping[str, str]) -> str | None:
    """Return "name: hash, name: hash" with the first twelve digits; names lose what separates them."""
    return ", ".join(f"{name_in_hashes(name)}: {digest[:12]}" for name, digest in digests.items()) or None


def _number(value: float) -> str:
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _quoted(value: object) -> str:
    """Quote what A1111 quotes, and what a reader would strip or unquote."""
    text = str(value)
    is_plain = not any(sign in text for sign in ",\n:") and text == text.strip() and not text.startswith('"')
    return text if is_plain else json.dumps(text, ensure_ascii=False)
