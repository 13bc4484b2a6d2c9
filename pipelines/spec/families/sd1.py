"""Stable Diffusion 1.x: one CLIP text encoder, U-Net, 4-channel latents. The pocket model is one."""

from pipelines.spec.families.family import Family
from pipelines.spec.values import Task

SD1 = Family(
    name="sd1",
    label="Stable Diffusion 1.x",
    pipeline_classes=frozenset(
        {"StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"}
    ),
    tasks=frozenset(Task),
    size_multiple=8,
    pools_first_chunk=False,
    defaults={
        "negative_prompt": "",
        "num_inference_steps": 20,
        "guidance_scale": 7.0,
        "strength": 0.75,
        "scheduler": "dpmpp_2m",
        "clip_skip": 1,
    },
)
