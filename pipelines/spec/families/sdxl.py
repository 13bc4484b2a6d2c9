"""Stable Diffusion XL: two CLIP text encoders, pooled and size conditioning, 4-channel latents."""

from pipelines.spec.families.family import Family
from pipelines.spec.values import Task

SDXL = Family(
    name="sdxl",
    label="Stable Diffusion XL",
    pipeline_classes=frozenset(
        {"StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"}
    ),
    tasks=frozenset(Task),
    size_multiple=8,
    pools_first_chunk=True,
    defaults={
        "negative_prompt": "",
        "num_inference_steps": 30,
        "guidance_scale": 5.0,
        "strength": 0.75,
        "scheduler": "dpmpp_2m",
        "clip_skip": 2,
    },
)
