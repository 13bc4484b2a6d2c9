"""The table: what each program's key means in a request of ours. A field that requests do not have yet may stand here.

A reader turns the text into a value; it returns None where there is nothing to say, and raises ValueError with a
sentence where the text means nothing.
"""

import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from pipelines.spec.schedulers import AUTOMATIC, NOISE_SCHEDULES, SCHEDULERS
from pipelines.spec.templates import TEMPLATES
from pipelines.spec.upscalers import UPSCALERS, canonical_upscaler
from studio.metadata import a1111, vocabulary, weights
from studio.metadata.a1111_keys import ENLARGED, TEMPLATE_KEYS
from studio.metadata.finding import FindModel, FindUpscaler, Lacking, Outcome, Reading, found_model, shortened
from studio.metadata.foreign import Foreign, stem

OTHER_NOISE = "other noise: a different picture"
OTHER_START = (
    "there this sampler noises the input for one timestep and denoises it from another; here both are the same"
)
_SAME_SAMPLER = frozenset({"", "Use same sampler", "Same as primary", "Default"})
_BY_TIMESTEPS = frozenset(name for name, spec in SCHEDULERS.items() if spec.starts_at_unit_variance)
"""ddim, plms and unipc, which A1111 does not run on sigmas."""
OTHER_SHARE = "which of the steps are left out is reckoned there in another way"
_OTHER_SHARE = frozenset({"invokeai", "novelai", "swarmui"})
OTHER_STEPS = "there its steps are reckoned in another way; here they are those of diffusers"
_OF_DIFFUSERS = frozenset({"deis", "tcd", "sa_solver"})
_ON_DIFFUSERS = frozenset({"SD.Next", "InvokeAI"})


@dataclass(frozen=True)
class Source:
    """A foreign picture, and the way to ask what is installed."""

    foreign: Foreign
    find_model: FindModel
    find_upscaler: FindUpscaler


Reader = Callable[[str, Source], Reading | None]


@dataclass(frozen=True)
class Meaning:
    """One row: our field, how the text becomes its value, and the key under which each program writes it."""

    field: str
    read: Reader
    a1111: str = ""
    comfyui: str = ""
    invokeai: str = ""
    fooocus: str = ""
    novelai: str = ""
    swarmui: str = ""

    def key(self, foreign: Foreign) -> str:
        """Return the key in one program's words; empty where it has none."""
        return str(getattr(self, foreign.format))


def _whole(text: str, _: Source, *, plus: int = 0, none: int | None = None) -> Reading | None:
    """Read a whole number; `none` is the one that stands for "not set"."""
    try:
        value = int(text) if len(text) < 40 and text.strip("+-").isdecimal() else int(_finite(text))
    except ValueError as error:
        raise ValueError(f"is not a whole number: {shortened(text)}") from error
    return None if value == none else Reading(value + plus)


def _seed(text: str, source: Source) -> Reading | None:
    """Read a seed; -1 asked for a random one, which is not said."""
    if text == "-1":
        raise ValueError("-1 stands for any seed, and the one that was drawn is not said")
    return _whole(text, source)


def _number(text: str, _: Source, *, none: float | None = None) -> Reading | None:
    value = _finite(text)
    return None if value == none else Reading(value)


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise ValueError(f"is not a number: {shortened(text)}") from error
    if not math.isfinite(value):
        raise ValueError(f"is not a finite number: {shortened(text)}")
    return value


def _text(text: str, _: Source) -> Reading | None:
    return Reading(text) if text else None


def _chosen(text: str, _: Source, *, choices: dict[str, Any]) -> Reading | None:
    if text.lower() not in choices:
        raise Lacking(f"there is no {shortened(text)} here; known are {', '.join(choices)}")
    return Reading(choices[text.lower()])


def _scheduler(text: str, source: Source) -> Reading | None:
    if text in _SAME_SAMPLER:
        return None
    if source.foreign.format == "invokeai":
        text, _ = vocabulary.split_invokeai(text)
    try:
        value = vocabulary.scheduler_of(text)
    except ValueError as error:
        raise Lacking(str(error)) from error
    if value in _OF_DIFFUSERS and source.foreign.program not in _ON_DIFFUSERS:
        return Reading(value, Outcome.APPROXIMATED, OTHER_STEPS)
    is_sdnext = source.foreign.program == "SD.Next" and source.foreign.get("Backend").lower() != "original"
    if is_sdnext and text in vocabulary.OTHER_IN_SDNEXT:
        raise Lacking(f"{text} is another sampler in SD.Next, which is not here; choose one of {', '.join(SCHEDULERS)}")
    if text in vocabulary.NEAR or (is_sdnext and text in vocabulary.NEAR_IN_SDNEXT):
        return Reading(value, Outcome.APPROXIMATED, f"SD.Next's {text} is that of diffusers; {value} is near")
    return Reading(value)


def _noise_schedule(text: str, source: Source, *, sampler: str) -> Reading | None:
    foreign = source.foreign
    name = foreign.get(sampler)
    if text in {"", "Use same scheduler"}:
        return None
    if foreign.format == "invokeai":
        name, split = vocabulary.split_invokeai(name)
        text = split or "Automatic"
    with suppress(ValueError):  # said where the sampler is read
        name = vocabulary.scheduler_of(name)
    try:
        value = vocabulary.noise_schedule_of(text)
    except ValueError as error:
        raise Lacking(str(error)) from error
    if name not in SCHEDULERS:
        return Reading(value) if value else None
    spec = SCHEDULERS[name]
    if value is None:
        # Only since A1111 1.9, which writes the key, does each sampler have a schedule of its own.
        has_own = foreign.program in {"A1111", "Forge"} and "Schedule type" in foreign.pairs
        value = spec.noise_schedule if has_own or spec.ignores_schedule else "uniform"
        return Reading(value, why=f"Automatic means {NOISE_SCHEDULES[value]} for {spec.label}")
    if value not in spec.noise_schedules:
        raise Lacking(f"{value} does not exist for scheduler {name} here")
    return Reading(value)


def _hires_noise_schedule(text: str, source: Source) -> Reading | None:
    """Read the schedule type of the hires pass: where it is the same and Automatic, another sampler takes its own."""
    has_sampler = source.foreign.get("Hires sampler") not in _SAME_SAMPLER
    if has_sampler and text in {"", "Use same scheduler"}:
        said = source.foreign.get("Schedule type")
        text = said if said.lower() in AUTOMATIC else text
    return _noise_schedule(text, source, sampler="Hires sampler" if has_sampler else "Sampler")


def _upscaler(text: str, source: Source) -> Reading | None:
    """Read an upscaler; nothing but its name says which model file was meant."""
    name = canonical_upscaler(vocabulary.UPSCALERS.get(text, text))
    if name in UPSCALERS:
        return Reading(name)
    file = vocabulary.UPSCALER_FILES.get(name, name)
    found = source.find_upscaler(name) or source.find_upscaler(file)
    if found is None:
        raise Lacking(
            f"no upscaler {shortened(name)} is installed: put {stem(file)[:60]}.safetensors into upscalers/, which "
            f"spandrel runs (pip install 'open-weights-studio[upscale]'), or choose one of {', '.join(UPSCALERS)}"
        )
    if found != stem(name):
        return Reading(found, Outcome.APPROXIMATED, f"{found} is called almost so; it may be another model")
    return Reading(found)


def _strength(text: str, source: Source, *, hires: bool) -> Reading | None:
    """A1111 keeps the strength of the hires pass under the key of image-to-image."""
    foreign = source.foreign
    value = _finite(text)
    second_pass = foreign.format == "a1111" and a1111.is_hires(foreign.pairs)
    whole = foreign.format != "a1111" and value == 1
    if hires is not second_pass or whole or (value == 0 and not _has_input(foreign)):
        return None
    with suppress(ValueError):  # said where the sampler is read
        if foreign.program in {"A1111", "Forge"} and vocabulary.scheduler_of(foreign.get("Sampler")) in _BY_TIMESTEPS:
            return Reading(value, Outcome.APPROXIMATED, OTHER_START)
    return Reading(value, Outcome.APPROXIMATED, OTHER_SHARE) if foreign.format in _OTHER_SHARE else Reading(value)


def _has_input(foreign: Foreign) -> bool:
    """Whether a picture with a strength of 0 was made from another; A1111's API says 0 of text-to-image too."""
    signs = {"Init image hash", "Resize mode", *ENLARGED, *(f"{key}-1" for key in ENLARGED)}
    return foreign.format != "a1111" or bool(signs & foreign.pairs.keys())


def _generation_strength(text: str, source: Source) -> Reading | None:
    """InvokeAI and NovelAI may write a strength for every picture; it counts where there was an input."""
    mode = source.foreign.get("generation_mode", source.foreign.get("request_type", "img2img")).lower()
    return _strength(text, source, hires=False) if "img2img" in mode or "inpaint" in mode else None


def _noise_source(text: str, _: Source) -> Reading | None:
    match text.lower():
        case "cpu":
            return Reading("cpu")
        case "nv":
            return Reading("nv")
        case "device":
            return Reading("device")
    return Reading("nv", Outcome.APPROXIMATED, f"noise of an NVIDIA GPU; if it was another GPU, {OTHER_NOISE}")


def _model(text: str, source: Source, *, hash_key: str) -> Reading | None:
    digest = source.foreign.pairs.get(hash_key, "")
    if source.foreign.format == "a1111":
        digest = digest or a1111.hashes(source.foreign.pairs, "Hashes").get("model", "")
    return _found(stem(text), digest, source)


def _model_by_hash(text: str, source: Source, *, name_key: str) -> Reading | None:
    return None if source.foreign.pairs.get(name_key) else _found("", text, source)


def _parser(text: str, source: Source) -> Reading | None:
    """Read which of SD.Next's parsers took the prompt apart; what it made of it is read with the prompt."""
    foreign = source.foreign
    if not weights.is_sdnext_on_diffusers(foreign):
        return None
    parser = weights.sdnext_parser(foreign)
    if parser not in weights.SDNEXT_PARSERS:
        why = f"there is no parser {shortened(text)} here: the prompt is read as by SD.Next's own"
        return Reading("comfy", Outcome.APPROXIMATED, why)
    value = weights.SDNEXT_PARSERS[parser]
    return Reading(value, why=f"SD.Next weighs words in the way that emphasis {value} does here")


def _hires_model(text: str, source: Source) -> Reading | None:
    if text in {"", "Use same checkpoint"}:
        return None
    titled = re.fullmatch(r"(.*?) \[([0-9a-f]{6,64})\]", text)
    return _found(stem(titled[1]), titled[2], source) if titled else _found(stem(text), "", source)


def _found(name: str, digest: str, source: Source) -> Reading | None:
    return found_model(name, digest, source.find_model) if name or digest else None


_MODEL = partial(_model, hash_key="model_hash")
_ZERO_IS_NONE = partial(_whole, none=0)
_EMPHASIS = {"original": "a1111", "no norm": "no_norm", "comfy": "comfy"}
_CONTENTS = {"fill": "fill", "original": "original", "latent noise": "latent_noise", "latent nothing": "latent_nothing"}
_SCHEDULE = partial(_noise_schedule, sampler="Sampler")
_LOWER_SCHEDULE = partial(_noise_schedule, sampler="sampler")

# fmt: off
MEANINGS: tuple[Meaning, ...] = (
    Meaning("model", partial(_model, hash_key="Model hash"), a1111="Model"),
    Meaning("model", partial(_model_by_hash, name_key="Model"), a1111="Model hash"),
    Meaning("model", _MODEL, comfyui="model", invokeai="model", novelai="model", swarmui="model"),
    Meaning("model", partial(_model, hash_key="base_model_hash"), fooocus="base_model"),
    Meaning("width", _whole,
            a1111="Size-1", comfyui="width", invokeai="width", fooocus="width", novelai="width", swarmui="width"),
    Meaning("height", _whole,
            a1111="Size-2", comfyui="height", invokeai="height", fooocus="height", novelai="height", swarmui="height"),
    Meaning("num_inference_steps", _whole,
            a1111="Steps", comfyui="steps", invokeai="steps", fooocus="steps", novelai="steps", swarmui="steps"),
    Meaning("guidance_scale", _number,
            a1111="CFG scale", comfyui="cfg", invokeai="cfg_scale", fooocus="guidance_scale", novelai="scale",
            swarmui="cfgscale"),
    Meaning("strength", partial(_strength, hires=False), a1111="Denoising strength", comfyui="denoise",
            swarmui="initimagecreativity"),
    Meaning("strength", _generation_strength, invokeai="strength", novelai="strength"),
    Meaning("scheduler", _scheduler,
            a1111="Sampler", comfyui="sampler_name", invokeai="scheduler", fooocus="sampler", novelai="sampler",
            swarmui="sampler"),
    Meaning("noise_schedule", _SCHEDULE, a1111="Schedule type"),
    Meaning("noise_schedule", _SCHEDULE, a1111="Sampler sigma"),
    Meaning("noise_schedule", partial(_noise_schedule, sampler="sampler_name"), comfyui="scheduler"),
    Meaning("noise_schedule", partial(_noise_schedule, sampler="scheduler"), invokeai="scheduler"),
    Meaning("noise_schedule", _LOWER_SCHEDULE, fooocus="scheduler", novelai="noise_schedule", swarmui="scheduler"),
    Meaning("seed", _seed,
            a1111="Seed", comfyui="seed", invokeai="seed", fooocus="seed", novelai="seed", swarmui="seed"),
    Meaning("seed", _seed, comfyui="noise_seed"),
    Meaning("noise_source", _noise_source,
            a1111="RNG", comfyui="noise", invokeai="rand_device", fooocus="noise", novelai="noise source",
            swarmui="noise"),
    Meaning("emphasis", partial(_chosen, choices=_EMPHASIS), a1111="Emphasis", comfyui="emphasis", invokeai="emphasis",
            swarmui="emphasis"),
    Meaning("emphasis", _parser, a1111="Parser"),
    Meaning("prompt_comments", partial(_chosen, choices={"true": True, "false": False}), a1111="Prompt comments"),
    Meaning("clip_skip", _whole, a1111="Clip skip", fooocus="clip_skip"),
    Meaning("clip_skip", partial(_whole, plus=1, none=0), invokeai="clip_skip"),
    Meaning("clip_skip", lambda text, source: _whole(text.removeprefix("-"), source), comfyui="stop_at_clip_layer"),
    Meaning("sigma_max", partial(_number, none=0), a1111="Schedule max sigma"),
    Meaning("sigma_min", partial(_number, none=0), a1111="Schedule min sigma"),
    Meaning("rho", partial(_number, none=0), a1111="Schedule rho"),
    Meaning("eta", _number, a1111="Eta"),
    Meaning("eta", _number, a1111="Eta DDIM"),
    Meaning("s_churn", _number, a1111="Sigma churn"),
    Meaning("s_tmin", _number, a1111="Sigma tmin"),
    Meaning("s_tmax", _number, a1111="Sigma tmax"),
    Meaning("s_noise", _number, a1111="Sigma noise"),
    Meaning("eta_noise_seed_delta", _ZERO_IS_NONE, a1111="ENSD"),
    Meaning("variation_seed", _seed, a1111="Variation seed"),
    Meaning("variation_strength", _number, a1111="Variation seed strength"),
    Meaning("variation_strength", _number, a1111="Variation strength"),
    Meaning("seed_resize_width", _ZERO_IS_NONE, a1111="Seed resize from-1"),
    Meaning("seed_resize_height", _ZERO_IS_NONE, a1111="Seed resize from-2"),
    Meaning("mask_blur_x", _number, a1111="Mask blur"),
    Meaning("mask_blur_y", _number, a1111="Mask blur"),
    Meaning("mask_blur_x", _number, a1111="Mask blur x"),
    Meaning("mask_blur_y", _number, a1111="Mask blur y"),
    Meaning("resize_mode", _text, a1111="Resize mode"),
    Meaning("step_rule", _text, a1111="Step rule", comfyui="step rule"),
    *(Meaning(TEMPLATES[field], _text, a1111=key) for field, key in TEMPLATE_KEYS.items()),
    Meaning("invert_mask", partial(_chosen, choices={"inpaint masked": False, "inpaint not masked": True}),
            a1111="Mask mode"),
    Meaning("masked_content", partial(_chosen, choices=_CONTENTS), a1111="Masked content"),
    Meaning("inpaint_area", partial(_chosen, choices={"whole picture": "whole_picture", "only masked": "only_masked"}),
            a1111="Inpaint area"),
    Meaning("mask_padding", _whole, a1111="Masked area padding"),
    Meaning("mask_mode", partial(_chosen, choices={"true": "soft", "false": "hard"}), a1111="Soft inpainting enabled"),
    Meaning("mask_mode", _text, a1111="Mask greys"),
    Meaning("soft_schedule_bias", _number, a1111="Soft inpainting schedule bias"),
    Meaning("soft_preservation", _number, a1111="Soft inpainting preservation strength"),
    Meaning("soft_contrast_boost", _number, a1111="Soft inpainting transition contrast boost"),
    Meaning("soft_mask_influence", _number, a1111="Soft inpainting mask influence"),
    Meaning("soft_difference_threshold", _number, a1111="Soft inpainting difference threshold"),
    Meaning("soft_difference_contrast", _number, a1111="Soft inpainting difference contrast"),
    Meaning("outpaint_left", _whole, a1111="Outpaint left"),
    Meaning("outpaint_top", _whole, a1111="Outpaint top"),
    Meaning("outpaint_right", _whole, a1111="Outpaint right"),
    Meaning("outpaint_bottom", _whole, a1111="Outpaint bottom"),
    Meaning("upscaler", _upscaler, a1111="Image upscaler"),
    Meaning("hires_scale", partial(_number, none=0), a1111="Hires upscale"),
    Meaning("hires_width", _ZERO_IS_NONE, a1111="Hires resize-1"),
    Meaning("hires_height", _ZERO_IS_NONE, a1111="Hires resize-2"),
    Meaning("hires_upscaler", _upscaler, a1111="Hires upscaler"),
    Meaning("hires_steps", _ZERO_IS_NONE, a1111="Hires steps"),
    Meaning("hires_strength", partial(_strength, hires=True), a1111="Denoising strength"),
    Meaning("hires_strength", _number, a1111="Hires strength"),
    Meaning("hires_scheduler", _scheduler, a1111="Hires sampler"),
    Meaning("hires_noise_schedule", _hires_noise_schedule, a1111="Hires schedule type"),
    Meaning("hires_guidance_scale", partial(_number, none=0), a1111="Hires CFG Scale"),
    Meaning("hires_prompt", _text, a1111="Hires prompt"),
    Meaning("hires_negative_prompt", _text, a1111="Hires negative prompt"),
    Meaning("hires_model", _hires_model, a1111="Hires checkpoint"),
    Meaning("tile_size", _whole, a1111="Tile size"),
    Meaning("tile_overlap", _whole, a1111="Tile overlap"),
)
# fmt: on

NOT_HERE: Mapping[str, str] = dict.fromkeys(
    ("VAE", "VAE hash", "vae", "vae_name"),
    "the model's own VAE decodes pictures here: where that is another, colours and fine details differ",
)
"""Keys of what cannot be asked here -> what that means for the picture."""

OWN_VAE = frozenset({"Automatic", "Default", "Default (model)"})
"""What a program calls the VAE of the model itself."""

SAYS_NOTHING: frozenset[str] = frozenset(
    {
        *ENLARGED,
        *(
            "Styles",
            "Version",
            "App",
            "Backend",
            "User",
            "Operations",
            "Pipeline",
            "Init image hash",
            "Lora hashes",
            "TI hashes",
            "Hashes",
            "Refine",
            "Hires force",
        ),
        *("Civitai resources", "Civitai metadata", "First pass size-1", "First pass size-2"),
        *("version", "metadata_scheme", "app_version", "model_hash", "base_model_hash", "vae_hash", "created_by"),
        *("swarm_version", "aspectratio"),
        *("styles", "prompt_expansion", "generation_mode", "request_type", "image", "type"),
    }
)
"""Keys that are read elsewhere or say nothing about the picture."""
