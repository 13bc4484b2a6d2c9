"""Tiny models with random, seeded weights, built and saved by stock diffusers: real in kind, small in size."""

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from pipelines.spec.families import FAMILIES
from pipelines.spec.model import Model

SCHEDULER_CONFIG = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
SIDE = 64


def build_sd1(
    folder: Path, *, unet_in_channels: int = 4, vae: dict[str, Any] | None = None, unet: dict[str, Any] | None = None
) -> Model:
    """Save a StableDiffusionPipeline of a few hundred kilobytes and return it as the studio sees it."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(folder.parent / f"{folder.name}-tokenizer")
    pipeline = diffusers.StableDiffusionPipeline(
        vae=build_vae(**(vae or {})),
        text_encoder=CLIPTextModel(_text_config(tokenizer)),
        tokenizer=tokenizer,
        unet=build_unet(in_channels=unet_in_channels, cross_attention_dim=32, **(unet or {})),
        scheduler=DDIMScheduler(**SCHEDULER_CONFIG),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return as_model(folder, unet_in_channels=unet_in_channels)


def build_sdxl(folder: Path, *, unet_in_channels: int = 4) -> Model:
    """Save a StableDiffusionXLPipeline of a few hundred kilobytes."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(folder.parent / f"{folder.name}-tokenizer")
    config = _text_config(tokenizer)
    pipeline = diffusers.StableDiffusionXLPipeline(
        vae=build_vae(),
        text_encoder=CLIPTextModel(config),
        text_encoder_2=CLIPTextModelWithProjection(config),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=build_unet(
            in_channels=unet_in_channels,
            cross_attention_dim=64,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=8 * 6 + 32,
        ),
        scheduler=DDIMScheduler(**SCHEDULER_CONFIG),
    )
    pipeline.save_pretrained(folder)
    return as_model(folder, unet_in_channels=unet_in_channels)


def build_unet(**options: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        **{
            "sample_size": SIDE // 8,
            "out_channels": 4,
            "layers_per_block": 1,
            "block_out_channels": (16, 32),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": 8,
            "norm_num_groups": 8,
            **options,
        }
    )


def build_vae(**options: Any) -> AutoencoderKL:
    """A VAE of eight pixels per latent along each side, like the real ones."""
    return AutoencoderKL(
        **{
            "block_out_channels": (8, 8, 16, 16),
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "latent_channels": 4,
            "norm_num_groups": 4,
            "sample_size": SIDE,
            **options,
        }
    )


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer that knows single characters, so every word has as many tokens as letters."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77}))
    return CLIPTokenizer.from_pretrained(folder)


def as_model(folder: Path, *, unet_in_channels: int = 4) -> Model:
    index = json.loads((folder / "model_index.json").read_text())
    family = next(family for family in FAMILIES if index["_class_name"] in family.pipeline_classes)
    text_encoder = json.loads((folder / "text_encoder" / "config.json").read_text())
    return Model(
        text_encoder_layers=text_encoder["num_hidden_layers"],
        text_encoder_widths=(text_encoder["hidden_size"],) * (2 if family.name == "sdxl" else 1),
        name=folder.name,
        path=folder,
        family=family,
        native_width=SIDE,
        native_height=SIDE,
        unet_in_channels=unet_in_channels,
        defaults={},
    )


def _text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=32,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=3,
        projection_dim=32,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_position_embeddings=77,
    )
