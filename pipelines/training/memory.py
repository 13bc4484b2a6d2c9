"""How much memory a step needs, counted on tensors without content: weights, activations, gradients, optimizer."""

from typing import Any

import diffusers
import torch
from torch import Tensor

from pipelines.runtime.weights import Weights, find_weights, read_json
from pipelines.spec.buckets import Size
from pipelines.spec.model import Model
from pipelines.spec.training import TrainingRequest
from pipelines.training.adapters import inject_layers

OVERHEAD = 1.15
"""Temporary tensors and the allocator's rounding, on top of what is counted."""


def predict(request: TrainingRequest, model: Model, *, size: Size, dtype: torch.dtype) -> tuple[int, int]:
    """Return how many numbers are trained in the U-Net, and the bytes that a training step takes at its peak.

    Args:
        request: what is asked.
        model: what is trained on.
        size: the largest bucket.
        dtype: what the models run in.
    """
    with torch.device("meta"):
        model_class: Any = diffusers.UNet2DConditionModel
        unet = model_class.from_config(read_json(model.path / "unet" / "config.json"))
    unet.requires_grad_(False)
    inject_layers(unet, request, is_unet=True)
    if request.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    trained = sum(parameter.numel() for parameter in unet.parameters() if parameter.requires_grad)
    folders = [path for path in model.path.iterdir() if path.name == "vae" or path.name.startswith("text_encoder")]
    others: list[Weights] = [find_weights(path) for path in folders if path.is_dir()]
    held = sum(parameter.numel() for parameter in unet.parameters()) + sum(each.num_parameters for each in others)
    # The trained numbers, their gradients, their average; and two moments, in bytes where the optimizer is 8-bit.
    per_number = 4 + 4 + (4 if request.ema_decay else 0) + (2 if request.optimizer == "adamw8bit" else 8)
    activations = _activations(unet, request, model, size=size, dtype=dtype)
    return trained, int((held * dtype.itemsize + trained * per_number + activations) * OVERHEAD)


def _activations(unet: Any, request: TrainingRequest, model: Model, *, size: Size, dtype: torch.dtype) -> int:
    """Return the bytes that the U-Net keeps for the way back."""
    factor = 2 ** (len(read_json(model.path / "vae" / "config.json")["block_out_channels"]) - 1)
    rows, config = request.batch_size, unet.config
    latents = torch.empty(
        rows, config.in_channels, size[1] // factor, size[0] // factor, device="meta", requires_grad=True
    )
    embeds = torch.empty(rows, 77, config.cross_attention_dim, device="meta")
    added = None
    if model.family.name == "sdxl":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        added = {
            "text_embeds": torch.empty(rows, pooled, device="meta"),
            "time_ids": torch.empty(rows, 6, device="meta"),
        }
    weights = {parameter.untyped_storage()._cdata for parameter in unet.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in weights:
            kept.setdefault(storage, tensor)  # held, so that no other storage can take its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        unet(latents, torch.zeros((), device="meta"), encoder_hidden_states=embeds, added_cond_kwargs=added)
    share = dtype.itemsize / torch.float32.itemsize
    return int(share * sum(tensor.untyped_storage().nbytes() for tensor in kept.values()))
