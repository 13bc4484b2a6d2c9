"""What the fields of a request may hold: limits and choices, and what other programs call the fields."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

MAX_IMAGES = 100
MAX_SEED = 2**63 - 1
MAX_PROMPT_CHARACTERS = 8000
MIN_SIDE = 64
MAX_SIDE = 4096
MAX_STEPS = 200
MAX_LORAS = 20
MAX_STYLES = 20
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
        "style": "styles",
        "prompt_styles": "styles",
        "n": "num_images",
        "count": "num_images",
        "batch_size": "num_images",
        "n_iter": "num_images",
        "sd_model": "model",
        "subseed": "variation_seed",
        "subseed_strength": "variation_strength",
        "seed_resize_from_w": "seed_resize_width",
        "seed_resize_from_h": "seed_resize_height",
        "format": "output_format",
        "hr_scale": "hires_scale",
        "hr_resize_x": "hires_width",
        "hr_resize_y": "hires_height",
        "hr_upscaler": "hires_upscaler",
        "hr_second_pass_steps": "hires_steps",
    }
)
"""What other programs call a field: told to who tries it, and accepted only where such programs' files are read."""

InputId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS)]
StyleName = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Side = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE, multiple_of=8)]
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
