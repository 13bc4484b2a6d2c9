"""How fast a device computes what a U-Net is made of, measured in a moment. Loads no weights."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from pipelines.runtime.weights import read_json
from pipelines.spec.buckets import Size
from pipelines.spec.model import Model
from pipelines.training.tracing import Trace

MAX_ROWS = 4
"""Of the batch that is measured; a number of a larger one takes no longer."""
MEASURED_SECONDS = 0.3
"""How long it is measured: other programs take their share of a processor, and are to be felt."""
SPREAD = (0.8, 2.0)
"""How many times as long as the block alone says a training takes, at least and at most.

It was 0.8 to 1.5 with the pocket model on a busy processor. A training has its optimizer and other programs beside it.
"""
_HEADS = 8


@dataclass(frozen=True)
class Pace:
    """The speed of a device at such work."""

    flops_per_second: float

    @classmethod
    def measure(cls, model: Model, size: Size, *, rows: int, device: torch.device, dtype: torch.dtype) -> "Pace":
        """Run a block from the middle of the model's U-Net there and back, its weights random and frozen.

        Args:
            model: whose widths it has.
            size: of a picture, in pixels.
            rows: of a batch.
            device: where it runs.
            dtype: of its weights.
        """
        config, vae = (read_json(model.path / part / "config.json") for part in ("unet", "vae"))
        level = len(config["block_out_channels"]) // 2
        factor = 2 ** (level + len(vae["block_out_channels"]) - 1)
        block = _Block(config, channels=config["block_out_channels"][level]).to(device, dtype).requires_grad_(False)
        shape = min(rows, MAX_ROWS), block.channels, max(1, size[1] // factor), max(1, size[0] // factor)
        x = torch.randn(shape, device=device, dtype=dtype, requires_grad=True)
        text = torch.randn(len(x), 77, config["cross_attention_dim"], device=device, dtype=dtype)

        def work() -> None:
            (gradient,) = torch.autograd.grad(block(x, text).float().square().mean(), x)
            gradient.sum().item()  # waits for the device

        with Trace([block]) as trace:
            work()
        began, times = time.perf_counter(), 0
        while not times or time.perf_counter() - began < MEASURED_SECONDS:
            work()
            times += 1
        return cls(times * trace.flops / (time.perf_counter() - began))

    def seconds(self, flops: float) -> tuple[float, float]:
        """Return how long so many operations of a training take, at least and at most."""
        least, most = (times * flops / self.flops_per_second for times in SPREAD)
        return least, most


class _Block(nn.Module):
    """What a U-Net is made of, once."""

    def __init__(self, config: Any, *, channels: int) -> None:
        super().__init__()
        self.channels = channels
        resnet: Any = ResnetBlock2D
        self._convolutions = resnet(in_channels=channels, temb_channels=None, groups=config["norm_num_groups"])
        self._attention = BasicTransformerBlock(
            channels, _HEADS, channels // _HEADS, cross_attention_dim=config["cross_attention_dim"]
        )

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """Return (batch, channels, height, width) of the same."""
        seen = self._convolutions(x, None)
        tokens = seen.flatten(2).transpose(1, 2)
        attended: Tensor = self._attention(tokens, encoder_hidden_states=text)
        return attended.transpose(1, 2).reshape(seen.shape)
