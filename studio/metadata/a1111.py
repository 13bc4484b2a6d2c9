"""A1111's "infotext", in the text field `parameters`, which most other programs and sites can read.

Grammar: prompt, a line "Negative prompt: …", then one line of "key: value" pairs; a value that holds a comma, colon or
line break is written as a JSON string.
"""

import json
from collections.abc import Mapping

from pipelines.spec.request import Emphasis, MaskedContent, NoiseSource, ResolvedRequest, Task
from pipelines.spec.schedulers import NOISE_SCHEDULES, SCHEDULERS
from studio import __version__
from studio.metadata.record import Record

KEY = "parameters"

_Pair = tuple[str, object]
"""A key and its value; None is not written."""


_RNG: Mapping[NoiseSource, str | None] = {"cpu": "CPU", "nv": "NV", "device": None}
"""What A1111 calls the sources of noise; where it says nothing, it is the graphics card."""
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
    lines = [request.prompt]
    if request.negative_prompt:
        lines.append(f"Negative prompt: {request.negative_prompt}")
    pairs = [
        *_sampling(request),
        *_inpaint(request),
        *_options(request),
        ("Version", f"Open Weights Studio {__version__}"),
    ]
    lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in pairs if value is not None))
    return "\n".join(lines).strip()


def _sampling(request: ResolvedRequest) -> list[_Pair]:
    has_variation, has_other_size = request.variation_seed is not None, request.seed_resize_width is not None
    return [
        ("Steps", request.num_inference_steps),
        ("Sampler", SCHEDULERS[request.scheduler].label),
        ("Schedule type", NOISE_SCHEDULES[request.noise_schedule]),
        ("CFG scale", _number(request.guidance_scale)),
        ("Seed", request.seed),
        ("Size", f"{request.width}x{request.height}"),
        ("Model", request.model),
        ("Variation seed", request.variation_seed),
        ("Variation seed strength", _number(request.variation_strength) if has_variation else None),
        ("Seed resize from", f"{request.seed_resize_width}x{request.seed_resize_height}" if has_other_size else None),
        ("Denoising strength", None if request.strength is None else _number(request.strength)),
        ("Clip skip", request.clip_skip if request.clip_skip > 1 else None),
        ("ENSD", request.eta_noise_seed_delta or None),
        ("RNG", _RNG[request.noise_source]),
    ]


def _inpaint(request: ResolvedRequest) -> list[_Pair]:
    if request.task is not Task.INPAINT:
        return []
    is_only_masked = request.inpaint_area == "only_masked"
    return [
        ("Mask blur", _number(request.mask_blur_x)),
        ("Mask blur y", None if request.mask_blur_y == request.mask_blur_x else _number(request.mask_blur_y)),
        ("Mask mode", "Inpaint not masked" if request.invert_mask else None),
        ("Masked content", _MASKED_CONTENT[request.masked_content]),
        ("Inpaint area", "Only masked" if is_only_masked else None),
        ("Masked area padding", request.mask_padding if is_only_masked else None),
    ]


def _options(request: ResolvedRequest) -> list[_Pair]:
    return [
        ("Template", request.template),
        ("Emphasis", _EMPHASIS[request.emphasis]),
        ("Eta", None if request.eta == SCHEDULERS[request.scheduler].eta else _number(request.eta)),
        ("Sigma churn", _number(request.s_churn) if request.s_churn else None),
        ("Sigma tmin", _number(request.s_tmin) if request.s_tmin else None),
        ("Sigma tmax", None if request.s_tmax is None else _number(request.s_tmax)),
        ("Sigma noise", _number(request.s_noise) if request.s_noise != 1 else None),
    ]


def _number(value: float) -> str:
    return f"{value:g}"


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(sign in text for sign in ",\n:") else text
