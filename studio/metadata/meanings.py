"""The table: what each program's key means in a request of ours, or for the picture where there is nothing like it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from pipelines.spec.templates import TEMPLATES
from studio.metadata import readers
from studio.metadata.a1111_keys import ENLARGED, TEMPLATE_KEYS
from studio.metadata.foreign import Foreign
from studio.metadata.readers import Reader


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


_MODEL = partial(readers.model, hash_key="model_hash")
_ZERO_IS_NONE = partial(readers.whole_number, none=0)
_EMPHASIS = {"original": "a1111", "no norm": "no_norm", "comfy": "comfy"}
_CONTENTS = {"fill": "fill", "original": "original", "latent noise": "latent_noise", "latent nothing": "latent_nothing"}
_AREAS = {"whole picture": "whole_picture", "only masked": "only_masked"}
_SCHEDULE = partial(readers.noise_schedule, sampler="Sampler")
_LOWER_SCHEDULE = partial(readers.noise_schedule, sampler="sampler")

# fmt: off
MEANINGS: tuple[Meaning, ...] = (
    Meaning("model", partial(readers.model, hash_key="Model hash"), a1111="Model"),
    Meaning("model", partial(readers.model_by_hash, name_key="Model"), a1111="Model hash"),
    Meaning("model", _MODEL, comfyui="model", invokeai="model", novelai="model", swarmui="model"),
    Meaning("model", partial(readers.model, hash_key="base_model_hash"), fooocus="base_model"),
    Meaning("width", readers.whole_number,
            a1111="Size-1", comfyui="width", invokeai="width", fooocus="width", novelai="width", swarmui="width"),
    Meaning("height", readers.whole_number,
            a1111="Size-2", comfyui="height", invokeai="height", fooocus="height", novelai="height", swarmui="height"),
    Meaning("num_inference_steps", readers.whole_number,
            a1111="Steps", comfyui="steps", invokeai="steps", fooocus="steps", novelai="steps", swarmui="steps"),
    Meaning("guidance_scale", readers.number,
            a1111="CFG scale", comfyui="cfg", invokeai="cfg_scale", fooocus="guidance_scale", novelai="scale",
            swarmui="cfgscale"),
    Meaning("strength", partial(readers.strength, hires=False), a1111="Denoising strength", comfyui="denoise",
            swarmui="initimagecreativity"),
    Meaning("strength", readers.generation_strength, invokeai="strength", novelai="strength"),
    Meaning("scheduler", readers.scheduler,
            a1111="Sampler", comfyui="sampler_name", invokeai="scheduler", fooocus="sampler", novelai="sampler",
            swarmui="sampler"),
    Meaning("noise_schedule", _SCHEDULE, a1111="Schedule type"),
    Meaning("noise_schedule", _SCHEDULE, a1111="Sampler sigma"),
    Meaning("noise_schedule", partial(readers.noise_schedule, sampler="sampler_name"), comfyui="scheduler"),
    Meaning("noise_schedule", partial(readers.noise_schedule, sampler="scheduler"), invokeai="scheduler"),
    Meaning("noise_schedule", _LOWER_SCHEDULE, fooocus="scheduler", novelai="noise_schedule", swarmui="scheduler"),
    Meaning("seed", readers.seed,
            a1111="Seed", comfyui="seed", invokeai="seed", fooocus="seed", novelai="seed", swarmui="seed"),
    Meaning("seed", readers.seed, comfyui="noise_seed"),
    Meaning("noise_source", readers.noise_source,
            a1111="RNG", comfyui="noise", invokeai="rand_device", fooocus="noise", novelai="noise source",
            swarmui="noise"),
    Meaning("emphasis", partial(readers.choice, choices=_EMPHASIS),
            a1111="Emphasis", comfyui="emphasis", invokeai="emphasis", swarmui="emphasis"),
    Meaning("emphasis", readers.sdnext_parser, a1111="Parser"),
    Meaning("prompt_comments", partial(readers.choice, choices={"true": True, "false": False}),
            a1111="Prompt comments"),
    Meaning("clip_skip", readers.whole_number, a1111="Clip skip", fooocus="clip_skip"),
    Meaning("clip_skip", partial(readers.whole_number, plus=1, none=0), invokeai="clip_skip"),
    Meaning("clip_skip", lambda text, source: readers.whole_number(text.removeprefix("-"), source),
            comfyui="stop_at_clip_layer"),
    Meaning("sigma_max", partial(readers.number, none=0), a1111="Schedule max sigma"),
    Meaning("sigma_min", partial(readers.number, none=0), a1111="Schedule min sigma"),
    Meaning("rho", partial(readers.number, none=0), a1111="Schedule rho"),
    Meaning("eta", readers.number, a1111="Eta"),
    Meaning("eta", readers.number, a1111="Eta DDIM"),
    Meaning("s_churn", readers.number, a1111="Sigma churn"),
    Meaning("s_tmin", readers.number, a1111="Sigma tmin"),
    Meaning("s_tmax", readers.number, a1111="Sigma tmax"),
    Meaning("s_noise", readers.number, a1111="Sigma noise"),
    Meaning("eta_noise_seed_delta", _ZERO_IS_NONE, a1111="ENSD"),
    Meaning("variation_seed", readers.seed, a1111="Variation seed"),
    Meaning("variation_strength", readers.number, a1111="Variation seed strength"),
    Meaning("variation_strength", readers.number, a1111="Variation strength"),
    Meaning("seed_resize_width", _ZERO_IS_NONE, a1111="Seed resize from-1"),
    Meaning("seed_resize_height", _ZERO_IS_NONE, a1111="Seed resize from-2"),
    Meaning("mask_blur_x", readers.number, a1111="Mask blur"),
    Meaning("mask_blur_y", readers.number, a1111="Mask blur"),
    Meaning("mask_blur_x", readers.number, a1111="Mask blur x"),
    Meaning("mask_blur_y", readers.number, a1111="Mask blur y"),
    Meaning("resize_mode", readers.as_it_is, a1111="Resize mode"),
    Meaning("step_rule", readers.as_it_is, a1111="Step rule", comfyui="step rule"),
    *(Meaning(TEMPLATES[field], readers.as_it_is, a1111=key) for field, key in TEMPLATE_KEYS.items()),
    Meaning("invert_mask", partial(readers.choice, choices={"inpaint masked": False, "inpaint not masked": True}),
            a1111="Mask mode"),
    Meaning("masked_content", partial(readers.choice, choices=_CONTENTS), a1111="Masked content"),
    Meaning("inpaint_area", partial(readers.choice, choices=_AREAS), a1111="Inpaint area"),
    Meaning("mask_padding", readers.whole_number, a1111="Masked area padding"),
    Meaning("mask_mode", partial(readers.choice, choices={"true": "soft", "false": "hard"}),
            a1111="Soft inpainting enabled"),
    Meaning("mask_mode", readers.as_it_is, a1111="Mask greys"),
    Meaning("soft_schedule_bias", readers.number, a1111="Soft inpainting schedule bias"),
    Meaning("soft_preservation", readers.number, a1111="Soft inpainting preservation strength"),
    Meaning("soft_contrast_boost", readers.number, a1111="Soft inpainting transition contrast boost"),
    Meaning("soft_mask_influence", readers.number, a1111="Soft inpainting mask influence"),
    Meaning("soft_difference_threshold", readers.number, a1111="Soft inpainting difference threshold"),
    Meaning("soft_difference_contrast", readers.number, a1111="Soft inpainting difference contrast"),
    Meaning("outpaint_left", readers.whole_number, a1111="Outpaint left"),
    Meaning("outpaint_top", readers.whole_number, a1111="Outpaint top"),
    Meaning("outpaint_right", readers.whole_number, a1111="Outpaint right"),
    Meaning("outpaint_bottom", readers.whole_number, a1111="Outpaint bottom"),
    Meaning("upscaler", readers.upscaler, a1111="Image upscaler"),
    Meaning("hires_scale", partial(readers.number, none=0), a1111="Hires upscale"),
    Meaning("hires_width", _ZERO_IS_NONE, a1111="Hires resize-1"),
    Meaning("hires_height", _ZERO_IS_NONE, a1111="Hires resize-2"),
    Meaning("hires_upscaler", readers.upscaler, a1111="Hires upscaler"),
    Meaning("hires_steps", _ZERO_IS_NONE, a1111="Hires steps"),
    Meaning("hires_strength", partial(readers.strength, hires=True), a1111="Denoising strength"),
    Meaning("hires_strength", readers.number, a1111="Hires strength"),
    Meaning("hires_scheduler", readers.scheduler, a1111="Hires sampler"),
    Meaning("hires_noise_schedule", readers.hires_noise_schedule, a1111="Hires schedule type"),
    Meaning("hires_guidance_scale", partial(readers.number, none=0), a1111="Hires CFG Scale"),
    Meaning("hires_prompt", readers.as_it_is, a1111="Hires prompt"),
    Meaning("hires_negative_prompt", readers.as_it_is, a1111="Hires negative prompt"),
    Meaning("hires_model", readers.hires_model, a1111="Hires checkpoint"),
    Meaning("tile_size", readers.whole_number, a1111="Tile size"),
    Meaning("tile_overlap", readers.whole_number, a1111="Tile overlap"),
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
