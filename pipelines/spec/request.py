"""What is asked (GenerationRequest) and what will run (ResolvedRequest). Bounds and descriptions stand here once.

OpenAPI, command-line help, browser hints and error messages are all read from these fields.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, ValidationInfo, field_validator

from pipelines.spec.errors import InvalidRequest
from pipelines.spec.schedulers import NOISE_SCHEDULES, SCHEDULERS, canonical_noise_schedule, canonical_scheduler

MAX_IMAGES = 100
MAX_SEED = 2**63 - 1
MAX_PROMPT_CHARACTERS = 8000
MIN_SIDE = 64
MAX_SIDE = 4096
MAX_STEPS = 200
RANDOM_SEEDS = 2**32
"""Seeds drawn for the user stay below this, so that every other program can type them."""

OTHER_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "steps": "num_inference_steps",
        "cfg": "guidance_scale",
        "cfg_scale": "guidance_scale",
        "guidance": "guidance_scale",
        "sampler": "scheduler",
        "sampler_name": "scheduler",
        "schedule_type": "noise_schedule",
        "denoise": "strength",
        "denoising_strength": "strength",
        "negative": "negative_prompt",
        "checkpoint": "model",
        "image": "init_image",
        "input": "init_image",
        "mask": "mask_image",
        "size": "width and height",
        "n": "num_images",
        "count": "num_images",
        "batch_size": "num_images",
        "format": "output_format",
    }
)
"""What other programs call a field: never accepted, but told to who tries it."""

InputId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
OutputFormat = Literal["png", "jpeg", "webp", "avif"]


class Task(StrEnum):
    """What a request makes from what."""

    TEXT_TO_IMAGE = "text-to-image"
    IMAGE_TO_IMAGE = "image-to-image"
    INPAINT = "inpaint"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @property
    def task(self) -> Task:
        """Follows from the images given: a mask means inpaint, an image alone image-to-image."""
        if getattr(self, "mask_image", None) is not None:
            return Task.INPAINT
        return Task.TEXT_TO_IMAGE if getattr(self, "init_image", None) is None else Task.IMAGE_TO_IMAGE


class GenerationRequest(_Frozen):
    """All that a user can ask. None means the default of the model's family."""

    prompt: str = Field(default="", max_length=MAX_PROMPT_CHARACTERS, description="What the picture shows.")
    negative_prompt: str | None = Field(
        default=None, max_length=MAX_PROMPT_CHARACTERS, description="What the picture should not show."
    )
    model: str | None = Field(default=None, min_length=1, max_length=256, description="Name of an installed model.")
    init_image: InputId | None = Field(
        default=None, description="Start from this image (image-to-image). The id of a stored input."
    )
    mask_image: InputId | None = Field(
        default=None, description="White is repainted, black is kept (inpaint). The id of a stored input."
    )
    width: int | None = Field(default=None, ge=MIN_SIDE, le=MAX_SIDE, multiple_of=8, description="Width in pixels.")
    height: int | None = Field(default=None, ge=MIN_SIDE, le=MAX_SIDE, multiple_of=8, description="Height in pixels.")
    num_inference_steps: int | None = Field(
        default=None, ge=1, le=MAX_STEPS, description="Denoising steps: more is slower and finer."
    )
    guidance_scale: float | None = Field(
        default=None,
        ge=1,
        le=50,
        description="How strictly the prompt is followed (CFG scale in A1111). 1 turns it off.",
    )
    strength: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="How much of the input image is repainted (denoising strength). 1 ignores it.",
    )
    scheduler: str | None = Field(
        default=None, description=f"The sampler: {', '.join(SCHEDULERS)}. A1111's names are understood too."
    )
    noise_schedule: str | None = Field(
        default=None, description=f"How noise levels are spaced (schedule type in A1111): {', '.join(NOISE_SCHEDULES)}."
    )
    seed: int | None = Field(
        default=None, ge=0, le=MAX_SEED, description="Same seed, same picture. Empty: a random one."
    )
    num_images: int = Field(default=1, ge=1, le=MAX_IMAGES, description="How many pictures; image i uses seed + i.")
    output_format: OutputFormat = Field(default="png", description="File format. Only png is lossless.")

    @field_validator("prompt", "negative_prompt")
    @classmethod
    def _text_holds_no_nul(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is not None and "\0" in text:
            raise ValueError(f"holds a NUL character at position {text.index(chr(0))}; remove it")
        return text

    @field_validator("scheduler")
    @classmethod
    def _known_scheduler(cls, name: str | None) -> str | None:
        return None if name is None else canonical_scheduler(name)

    @field_validator("noise_schedule")
    @classmethod
    def _known_noise_schedule(cls, name: str | None) -> str | None:
        return None if name is None else canonical_noise_schedule(name)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Build a request from outside data.

        Raises:
            InvalidRequest: naming the field, the value and the way out.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise _explained(error) from error

    def with_seed(self) -> Self:
        """Return the same request with a drawn seed where none was asked."""
        return self if self.seed is not None else self.model_copy(update={"seed": secrets.randbelow(RANDOM_SEEDS)})


class ResolvedRequest(_Frozen):
    """One picture, exactly as it will run: nothing is left to a default.

    `init_image`, `mask_image` and `strength` are None only where the task has no use for them.
    """

    prompt: str
    negative_prompt: str
    model: str
    init_image: InputId | None
    mask_image: InputId | None
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    strength: float | None
    scheduler: str
    noise_schedule: str
    seed: int
    output_format: OutputFormat

    def asked(self) -> GenerationRequest:
        """Return the request that makes exactly this picture again.

        Raises:
            InvalidRequest: this came from a foreign record and holds what nobody can ask.
        """
        return GenerationRequest.parse({**self.model_dump(), "num_images": 1})


def bounds(field: str) -> dict[str, Any]:
    """Return the JSON schema of one field of GenerationRequest: minimum, maximum, multipleOf, description, default."""
    schema: dict[str, Any] = _schema()["properties"][field]
    for variant in schema.get("anyOf", ()):
        if variant.get("type") != "null":
            schema = {**schema, **variant}
    return schema


@cache
def _schema() -> dict[str, Any]:
    return GenerationRequest.model_json_schema()


def field_names() -> Iterator[str]:
    """Every field a user can set, in the order of declaration."""
    return iter(GenerationRequest.model_fields)


def _explained(error: ValidationError) -> InvalidRequest:
    """Turn pydantic's first complaint into one sentence with the field, the value and the way out."""
    first = error.errors(include_url=False)[0]
    field = str(first["loc"][0]) if first["loc"] else None
    value, context = first["input"], first.get("ctx", {})
    match first["type"]:
        case "extra_forbidden":
            name = OTHER_NAMES.get(str(field))
            way_out = f"say {name}" if name else f"the fields are {', '.join(field_names())}"
            return InvalidRequest(f"{field} is not a field of a request; {way_out}")
        case "missing":
            return InvalidRequest(f"{field} is missing", field=field)
        case "value_error":
            return InvalidRequest(f"{field} {context['error']}", field=field)
        case "multiple_of":
            step = context["multiple_of"]
            below = int(value) // step * step
            near = sorted({min(max(side, MIN_SIDE), MAX_SIDE) for side in (below, below + step)})
            tries = " or ".join(map(str, near))
            return InvalidRequest(
                f"{field} must be a multiple of {step}, got {_short(value)}; try {tries}", field=field
            )
        case "string_unicode":
            return InvalidRequest(
                f"{field} holds half of a surrogate pair, got {_short(value)}; remove it", field=field
            )
        case "finite_number":
            return InvalidRequest(f"{field} must be a finite number, got {value}", field=field)
        case "string_pattern_mismatch":
            return InvalidRequest(
                f"{field} must be the id of a stored input (64 hexadecimal digits), got {_short(value)}; "
                "store the image first",
                field=field,
            )
    rules = bounds(field) if field in GenerationRequest.model_fields else {}
    if first["type"].startswith(("greater_than", "less_than")):
        low = f"above {rules['exclusiveMinimum']}" if "exclusiveMinimum" in rules else f"at least {rules['minimum']}"
        return InvalidRequest(f"{field} must be {low} and at most {rules['maximum']}, got {_short(value)}", field=field)
    return InvalidRequest(f"{field}: {first['msg'].lower()}, got {_short(value)}", field=field)


def _short(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 200:  # Python refuses to print numbers of 4300 digits
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
