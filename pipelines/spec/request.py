"""What is asked: GenerationRequest. Bounds and descriptions stand here once.

OpenAPI, command-line help, browser hints and error messages are all read from these fields.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from pipelines.spec.fields import explained, field_rules
from pipelines.spec.hires import DEFAULT_STRENGTH
from pipelines.spec.lora_tags import parse_lora
from pipelines.spec.loras import LoraSpec
from pipelines.spec.schedulers import NOISE_SCHEDULES, SCHEDULERS, canonical_noise_schedule, canonical_scheduler
from pipelines.spec.templates import TEMPLATES, is_template
from pipelines.spec.upscalers import DEFAULT_UPSCALER, PICTURE_UPSCALERS, UPSCALERS, canonical_upscaler
from pipelines.spec.values import (
    MAX_IMAGES,
    MAX_LORAS,
    MAX_OUTPAINT,
    MAX_PROMPT_CHARACTERS,
    MAX_SEED,
    MAX_SIDE,
    MAX_SIGMA,
    MAX_STEPS,
    MAX_STYLES,
    MIN_SIDE,
    OTHER_NAMES,
    RANDOM_SEEDS,
    Emphasis,
    InpaintArea,
    InputId,
    MaskedContent,
    MaskMode,
    NoiseSource,
    OutputFormat,
    ResizeMode,
    Side,
    StepRule,
    StyleName,
    Task,
    Text,
)


class BaseRequest(BaseModel):
    """What a request and a resolved one have in common: frozen and strict, and their task follows from their fields."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @field_validator("loras", "styles", mode="before", check_fields=False)
    @classmethod
    def _list_of_several(cls, several: object) -> object:
        """JSON has lists, no tuples."""
        return tuple(several) if isinstance(several, list) else several

    @property
    def task(self) -> Task:
        """Follows from what is given: a mask or a side to outpaint means inpaint, an image alone image-to-image."""
        if getattr(self, "mask_image", None) is not None or any(self.margins):
            return Task.INPAINT
        return Task.TEXT_TO_IMAGE if getattr(self, "init_image", None) is None else Task.IMAGE_TO_IMAGE

    @property
    def margins(self) -> tuple[int, int, int, int]:
        """How far the picture grows to the left, top, right and bottom (outpaint), in pixels of the input."""
        left, top, right, bottom = (getattr(self, f"outpaint_{side}") for side in ("left", "top", "right", "bottom"))
        return left, top, right, bottom

    def grown(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return width and height of an input once its margins are added."""
        left, top, right, bottom = self.margins
        return left + size[0] + right, top + size[1] + bottom


class GenerationRequest(BaseRequest):
    """All that a user can ask. None means the default of the model's family."""

    prompt: str = Field(default="", max_length=MAX_PROMPT_CHARACTERS, description="What the picture shows.")
    negative_prompt: str | None = Field(
        default=None, max_length=MAX_PROMPT_CHARACTERS, description="What the picture should not show."
    )
    styles: tuple[StyleName, ...] = Field(
        default=(),
        max_length=MAX_STYLES,
        description="Styles of styles.csv to apply to the prompts, in this order: each is put around a prompt or "
        "behind it. A prompt with a template holds them already.",
    )
    model: str | None = Field(default=None, min_length=1, max_length=256, description="Name of an installed model.")
    loras: tuple[LoraSpec, ...] = Field(
        default=(),
        max_length=MAX_LORAS,
        description="LoRAs to apply: a name, or as in a prompt's tag, such as pixel-art:0.8, or the parts by name.",
    )
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
        ge=0,
        le=1,
        description="How much of the input image is repainted (denoising strength). 1 ignores it, 0 only resizes it. "
        "Empty: the model's, or 1 with outpaint.",
    )
    step_rule: StepRule = Field(
        default="a1111",
        description="Steps with an input image: a1111 runs the share that strength leaves, exact runs all of them.",
    )
    resize_mode: ResizeMode = Field(
        default="crop",
        description="An input image of another shape is stretched, cropped, or filled up. latent stretches latents.",
    )
    upscaler: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description=f"What enlarges an input image without a mask: {', '.join(PICTURE_UPSCALERS)}, or a file of "
        "upscalers/. Empty: lanczos.",
    )
    invert_mask: bool = Field(default=False, description="Repaint what is black in the mask, and keep what is white.")
    mask_blur_x: float = Field(default=4.0, ge=0, le=64, description="Soften the mask sideways, in pixels.")
    mask_blur_y: float = Field(default=4.0, ge=0, le=64, description="Soften the mask up and down, in pixels.")
    masked_content: MaskedContent = Field(
        default="original", description="What the masked part starts from: itself, colours around it, noise, nothing."
    )
    inpaint_area: InpaintArea = Field(
        default="whole_picture",
        description="Paint the whole picture at width × height, or only the masked region, enlarged to that size.",
    )
    mask_padding: int = Field(
        default=32, ge=0, le=256, description="Pixels around the masked region that only_masked looks at as well."
    )
    mask_mode: MaskMode = Field(
        default="hard",
        description="What greys of the mask mean: hard knows none, soft blends, differential says how much may change.",
    )
    soft_schedule_bias: float = Field(
        default=1.0,
        ge=0,
        le=8,
        description="Soft mask: above 1 greys keep more of the original in early steps, below 1 in late ones.",
    )
    soft_preservation: float = Field(
        default=0.5, ge=0, le=8, description="Soft mask: how strongly greys hold on to the original."
    )
    soft_contrast_boost: float = Field(
        default=4.0, ge=1, le=32, description="Soft mask: gives back the contrast that blending takes."
    )
    soft_mask_influence: float = Field(
        default=0.0, ge=0, le=1, description="Soft mask: how much the mask decides which original pixels come back."
    )
    soft_difference_threshold: float = Field(
        default=0.5, ge=0, le=8, description="Soft mask: what changes less than this gets its original pixels back."
    )
    soft_difference_contrast: float = Field(
        default=2.0, ge=0, le=8, description="Soft mask: how sharply original and new pixels are parted."
    )
    outpaint_left: int = Field(default=0, ge=0, le=MAX_OUTPAINT, description="Pixels to paint beyond the left edge.")
    outpaint_top: int = Field(default=0, ge=0, le=MAX_OUTPAINT, description="Pixels to paint beyond the top edge.")
    outpaint_right: int = Field(default=0, ge=0, le=MAX_OUTPAINT, description="Pixels to paint beyond the right edge.")
    outpaint_bottom: int = Field(
        default=0, ge=0, le=MAX_OUTPAINT, description="Pixels to paint beyond the bottom edge."
    )
    scheduler: str | None = Field(
        default=None, description=f"The sampler: {', '.join(SCHEDULERS)}. A1111's names are understood too."
    )
    noise_schedule: str | None = Field(
        default=None, description=f"How noise levels are spaced (schedule type in A1111): {', '.join(NOISE_SCHEDULES)}."
    )
    sigma_min: float | None = Field(
        default=None,
        gt=0,
        le=MAX_SIGMA,
        description="The last noise level before 0, for noise schedules that can be told. Empty: the model's own.",
    )
    sigma_max: float | None = Field(
        default=None,
        gt=0,
        le=MAX_SIGMA,
        description="The first noise level, for noise schedules that can be told. Empty: the model's own.",
    )
    rho: float | None = Field(
        default=None,
        gt=0,
        le=100,
        description="How strongly karras (7 of its own) and polyexponential (1) bend towards low noise levels.",
    )
    eta: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="How much fresh noise the scheduler adds at each step, if it adds any. Empty: its own measure.",
    )
    s_churn: float = Field(default=0.0, ge=0, le=100, description="Extra noise at each step of euler, heun and dpm2.")
    s_tmin: float = Field(default=0.0, ge=0, le=1000, description="The lowest noise level where s_churn acts.")
    s_tmax: float | None = Field(
        default=None, gt=0, le=1000, description="The highest noise level where s_churn acts. Empty: no limit."
    )
    s_noise: float = Field(
        default=1.0, ge=0, le=1.1, description="Strength of the noise that is added at each step, if any is."
    )
    clip_skip: int | None = Field(
        default=None,
        ge=1,
        le=12,
        description="Which layer of the text encoder is read, counted from its end (A1111's clip skip). 1 is the last.",
    )
    emphasis: Emphasis = Field(
        default="a1111",
        description="How weights like (word:1.2) act: as in A1111, without its normalisation, or as in ComfyUI.",
    )
    prompt_comments: bool = Field(
        default=True, description="In prompts, # and the rest of its line is a comment. Off: it is text."
    )
    seed: int | None = Field(
        default=None, ge=0, le=MAX_SEED, description="Same seed, same picture. Empty, or A1111's -1: a random one."
    )
    variation_seed: int | None = Field(
        default=None,
        ge=0,
        le=MAX_SEED,
        description="Noise to blend into the seed's. Needs variation_strength. Empty or -1: a random one.",
    )
    variation_strength: float = Field(
        default=0.0, ge=0, le=1, description="How much of variation_seed is blended in. 1 is all of it."
    )
    seed_resize_width: int | None = Field(
        default=None,
        ge=MIN_SIDE,
        le=MAX_SIDE,
        multiple_of=8,
        description="Compose as the seed does at this width.",
    )
    seed_resize_height: int | None = Field(
        default=None,
        ge=MIN_SIDE,
        le=MAX_SIDE,
        multiple_of=8,
        description="Compose as the seed does at this height.",
    )
    noise_source: NoiseSource = Field(
        default="cpu",
        description="Whose random numbers: the processor's, the device's, an NVIDIA card's (nv).",
    )
    eta_noise_seed_delta: int = Field(
        default=0, ge=0, le=2**31 - 1, description="Added to the seed for the noise within steps (ENSD in A1111)."
    )
    hires_scale: float | None = Field(
        default=None,
        ge=1,
        le=16,
        description="Enlarge the picture so many times and paint it again (hires fix), in multiples of 8 pixels.",
    )
    hires_width: Side | None = Field(
        default=None, description="Instead of hires_scale: the width. Alone keeps the shape."
    )
    hires_height: Side | None = Field(
        default=None, description="The height. With hires_width what overhangs is cropped."
    )
    hires_upscaler: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description=f"What enlarges it: {', '.join(UPSCALERS)}, or a file of upscalers/. Empty: {DEFAULT_UPSCALER}.",
    )
    hires_steps: int | None = Field(
        default=None,
        ge=1,
        le=MAX_STEPS,
        description="Steps of the second pass; all of them run. Empty: as in the first.",
    )
    hires_strength: float | None = Field(
        default=None, gt=0, le=1, description=f"How much of it is repainted then. Empty: {DEFAULT_STRENGTH}."
    )
    hires_scheduler: str | None = Field(default=None, description="The sampler then. Empty: the same.")
    hires_noise_schedule: str | None = Field(
        default=None, description="The noise schedule then. Empty: the same, if that sampler knows it."
    )
    hires_guidance_scale: float | None = Field(
        default=None, ge=1, le=50, description="How strictly the prompt is followed then. Empty: the same."
    )
    hires_prompt: Text | None = Field(default=None, description="What the picture shows then. Empty: the same.")
    hires_negative_prompt: Text | None = Field(
        default=None, description="What it should not show then. Empty: the same."
    )
    hires_model: str | None = Field(
        default=None, min_length=1, max_length=256, description="The installed model that paints then. Empty: the same."
    )
    tile_size: Side | None = Field(
        default=None,
        description="Denoise a larger picture in overlapping squares of so many pixels, so that memory does not grow "
        "with it (tiled diffusion). Empty: as a whole.",
    )
    tile_overlap: int | None = Field(
        default=None,
        ge=0,
        le=MAX_SIDE,
        multiple_of=8,
        description="Pixels that neighbouring tiles share, where one fades into the other. Empty: half of tile_size.",
    )
    num_images: int = Field(
        default=1,
        ge=1,
        le=MAX_IMAGES,
        description="How many pictures; image i uses seed + i, or variation_seed + i.",
    )
    output_format: OutputFormat = Field(default="png", description="File format. Only png is lossless.")
    template: str | None = Field(
        default=None,
        max_length=MAX_PROMPT_CHARACTERS,
        description="What the prompt was made from, kept as a note. With it the prompt is taken as it stands; without "
        "it styles are applied, and {a|b} and __wildcards__ expanded.",
    )
    negative_template: Text | None = Field(
        default=None, description="The same for the negative prompt: what it was made from."
    )
    hires_template: Text | None = Field(
        default=None, description="The same for the second pass's prompt: what it was made from."
    )
    hires_negative_template: Text | None = Field(
        default=None, description="The same for its negative prompt: what it was made from."
    )

    @field_validator(*TEMPLATES, *TEMPLATES.values())
    @classmethod
    def _text_holds_no_nul(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is not None and "\0" in text:
            raise ValueError(f"holds a NUL character at position {text.index(chr(0))}; remove it")
        return text

    @field_validator("loras", mode="before")
    @classmethod
    def _loras_in_words(cls, loras: object) -> object:
        """A text stands for the LoRA that it would be in a tag."""
        if not isinstance(loras, list | tuple):
            return loras
        return tuple(_lora_in_words(lora) if isinstance(lora, str) else lora for lora in loras)

    @field_validator("styles")
    @classmethod
    def _each_style_once(cls, styles: tuple[str, ...]) -> tuple[str, ...]:
        for name in styles:
            if styles.count(name) > 1:
                raise ValueError(f"names {name!r} twice; leave one out")
        return styles

    @field_validator("seed", "variation_seed", mode="before")
    @classmethod
    def _minus_one_is_random(cls, seed: object) -> object:
        return None if seed == -1 else seed

    @field_validator("scheduler", "hires_scheduler")
    @classmethod
    def _known_scheduler(cls, name: str | None) -> str | None:
        return None if name is None else canonical_scheduler(name)

    @field_validator("noise_schedule", "hires_noise_schedule")
    @classmethod
    def _known_noise_schedule(cls, name: str | None) -> str | None:
        return None if name is None else canonical_noise_schedule(name)

    @field_validator("hires_prompt", "hires_negative_prompt")
    @classmethod
    def _empty_is_the_same(cls, text: str | None) -> str | None:
        return text or None

    @field_validator("upscaler", "hires_upscaler")
    @classmethod
    def _upscaler_by_one_name(cls, name: str | None) -> str | None:
        return None if name is None else canonical_upscaler(name)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Build a request from outside data.

        Raises:
            InvalidRequest: naming the field, the value and the way out.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise explained(error, cls, other_names=OTHER_NAMES) from error

    @property
    def is_to_be_written_out(self) -> bool:
        """Whether a text of its own is a template still, or styles are to be applied."""
        texts = {field: getattr(self, field) for field, note in TEMPLATES.items() if getattr(self, note) is None}
        return bool(self.styles) or any(is_template(text or "") for text in texts.values())

    def with_seeds(self) -> Self:
        """Return the same request with drawn seeds where none were asked."""
        wanted = ["seed", "variation_seed"] if self.variation_strength else ["seed"]
        drawn = {name: secrets.randbelow(RANDOM_SEEDS) for name in wanted if getattr(self, name) is None}
        return self.model_copy(update=drawn) if drawn else self


def _lora_in_words(text: str) -> dict[str, Any]:
    try:
        return parse_lora(text)
    except ValueError as error:
        raise ValueError(f"names {text[:100]!r}: {error}") from error


def bounds(field: str) -> Mapping[str, Any]:
    """Return the JSON schema of one field of GenerationRequest: minimum, maximum, multipleOf, description, default."""
    return field_rules(GenerationRequest)[field]


def field_names() -> Iterator[str]:
    """Every field a user can set, in the order of declaration."""
    return iter(GenerationRequest.model_fields)
