"""How fast the pocket model paints, against the floor: its arithmetic at this machine's measured convolution rate."""

import argparse
import os
import statistics
import sys
import time

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipelines.pocket.weights import WEIGHTS_FOLDER

PROMPT = "a yellow sailboat by the sea at sunset"
STEPS = 20
GUIDANCE_SCALE = 3.0
GOAL_SECONDS = 1.5


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    pipeline = StableDiffusionPipeline.from_pretrained(WEIGHTS_FOLDER, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)  # type: ignore[no-untyped-call]
    seconds = [_paint_seconds(pipeline) for _ in range(asked.runs + 1)][1:]
    with FlopCounterMode(display=False) as counter:
        _paint_seconds(pipeline)
    operations, rate = counter.get_total_flops(), _convolution_rate()
    floor = operations / rate
    rows = (
        ("128×128, 20 steps with guidance, warm", f"{statistics.median(seconds):.2f} s (best {min(seconds):.2f} s)"),
        ("goal", f"≤ {GOAL_SECONDS} s"),
        ("arithmetic", f"{operations / 1e9:.0f} GFLOP"),
        ("convolution rate", f"{rate / 1e9:.0f} GFLOP/s on {asked.threads} threads"),
        ("floor", f"{floor:.2f} s, {statistics.median(seconds) / floor:.1f} times below the measured time"),
    )
    sys.stdout.write("| what | value |\n| --- | --- |\n")
    sys.stdout.writelines(f"| {name} | {value} |\n" for name, value in rows)


def _paint_seconds(pipeline: StableDiffusionPipeline) -> float:
    start = time.perf_counter()
    pipeline(
        PROMPT, num_inference_steps=STEPS, guidance_scale=GUIDANCE_SCALE, generator=torch.Generator().manual_seed(0)
    )
    return time.perf_counter() - start


@torch.no_grad()
def _convolution_rate(*, channels: int = 128, side: int = 16, batch: int = 16) -> float:
    """Return the best FLOP/s of a float32 3×3 convolution of the UNet's kind."""
    layer, features = nn.Conv2d(channels, channels, 3, padding=1), torch.randn(batch, channels, side, side)
    operations = 2 * 9 * channels**2 * side**2 * batch
    best = float("inf")
    for _ in range(30):
        start = time.perf_counter()
        layer(features)
        best = min(best, time.perf_counter() - start)
    return operations / best


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
