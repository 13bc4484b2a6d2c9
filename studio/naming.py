"""File names from patterns in A1111's words: "[date]/[seed]-[prompt_words]" -> a relative path that stays where it is.

Knows neither disk nor database: whether the name is still free is the gallery's business.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pipelines.spec.schedulers import NOISE_SCHEDULES, SCHEDULERS

if TYPE_CHECKING:
    from pipelines.spec.engine import GeneratedImage
    from pipelines.spec.resolved import ResolvedRequest

DEFAULT_PATTERN = "[date]/[seed]-[job]-[index]"
"""The one pattern whose names are known to be free: job and index are in it, and nothing long."""
MAX_FOLDERS = 3
MAX_PART_CHARACTERS = 128
MAX_PART_BYTES = 200
"""File systems take 255, and a counter, an ending and a temporary name need room."""

_TOKEN = re.compile(r"\[([a-z_]+)((?:<[^<>]*>)*)\]")
_FORBIDDEN = frozenset('<>:"/\\|?*')
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)\s*(\..*)?", re.IGNORECASE)
_WORDS = 8
_HASH_DIGITS = 8
_MODEL_HASH_DIGITS = 10
_MOMENT = "%Y%m%d%H%M%S"


@dataclass(frozen=True)
class Named:
    """A picture that needs a name; the same one always gets the same."""

    generated: "GeneratedImage"
    job_id: str
    num_images: int
    created_at: float
    """When the job was submitted, in seconds since the epoch: all dates in a name are of this moment."""


def check(pattern: str) -> None:
    """Refuse a pattern that cannot name files.

    Raises:
        ValueError: saying why.
    """
    parts = [part for part in pattern.split("/") if part]
    if not parts:
        raise ValueError("is empty; the default is " + DEFAULT_PATTERN)
    if len(parts) > MAX_FOLDERS + 1:
        raise ValueError(f"names {len(parts) - 1} folders, and {MAX_FOLDERS} is the most")
    for name, arguments in _TOKEN.findall(pattern):
        if name == "datetime":
            _moment(0.0, _arguments(arguments))


def relative_path(pattern: str, named: Named) -> str:
    """Return folder and file name without its ending, with / between.

    Whatever pattern and prompt hold, every part is a plain name that Linux, macOS and Windows can store.
    """
    pieces: list[str] = []
    position = 0
    for token in _TOKEN.finditer(pattern):
        literal, position = pattern[position : token.start()], token.end()
        value = _value(token, named)
        if value is None:  # as in A1111: what leads to an empty token goes with it, but never a folder
            pieces.append("".join(literal.rpartition("/")[:2]))
        else:
            pieces += [literal, value]
    pieces.append(pattern[position:])
    *folders, name = "".join(pieces).split("/")[: MAX_FOLDERS + 1]
    parts = [part for part in map(_part, folders) if part]
    return "/".join([*parts, _part(name) or str(named.generated.request.seed)])


def _value(token: "re.Match[str]", named: Named) -> str | None:
    make = _TOKENS.get(token[1])
    if make is None:
        return token[0]  # unknown tokens stay as they are
    value = make(named, _arguments(token[2]))
    return None if value is None else "".join("_" if char == "/" else char for char in value)


def _arguments(text: str) -> list[str]:
    return re.findall(r"<([^<>]*)>", text)


def _part(text: str) -> str:
    """Return a text as the name of one file or folder; empty when nothing of it can stand in one."""
    plain = "".join(char if char.isprintable() and char not in _FORBIDDEN else "_" for char in text)
    plain = plain.lstrip(" .")[:MAX_PART_CHARACTERS]
    plain = plain.encode()[:MAX_PART_BYTES].decode(errors="ignore").rstrip(" .")
    return f"_{plain}" if _RESERVED.fullmatch(plain) else plain


def _moment(seconds: float, arguments: list[str]) -> str:
    """Format a time: <format> as in strftime, then <time zone>.

    Raises:
        ValueError: the format or the zone is unknown.
    """
    form, zone = [*arguments, "", ""][:2]
    place: tzinfo | None = None
    if zone:
        try:
            place = ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(
                f"names the time zone {zone!r}, which is unknown; say for example Europe/Berlin"
            ) from error
    moment = datetime.fromtimestamp(seconds, tz=place) if place else datetime.fromtimestamp(seconds).astimezone()
    try:
        return moment.strftime(form or _MOMENT)
    except (ValueError, UnicodeError) as error:
        raise ValueError(f"holds the time format {form!r}, which cannot be written: {error}") from error


def _digest(data: bytes, arguments: list[str]) -> str:
    digits = int(arguments[0]) if arguments and arguments[0].isdecimal() else _HASH_DIGITS
    return hashlib.sha256(data).hexdigest()[: max(1, digits)]


def _text_digest(text: str, arguments: list[str]) -> str:
    return _digest(text.encode(), arguments)


def _sampling(named: Named, _: list[str]) -> str:
    request = named.generated.request
    return f"{SCHEDULERS[request.scheduler].label} {NOISE_SCHEDULES[request.noise_schedule]}"


def _denoising(request: "ResolvedRequest") -> str | None:
    """Return the strength; that of the second pass if there is one."""
    strength = request.hires_strength if request.strength is None else request.strength
    return None if strength is None else f"{strength:g}"


def _of_several(number: int, named: Named) -> str | None:
    return str(number) if named.num_images > 1 else None


def _if_in_prompt(named: Named, arguments: list[str]) -> str:
    """Each <word|otherwise> gives the word if the prompt holds it."""
    prompt = named.generated.request.prompt.lower()
    choices = (argument.partition("|") for argument in arguments)
    return "".join(word if word and word.lower() in prompt else otherwise for word, _, otherwise in choices)


def _without_styles(named: Named) -> str:
    """Return the prompt; if it was styled, what was typed."""
    request = named.generated.request
    return (request.template or "" if request.styles else request.prompt).strip()


def _words(prompt: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", re.sub(r"<[^>]*>", "", prompt))[:_WORDS])


_TOKENS: Mapping[str, Callable[[Named, list[str]], str | None]] = {
    "job": lambda named, _: named.job_id,
    "index": lambda named, _: f"{named.generated.index:02d}",
    "seed": lambda named, _: str(named.generated.request.seed),
    "seed_first": lambda named, _: str(named.generated.request.seed - named.generated.index),
    "seed_last": lambda named, _: str(named.generated.request.seed - named.generated.index + named.num_images - 1),
    "steps": lambda named, _: str(named.generated.request.num_inference_steps),
    "cfg": lambda named, _: f"{named.generated.request.guidance_scale:g}",
    "width": lambda named, _: str(named.generated.image.width),
    "height": lambda named, _: str(named.generated.image.height),
    "denoising": lambda named, _: _denoising(named.generated.request),
    "styles": lambda named, _: ", ".join(named.generated.request.styles) or "None",
    "sampler": lambda named, _: SCHEDULERS[named.generated.request.scheduler].label,
    "scheduler": lambda named, _: NOISE_SCHEDULES[named.generated.request.noise_schedule],
    "sampler_scheduler": _sampling,
    "model_name": lambda named, _: named.generated.request.model,
    "date": lambda named, _: _moment(named.created_at, ["%Y-%m-%d"]),
    "datetime": lambda named, arguments: _moment(named.created_at, arguments),
    "job_timestamp": lambda named, _: _moment(named.created_at, []),
    "prompt": lambda named, _: named.generated.request.prompt.strip().replace(" ", "_")[:MAX_PART_CHARACTERS],
    "prompt_spaces": lambda named, _: named.generated.request.prompt.strip()[:MAX_PART_CHARACTERS],
    "prompt_words": lambda named, _: _words(named.generated.request.prompt)[:MAX_PART_CHARACTERS],
    "prompt_hash": lambda named, arguments: _text_digest(named.generated.request.prompt, arguments),
    "negative_prompt_hash": lambda named, arguments: _text_digest(named.generated.request.negative_prompt, arguments),
    "full_prompt_hash": lambda named, arguments: _text_digest(
        f"{named.generated.request.prompt} {named.generated.request.negative_prompt}", arguments
    ),
    "image_hash": lambda named, arguments: _digest(named.generated.image.tobytes(), arguments),
    "batch_number": lambda named, _: _of_several(named.generated.index + 1, named),
    "generation_number": lambda named, _: _of_several(named.generated.index + 1, named),
    "batch_size": lambda named, _: str(named.num_images),
    "hasprompt": _if_in_prompt,
    "none": lambda *_: "",
    # What has no meaning here yet: these give what A1111 gives where it knows none.
    "basename": lambda *_: "",
    "user": lambda *_: "",
    "prompt_no_styles": lambda named, _: _without_styles(named).replace(" ", "_")[:MAX_PART_CHARACTERS],
    "model_hash": lambda named, _: str(named.generated.provenance.get("model_hash", ""))[:_MODEL_HASH_DIGITS],
    "vae_filename": lambda *_: "",
    "clip_skip": lambda named, _: str(named.generated.request.clip_skip),
}
