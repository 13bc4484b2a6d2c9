"""Small LoRA files as trainers write them, made without torch."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

Shape = tuple[int, ...]

KOHYA: dict[str, Shape] = {
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": (8, 768),
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.lora_up.weight": (640, 8),
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.alpha": (),
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight": (8, 768),
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight": (768, 8),
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj.alpha": (),
}
"""A LoRA of rank 8 for Stable Diffusion 1.x: one layer of the U-Net, one of the text encoder."""


def write_lora_file(
    path: Path,
    tensors: Mapping[str, Shape] | None = None,
    *,
    metadata: Mapping[str, str] | None = None,
    value: float = 4.0,
) -> Path:
    """Write a file whose tensors are filled with one number; another number makes another hash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.full(shape, value, np.float16) for name, shape in (tensors or KOHYA).items()}
    save_file(arrays, path, metadata=dict(metadata or {}))
    return path
