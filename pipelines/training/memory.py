"""How much memory a training needs and how much it computes, counted on tensors without content, part by part."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from pipelines.runtime.loading import usual_precision
from pipelines.runtime.weights import find_weights, read_json
from pipelines.spec.buckets import Size
from pipelines.spec.material import Material
from pipelines.spec.schedulers import SCHEDULERS
from pipelines.training.adapters import inject_layers
from pipelines.training.painting import STRENGTHS, SWEPT_PROMPTS
from pipelines.training.tracing import FusedAttention, Trace, checkpoint_fused

OVERHEAD = 1.15
"""Temporary tensors and the allocator's rounding, on top of what is counted."""
GUIDED_ROWS = 2
"""Of one picture that is painted: what it is led to, and away from."""


class Moment(StrEnum):
    """What a training does by turns, and must."""

    STEP = "a step"
    ENCODING = "encoding a picture"


@dataclass(frozen=True)
class Prediction:
    """What a training takes."""

    num_parameters: int
    """Numbers that are trained."""
    peak_bytes: int
    """At the hungriest moment."""
    least_bytes: int
    """Without which it cannot work: pictures can be painted in pieces, all else cannot."""
    moment: Moment
    """Which needs those."""
    step_flops: float
    """Floating-point operations of one step."""
    other_flops: float
    """Of everything else: encoding pictures, and painting some on the way and at the end."""


def predict(material: Material, *, size: Size, dtype: torch.dtype) -> Prediction:
    """Return what a training takes.

    Args:
        material: what is trained on.
        size: the largest bucket.
        dtype: what the models run in.
    """
    request, models = material.request, _Models.on_meta(material)
    trained = sum(parameter.numel() for parameter in models.trained())
    # The trained numbers, their gradients, their average; and two moments, in bytes where the optimizer is 8-bit.
    per_number = 4 + 4 + (4 if request.ema_decay else 0) + (2 if request.optimizer == "adamw8bit" else 8)
    held = (models.num_parameters + trained) * dtype.itemsize + trained * per_number
    # What is counted is in float32. The parts follow one another, and nothing of one is left in the next.
    usual = dtype.itemsize / torch.float32.itemsize
    vae = usual_precision(material.model, dtype).vae_dtype.itemsize / torch.float32.itemsize
    shown = max(((each.width, each.height) for each in material.shown), key=lambda each: each[0] * each[1])
    step, encoding = models.step(size), models.encoding(size)
    painting, decoding = models.painting(shown), models.decoding(shown)
    needed = {Moment.STEP: step.peak_bytes * usual, Moment.ENCODING: encoding.peak_bytes * vae}
    moment = max(needed, key=lambda each: needed[each])
    peak = max(needed[moment], painting.peak_bytes * usual, decoding.peak_bytes * vae)
    pictures, evaluations = _painted(material)
    encoded = len(material.dataset.examples) * (2 if request.flip else 1)
    return Prediction(
        trained,
        int((held + peak) * OVERHEAD),
        int((held + needed[moment]) * OVERHEAD),
        moment,
        step.flops * request.gradient_accumulation_steps,
        encoding.flops * encoded + decoding.flops * pictures + painting.flops * evaluations,
    )


def _painted(material: Material) -> tuple[int, int]:
    """Return how many pictures are painted, and how often the U-Net runs for them."""
    every, last = material.request.validation_every, material.num_steps
    times = 1 + ((last - 1) // every if every else 0)
    pictures = [times + (len(STRENGTHS) if index < SWEPT_PROMPTS else 0) for index in range(len(material.shown))]
    steps = [each.num_inference_steps for each in material.shown]
    evaluations = [
        SCHEDULERS[each.scheduler].evaluations(count) or count
        for each, count in zip(material.shown, steps, strict=True)
    ]
    return sum(pictures), sum(count * often for count, often in zip(pictures, evaluations, strict=True))


@dataclass(frozen=True, eq=False)
class _Models:
    """The models of a training without content, float32; adapters are in those that are trained."""

    material: Material
    unet: Any
    vae: Any
    encoders: Sequence[nn.Module]
    """Those that are trained."""
    num_parameters: int
    """Of the model as it is loaded."""

    @classmethod
    def on_meta(cls, material: Material) -> "_Models":
        request, folder = material.request, material.model.path
        names = [path for path in sorted(folder.iterdir()) if path.name.startswith("text_encoder") and path.is_dir()]
        with torch.device("meta"):
            unet_class: Any = diffusers.UNet2DConditionModel
            vae_class: Any = diffusers.AutoencoderKL
            unet = unet_class.from_config(read_json(folder / "unet" / "config.json"))
            vae = vae_class.from_config(read_json(folder / "vae" / "config.json"))
            encoders = [_text_encoder(path) for path in names] if request.train_text_encoder else []
        held = sum(parameter.numel() for module in (unet, vae) for parameter in module.parameters())
        held += sum(find_weights(path).num_parameters for path in names)
        for module in (unet, *encoders):
            module.requires_grad_(False)
            inject_layers(module, request, is_unet=module is unet)
        if request.gradient_checkpointing:
            unet.enable_gradient_checkpointing(checkpoint_fused)
            for encoder in encoders:
                encoder.activation_checkpointing_enable()  # type: ignore[operator]
                encoder.train()
        return cls(material, unet, vae, encoders, held)

    def trained(self) -> list[nn.Parameter]:
        """Return what is trained."""
        parameters = (parameter for module in (self.unet, *self.encoders) for parameter in module.parameters())
        return [parameter for parameter in parameters if parameter.requires_grad]

    def step(self, size: Size) -> Trace:
        """Trace one batch, there and back."""
        token_ids = torch.zeros(self.material.request.batch_size, 77, dtype=torch.long, device="meta")

        def work() -> None:
            texts = [encoder(token_ids)[0].mean() for encoder in self.encoders]
            predicted = self._predicted(size, rows=self.material.request.batch_size)
            torch.autograd.backward([predicted.square().mean() + sum(texts)])

        return _traced([self.unet, *self.encoders], work)

    @torch.no_grad()
    def painting(self, size: Size) -> Trace:
        """Trace one evaluation of the U-Net for one picture."""
        return _traced([self.unet], lambda: self._predicted(size, rows=GUIDED_ROWS))

    @torch.no_grad()
    def encoding(self, size: Size) -> Trace:
        """Trace the VAE on one picture."""
        pixels = torch.empty(1, 3, size[1], size[0], device="meta")
        return _traced([self.vae], lambda: self.vae.encode(pixels))

    @torch.no_grad()
    def decoding(self, size: Size) -> Trace:
        """Trace the VAE on the latents of one picture."""
        latents = self._latents(size, rows=1)
        return _traced([self.vae], lambda: self.vae.decode(latents))

    def _latents(self, size: Size, *, rows: int) -> Tensor:
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return torch.empty(rows, self.vae.config.latent_channels, size[1] // factor, size[0] // factor, device="meta")

    def _predicted(self, size: Size, *, rows: int) -> Tensor:
        config, added = self.unet.config, None
        if self.material.model.family.name == "sdxl":
            pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            added = {
                "text_embeds": torch.empty(rows, pooled, device="meta"),
                "time_ids": torch.empty(rows, 6, device="meta"),
            }
        predicted: Tensor = self.unet(
            self._latents(size, rows=rows),
            torch.zeros(rows, device="meta"),
            encoder_hidden_states=torch.empty(rows, 77, config.cross_attention_dim, device="meta"),
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return predicted


def _text_encoder(path: Path) -> nn.Module:
    return CLIPTextModel(CLIPTextConfig.from_dict(read_json(path / "config.json")))


def _traced(modules: Sequence[nn.Module], work: Callable[[], object]) -> Trace:
    trace = Trace(modules)
    with FusedAttention(), trace:
        work()
    return trace
