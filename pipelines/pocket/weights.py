"""The model folder: reads and writes `weights/`, a stock `StableDiffusionPipeline` in float16."""

import copy
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
NOISE_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
GUIDANCE_SCALE = 3.0
STUDIO_RECORD = {
    "name": "pocket",
    "description": "A small Stable Diffusion trained from scratch on drawn scenes. Name subject, colour, place, time.",
    "licence": "Apache-2.0",
    "openness": "open source: code, data and weights",
    "defaults": {"guidance_scale": GUIDANCE_SCALE, "num_inference_steps": 20},
}

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Parts:
    """The model's components."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer


def training_schedule() -> DDPMScheduler:
    """Return the noise schedule of training: epsilon prediction, Stable Diffusion's scaled-linear betas."""
    schedule: DDPMScheduler = DDPMScheduler(prediction_type="epsilon", **NOISE_SCHEDULE)
    return schedule


def pipeline_of(parts: Parts) -> StableDiffusionPipeline:
    """Assemble the stock pipeline with the default scheduler."""
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="epsilon", timestep_spacing="leading", steps_offset=1, **NOISE_SCHEDULE
    )
    pipeline = StableDiffusionPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=parts.unet,
        scheduler=scheduler,
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)  # type: ignore[no-untyped-call]
    return pipeline


def load_parts(folder: Path = WEIGHTS_FOLDER) -> Parts:
    """Read the components in float32, ready to train on."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return Parts(pipeline.vae, pipeline.unet, pipeline.text_encoder, pipeline.tokenizer)


def export(parts: Parts, folder: Path = WEIGHTS_FOLDER) -> None:
    """Write a float16 model folder, file by file, each replaced whole; `parts` stay as they are."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".weights-") as name:
        staged = Path(name)
        pipeline_of(
            Parts(_half(parts.vae), _half(parts.unet), _half(parts.text_encoder), parts.tokenizer)
        ).save_pretrained(staged)
        parts.tokenizer.backend_tokenizer.model.save(str(staged / "tokenizer"))
        for part in ("unet", "vae"):  # where they came from says nothing to others
            config = json.loads((staged / part / "config.json").read_text())
            config.pop("_name_or_path", None)
            (staged / part / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        # transformers loads in the precision named here; float16 would make stock diffusers mix two precisions.
        text_config = staged / "text_encoder" / "config.json"
        text_config.write_text(text_config.read_text().replace('"float16"', '"float32"'))
        (staged / "studio.json").write_text(json.dumps(STUDIO_RECORD, indent=2) + "\n")
        for path in sorted(staged.rglob("*"), key=lambda path: path.name == "model_index.json"):
            target = folder / path.relative_to(staged)
            if path.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)


def normalise_latents(vae: AutoencoderKL, mean: torch.Tensor, deviation: torch.Tensor) -> None:
    """Fold a shift and scale per channel, both (4,), into the autoencoder: its latents get mean 0 and deviation 1."""
    channels = mean.numel()
    quant, post = vae.quant_conv, vae.post_quant_conv
    assert quant is not None
    assert quant.bias is not None
    assert post is not None
    assert post.bias is not None
    with torch.no_grad():
        quant.weight[:channels] /= deviation[:, None, None, None]
        quant.bias[:channels] = (quant.bias[:channels] - mean) / deviation
        quant.bias[channels:] -= 2 * deviation.log()
        post.bias += (post.weight[:, :, 0, 0] * mean).sum(1)
        post.weight *= deviation[None, :, None, None]


def _half(module: Module) -> Module:
    """Copy a model in float16."""
    return copy.deepcopy(module).half()
