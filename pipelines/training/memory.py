"""How much memory a step needs, counted on tensors without content: weights, activations, gradients, optimizer."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from pipelines.runtime.weights import find_weights, read_json
from pipelines.spec.buckets import Size
from pipelines.spec.model import Model
from pipelines.spec.training import TrainingRequest
from pipelines.training.adapters import inject_layers

REPEATED = (ResnetBlock2D, BasicTransformerBlock)
"""What gradient checkpointing computes again, one at a time."""
OVERHEAD = 1.15
"""Temporary tensors and the allocator's rounding, on top of what is counted."""


def predict(request: TrainingRequest, model: Model, *, size: Size, dtype: torch.dtype) -> tuple[int, int]:
    """Return how many numbers are trained, and the bytes that a training step takes at its peak.

    Args:
        request: what is asked.
        model: what is trained on.
        size: the largest bucket.
        dtype: what the models run in.
    """
    folders = [path for path in model.path.iterdir() if path.name == "vae" or path.name.startswith("text_encoder")]
    others = [find_weights(path).num_parameters for path in folders if path.is_dir()]
    encoders = _text_encoders(folders) if request.train_text_encoder else []
    with torch.device("meta"):
        model_class: Any = diffusers.UNet2DConditionModel
        unet = model_class.from_config(read_json(model.path / "unet" / "config.json"))
    held = sum(parameter.numel() for parameter in unet.parameters()) + sum(others)
    for module in (unet, *encoders):
        module.requires_grad_(False)
        inject_layers(module, request, is_unet=module is unet)
    trained = sum(
        parameter.numel()
        for module in (unet, *encoders)
        for parameter in module.parameters()
        if parameter.requires_grad
    )
    # The trained numbers, their gradients, their average; and two moments, in bytes where the optimizer is 8-bit.
    per_number = 4 + 4 + (4 if request.ema_decay else 0) + (2 if request.optimizer == "adamw8bit" else 8)
    activations = _activations(unet, encoders, request, model, size=size) * dtype.itemsize // torch.float32.itemsize
    return trained, int(((held + trained) * dtype.itemsize + trained * per_number + activations) * OVERHEAD)


def _text_encoders(folders: Sequence[Path]) -> list[nn.Module]:
    with torch.device("meta"):
        return [
            CLIPTextModel(CLIPTextConfig.from_dict(read_json(path / "config.json")))
            for path in folders
            if path.name.startswith("text_encoder")
        ]


def _activations(
    unet: Any, encoders: Sequence[nn.Module], request: TrainingRequest, model: Model, *, size: Size
) -> int:
    """Return the bytes, in float32, that are kept for the way back."""
    factor = 2 ** (len(read_json(model.path / "vae" / "config.json")["block_out_channels"]) - 1)
    rows, config = request.batch_size, unet.config
    latents = torch.empty(
        rows, config.in_channels, size[1] // factor, size[0] // factor, device="meta", requires_grad=True
    )
    embeds = torch.empty(rows, 77, config.cross_attention_dim, device="meta")
    token_ids = torch.zeros(rows, 77, dtype=torch.long, device="meta")
    added = None
    if model.family.name == "sdxl":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        added = {
            "text_embeds": torch.empty(rows, pooled, device="meta"),
            "time_ids": torch.empty(rows, 6, device="meta"),
        }

    def forward() -> None:
        for encoder in encoders:
            encoder(token_ids)
        unet(latents, torch.zeros((), device="meta"), encoder_hidden_states=embeds, added_cond_kwargs=added)

    if not request.gradient_checkpointing:
        return _kept([unet, *encoders], forward)["all"]
    largest = max(_kept([unet], forward).items(), key=lambda each: each[1] if each[0] != "all" else 0)[1]
    unet.enable_gradient_checkpointing()
    for each in encoders:
        each.activation_checkpointing_enable()  # type: ignore[operator]
        each.train()
    return _kept([unet, *encoders], forward)["all"] + largest


def _kept(modules: Sequence[nn.Module], forward: Callable[[], None]) -> dict[str, int]:
    """Return the bytes that a way forward keeps for the way back: "all", and of each part that is computed again."""
    weights = {parameter.untyped_storage()._cdata for module in modules for parameter in module.parameters()}
    held: list[Tensor] = []  # so that no other storage can take the place of one that is counted
    sizes: dict[str, dict[int, int]] = {"all": {}}
    inside: list[str] = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            held.append(tensor)
            for place in ("all", *inside):
                sizes.setdefault(place, {})[storage._cdata] = storage.nbytes()
        return tensor

    parts = {name: part for module in modules for name, part in module.named_modules() if isinstance(part, REPEATED)}
    hooks = [
        part.register_forward_pre_hook(partial(lambda name, *_: inside.append(name), name))
        for name, part in parts.items()
    ]
    hooks += [part.register_forward_hook(lambda *_: inside.clear()) for part in parts.values()]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    for hook in hooks:
        hook.remove()
    return {place: sum(each.values()) for place, each in sizes.items()}
