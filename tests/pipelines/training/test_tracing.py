"""What is counted on tensors without content is what really happens."""

from collections.abc import Iterator

import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional

from pipelines.training.tracing import FusedAttention, Trace, checkpoint_fused

KIB = 1024


@pytest.fixture(params=["cpu", "meta"])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    with torch.device(request.param):
        yield request.param


def test_the_peak_is_of_what_is_held_at_once(device: str) -> None:
    x = torch.empty(256)  # a KiB, made before

    with Trace([]) as trace:
        for _ in range(3):
            y = x + 1
            z = y.view(16, 16) * 2  # a view holds nothing of its own
            del y, z

    assert trace.peak_bytes == 2 * KIB


def test_the_way_back_counts_and_weights_do_not(device: str) -> None:
    layers = nn.Sequential(nn.Linear(256, 256, bias=False), nn.ReLU(), nn.Linear(256, 256, bias=False))
    layers[0].requires_grad_(False)
    x = torch.empty(16, 256, requires_grad=True)

    with Trace([layers]) as trace:
        layers(x).sum().backward()

    one = 2 * 16 * 256 * 256
    assert trace.flops == 5 * one, "two there, two back to the inputs, one to the weights that are trained"
    assert 256 * KIB < trace.peak_bytes < 2 * 256 * KIB, "the gradient of one of them, and activations of 16 KiB"


def test_attention_has_no_matrix_of_all_pairs_and_is_counted() -> None:
    q = torch.empty(1, 2, 1024, 8, device="meta", requires_grad=True)

    def attend(x: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(x, x, x)

    with FusedAttention(), Trace([]) as trace:
        torch.autograd.backward([attend(q).sum()])

    there = 2 * 2 * 2 * 1024 * 1024 * 8
    assert trace.flops == 3.5 * there
    assert trace.peak_bytes < 2 * 1024 * 1024 * 4


class _Attentive(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(torch.sin(x), x, x)


def test_what_is_checkpointed_is_computed_again_the_same_way() -> None:
    q = torch.empty(1, 2, 1024, 8, device="meta", requires_grad=True)

    with FusedAttention(), Trace([]) as trace:
        torch.autograd.backward([checkpoint_fused(_Attentive(), q).sum()])

    assert trace.flops == 4.5 * 2 * 2 * 2 * 1024 * 1024 * 8


def test_an_encoder_without_content_takes_what_a_real_one_takes() -> None:
    """Also that of real tensors is counted, not guessed: the kernels' own copies are in neither."""
    peaks = set()
    for device in ("cpu", "meta"):
        with torch.device(device), torch.no_grad():
            vae = AutoencoderKL(block_out_channels=(8, 16), norm_num_groups=4, **LEVELS)
            pixels = torch.zeros(1, 3, 64, 64)
            with FusedAttention(), Trace([vae]) as trace:
                vae.encode(pixels)
        peaks.add((trace.peak_bytes, trace.flops))

    assert len(peaks) == 1
    assert trace.peak_bytes > 3 * 8 * 64 * 64 * 4, "input, output and what is between, of the widest layer"


LEVELS = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
