"""What is asked (GenerationRequest) and what will run (ResolvedRequest). Bounds and descriptions stand here once.

OpenAPI, command-line help, browser hints and error messages are all read from these fields.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, ValidationInfo, field_validator

from pipelines.spec.fields import explained, field_rules
from pipelines.spec.hires import DEFAULT_STRENGTH, Enlargement
from pipelines.spec.lora_tags import parse_lora
from pipelines.spec.loras import LoraSpec, ResolvedLora
from pipelines.spec.schedulers import NOISE_SCHEDULES, SCHEDULERS, canonical_noise_schedule, canonical_scheduler
from pipelines.spec.upscalers import DEFAULT_UPSCALER, PICTURE_UPSCALERS, UPSCALERS, canonical_upscaler

MAX_IMAGES = 100
MAX_SEED = 2**63 - 1
MAX_PROMPT_CHARACTERS = 8000
MIN_SIDE = 64
MAX_SIDE = 4096
MAX_STEPS = 200
MAX_LORAS = 20
MAX_SIGMA = 10_000
MAX_OUTPAINT = 2048
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
        "schedule_min_sigma": "sigma_min",
        "schedule_max_sigma": "sigma_max",
        "schedule_rho": "rho",
        "denoise": "strength",
        "denoising_strength": "strength",
        "negative": "negative_prompt",
        "checkpoint": "model",
        "image": "init_image",
        "input": "init_image",
        "mask": "mask_image",
        "size": "width and height",
        "lora": "loras",
        "n": "num_images",
        "count": "num_images",
        "batch_size": "num_images",
        "format": "output_format",
        "hr_scale": "hires_scale",
        "hr_resize_x": "hires_width",
        "hr_resize_y": "hires_height",
        "hr_upscaler": "hires_upscaler",
        "hr_second_pass_steps": "hires_steps",
    }
)
"""What other programs call a field: never accepted, but told to who tries it."""

InputId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS)]
Side = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE, multiple_of=8)]
_TEMPLATE = re.compile(r"\{[^{}]*\}|__\S+?__")
OutputFormat = Literal["png", "jpeg", "webp", "avif"]
Emphasis = Literal["a1111", "no_norm", "comfy"]
NoiseSource = Literal["cpu", "device", "nv"]
ResizeMode = Literal["stretch", "crop", "fill", "latent"]
StepRule = Literal["a1111", "exact"]
MaskedContent = Literal["original", "fill", "latent_noise", "latent_nothing"]
InpaintArea = Literal["whole_picture", "only_masked"]
MaskMode = Literal["hard", "soft", "differential"]


class Task(StrEnum):
    """What a request makes from what."""

    TEXT_TO_IMAGE = "text-to-image"
    IMAGE_TO_IMAGE = "image-to-image"
    INPAINT = "inpaint"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @field_validator("loras", mode="before", check_fields=False)
    @classmethod
    def _list_of_loras(cls, loras: object) -> object:
        """JSON has lists, no tuples."""
        return tuple(loras) if isinstance(loras, list) else loras

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


class GenerationRequest(_Frozen):
    """All that a user can ask. None means the default of the model's family."""

    prompt: str = Field(default="", max_length=MAX_PROMPT_CHARACTERS, description="What the picture shows.")
    negative_prompt: str | None = Field(
        default=None, max_length=MAX_PROMPT_CHARACTERS, description="What the picture should not show."
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
        description="How much fresh noise the scheduler adds at each step. Empty: its own measure.",
    )
    s_churn: float = Field(default=0.0, ge=0, le=100, description="Extra noise at each step of euler, heun and dpm2.")
    s_tmin: float = Field(default=0.0, ge=0, le=1000, description="The lowest noise level where s_churn acts.")
    s_tmax: float | None = Field(
        default=None, gt=0, le=1000, description="The highest noise level where s_churn acts. Empty: no limit."
    )
    s_noise: float = Field(default=1.0, ge=0, le=1.1, description="Strength of the noise that is added at each step.")
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
    seed: int | None = Field(
        default=None, ge=0, le=MAX_SEED, description="Same seed, same picture. Empty: a random one."
    )
    variation_seed: int | None = Field(
        default=None,
        ge=0,
        le=MAX_SEED,
        description="Noise to blend into the seed's. Needs variation_strength. Empty: a random one.",
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
    hires_prompt: Text | None = Field(
        default=None, description="What the picture shows then, as it stands (no templates). Empty: the same."
    )
    hires_negative_prompt: Text | None = Field(
        default=None, description="What it should not show then, as it stands. Empty: the same."
    )
    hires_model: str | None = Field(
        default=None, min_length=1, max_length=256, description="The installed model that paints then. Empty: the same."
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
        "it {a|b} and __wildcards__ are expanded.",
    )

    @field_validator("prompt", "negative_prompt", "hires_prompt", "hires_negative_prompt", "template")
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
    def is_template(self) -> bool:
        """Whether the prompt is still to be expanded; a brace without its partner is text."""
        return self.template is None and _TEMPLATE.search(self.prompt) is not None

    def with_seeds(self) -> Self:
        """Return the same request with drawn seeds where none were asked."""
        wanted = ["seed", "variation_seed"] if self.variation_strength else ["seed"]
        drawn = {name: secrets.randbelow(RANDOM_SEEDS) for name in wanted if getattr(self, name) is None}
        return self.model_copy(update=drawn) if drawn else self


class ResolvedRequest(_Frozen):
    """One picture, exactly as it will run: nothing is left to a default.

    What is None here is not used: images and strength by the task, a variation, another size of the seed, a limit, the
    template where the prompt came from none, and all of the second pass unless a size asks for it. Where there is one,
    prompts and model that are None are the first pass's.
    """

    prompt: str
    negative_prompt: str
    model: str
    loras: tuple[ResolvedLora, ...] = ()
    init_image: InputId | None
    mask_image: InputId | None
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    strength: float | None
    step_rule: StepRule
    resize_mode: ResizeMode
    upscaler: str | None
    invert_mask: bool
    mask_blur_x: float
    mask_blur_y: float
    masked_content: MaskedContent
    inpaint_area: InpaintArea
    mask_padding: int
    mask_mode: MaskMode
    soft_schedule_bias: float
    soft_preservation: float
    soft_contrast_boost: float
    soft_mask_influence: float
    soft_difference_threshold: float
    soft_difference_contrast: float
    outpaint_left: int
    outpaint_top: int
    outpaint_right: int
    outpaint_bottom: int
    scheduler: str
    noise_schedule: str
    sigma_min: float | None
    sigma_max: float | None
    rho: float | None
    eta: float
    s_churn: float
    s_tmin: float
    s_tmax: float | None
    s_noise: float
    clip_skip: int
    emphasis: Emphasis
    seed: int
    variation_seed: int | None
    variation_strength: float
    seed_resize_width: int | None
    seed_resize_height: int | None
    noise_source: NoiseSource
    eta_noise_seed_delta: int
    hires_scale: float | None
    hires_width: int | None
    hires_height: int | None
    hires_upscaler: str | None
    hires_steps: int | None
    hires_strength: float | None
    hires_scheduler: str | None
    hires_noise_schedule: str | None
    hires_guidance_scale: float | None
    hires_prompt: str | None
    hires_negative_prompt: str | None
    hires_model: str | None
    output_format: OutputFormat
    template: str | None = None
    embeddings: Mapping[str, str] = Field(default_factory=dict)
    """The embeddings that the prompts name, and the SHA-256 of their files; the LoRA's, where one brings it."""

    @property
    def enlargement(self) -> Enlargement | None:
        """The sizes of the second pass, if there is one."""
        scale, width, height = self.hires_scale, self.hires_width, self.hires_height
        if scale is None and width is None and height is None:
            return None
        return Enlargement.of(self.width, self.height, scale=scale, to_width=width, to_height=height)

    @property
    def final_size(self) -> tuple[int, int]:
        """Width and height of the last pass."""
        size = self.enlargement
        return (self.width, self.height) if size is None else (size.width, size.height)

    def asked(self) -> GenerationRequest:
        """Return the request that makes exactly this picture again.

        Raises:
            InvalidRequest: this came from a foreign record and holds what nobody can ask.
        """
        loras = tuple(lora.asked() for lora in self.loras)
        return GenerationRequest.parse({**self.model_dump(exclude={"embeddings"}), "loras": loras, "num_images": 1})


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
