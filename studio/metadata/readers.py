"""How a text of another program becomes the value of a field.

A reader returns None where there is nothing to say, and raises ValueError with a sentence where the text means nothing.
"""

import math
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pipelines.spec.schedulers import AUTOMATIC, NOISE_SCHEDULES, SCHEDULERS
from pipelines.spec.upscalers import INSTALL_SPANDREL, UPSCALERS, canonical_upscaler
from studio.metadata import a1111, vocabulary, weights
from studio.metadata.a1111_keys import ENLARGED
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


def whole_number(text: str, _: Source, *, plus: int = 0, none: int | None = None) -> Reading | None:
    """Read a whole number; `none` is the one that stands for "not set"."""
    try:
        value = int(text) if len(text) < 40 and text.strip("+-").isdecimal() else int(_finite(text))
    except ValueError as error:
        raise ValueError(f"is not a whole number: {shortened(text)}") from error
    return None if value == none else Reading(value + plus)


def seed(text: str, source: Source) -> Reading | None:
    """Read a seed; -1 asked for a random one, which is not said."""
    if text == "-1":
        raise ValueError("-1 stands for any seed, and the one that was drawn is not said")
    return whole_number(text, source)


def number(text: str, _: Source, *, none: float | None = None) -> Reading | None:
    """Read a finite number; `none` is the one that stands for "not set"."""
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


def as_it_is(text: str, _: Source) -> Reading | None:
    """Read a text that means the same here."""
    return Reading(text) if text else None


def choice(text: str, _: Source, *, choices: dict[str, Any]) -> Reading | None:
    """Read one of a few words, in any letter case."""
    if text.lower() not in choices:
        raise Lacking(f"there is no {shortened(text)} here; known are {', '.join(choices)}")
    return Reading(choices[text.lower()])


def scheduler(text: str, source: Source) -> Reading | None:
    """Read a sampler; one that is the same as that of the first pass is not said."""
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


def noise_schedule(text: str, source: Source, *, sampler: str) -> Reading | None:
    """Read a schedule type; `sampler` is the key of the sampler that it is for."""
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


def hires_noise_schedule(text: str, source: Source) -> Reading | None:
    """Read the schedule type of the hires pass: where it is the same and Automatic, another sampler takes its own."""
    has_sampler = source.foreign.get("Hires sampler") not in _SAME_SAMPLER
    if has_sampler and text in {"", "Use same scheduler"}:
        said = source.foreign.get("Schedule type")
        text = said if said.lower() in AUTOMATIC else text
    return noise_schedule(text, source, sampler="Hires sampler" if has_sampler else "Sampler")


def upscaler(text: str, source: Source) -> Reading | None:
    """Read an upscaler; nothing but its name says which model file was meant."""
    name = canonical_upscaler(vocabulary.UPSCALERS.get(text, text))
    if name in UPSCALERS:
        return Reading(name)
    file = vocabulary.UPSCALER_FILES.get(name, name)
    found = source.find_upscaler(name) or source.find_upscaler(file)
    if found is None:
        raise Lacking(
            f"no upscaler {shortened(name)} is installed: put {stem(file)[:60]}.safetensors into upscalers/, which "
            f"spandrel runs ({INSTALL_SPANDREL}), or choose one of {', '.join(UPSCALERS)}"
        )
    if found != stem(name):
        return Reading(found, Outcome.APPROXIMATED, f"{found} is called almost so; it may be another model")
    return Reading(found)


def strength(text: str, source: Source, *, hires: bool) -> Reading | None:
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


def generation_strength(text: str, source: Source) -> Reading | None:
    """InvokeAI and NovelAI may write a strength for every picture; it counts where there was an input."""
    mode = source.foreign.get("generation_mode", source.foreign.get("request_type", "img2img")).lower()
    return strength(text, source, hires=False) if "img2img" in mode or "inpaint" in mode else None


def noise_source(text: str, _: Source) -> Reading | None:
    """Read whose random numbers the noise is made of; a GPU is taken for one of NVIDIA."""
    match text.lower():
        case "cpu":
            return Reading("cpu")
        case "nv":
            return Reading("nv")
        case "device":
            return Reading("device")
    return Reading("nv", Outcome.APPROXIMATED, f"noise of an NVIDIA GPU; if it was another GPU, {OTHER_NOISE}")


def model(text: str, source: Source, *, hash_key: str) -> Reading | None:
    """Read a model by the hash that stands under a key, else by its name."""
    digest = source.foreign.pairs.get(hash_key, "")
    if source.foreign.format == "a1111":
        digest = digest or a1111.hashes(source.foreign.pairs, "Hashes").get("model", "")
    return _found(stem(text), digest, source)


def model_by_hash(text: str, source: Source, *, name_key: str) -> Reading | None:
    """Read a model of which only the hash is said."""
    return None if source.foreign.pairs.get(name_key) else _found("", text, source)


def sdnext_parser(text: str, source: Source) -> Reading | None:
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


def hires_model(text: str, source: Source) -> Reading | None:
    """Read the model of the second pass, as in "name [hash]"; the same one is not said."""
    if text in {"", "Use same checkpoint"}:
        return None
    titled = re.fullmatch(r"(.*?) \[([0-9a-f]{6,64})\]", text)
    return _found(stem(titled[1]), titled[2], source) if titled else _found(stem(text), "", source)


def _found(name: str, digest: str, source: Source) -> Reading | None:
    return found_model(name, digest, source.find_model) if name or digest else None
