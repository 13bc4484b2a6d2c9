"""Judges the shipped model: `python -m pipelines.pocket.evaluate` prints a table and saves a sheet of 48 prompts."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random

import torch
from PIL import Image
from torch import Tensor

from pipelines.pocket.captions import plain_caption
from pipelines.pocket.classifier import JUDGED, Judge, labels_of, load_judge, single_scene
from pipelines.pocket.parallel import Workers
from pipelines.pocket.scenes import Scene, held_out, render
from pipelines.pocket.sitting import TRAINING_FOLDER, Sitting
from pipelines.pocket.vae_training import decibel, to_pixels, validation_error
from pipelines.pocket.weights import GUIDANCE_SCALE, WEIGHTS_FOLDER, Parts, load_parts, pipeline_of

REQUIRED = {"subject": 0.90, "colour": 0.90, "setting": 0.96, "time": 0.97}
REQUIRED_TOGETHER = 0.80
REQUIRED_JUDGE = 0.99
REQUIRED_DECIBEL = 27.0
_PROMPT_SEED = 3_000_000_019
_SHEET_COUNT = 48
_EMPTY_COUNT = 64
_SURE = 0.9
"""How sure the judge must be of subject, colour, setting and time for a picture that nothing was asked of."""
_BATCH_SIZE = 8


@dataclass(frozen=True)
class Result:
    """Share of correct attributes over some prompts; `together` counts pictures with all of them."""

    count: int
    shares: tuple[float, ...]
    together: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Judge the model folder and write the report."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.pocket.evaluate", description=__doc__)
    parser.add_argument("--weights", type=Path, default=WEIGHTS_FOLDER, help="model folder (default: the shipped one)")
    parser.add_argument("--prompts", type=int, default=320, help="how many, half of them held out (default: 320)")
    parser.add_argument("--guidance-scale", type=float, default=GUIDANCE_SCALE)
    parser.add_argument("--classifier-minutes", type=float, default=8, help="training of the judge, if there is none")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    judge = load_judge(Sitting(asked.classifier_minutes))
    if min(judge.accuracy) < REQUIRED_JUDGE:
        sys.stdout.write(
            f"the judge itself is below {REQUIRED_JUDGE:.0%}: train it longer before believing the table\n"
        )
    parts = load_parts(asked.weights)
    scenes = evaluation_scenes(asked.prompts)
    pictures = paint([plain_caption(scene) for scene in scenes], parts, guidance_scale=asked.guidance_scale)
    right = judge.classifier.read(to_pixels(pictures)) == labels_of(scenes)
    half = len(scenes) // 2
    empty = paint([""] * _EMPTY_COUNT, parts, guidance_scale=asked.guidance_scale)
    report = _report(judge, _result(right[:half]), _result(right[half:]), _result(right))
    sys.stdout.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, guidance {asked.guidance_scale}\n{report}\n")
    sys.stdout.write(f"VAE: {decibel(validation_error(parts.vae)):.2f} dB on fresh renders (goal {REQUIRED_DECIBEL})\n")
    fresh = [render(scene) for scene in scenes[:_EMPTY_COUNT]]
    sys.stdout.write(f"Empty prompt, {_EMPTY_COUNT} pictures: {_variety(judge, empty)}\n")
    sys.stdout.write(f"For comparison, {_EMPTY_COUNT} fresh renders: {_variety(judge, fresh)}\n")
    order = [index // 2 + half * (index % 2) for index in range(min(_SHEET_COUNT, len(scenes)))]
    sitting = Sitting(0)
    sitting.save_sheet("evaluation", [pictures[index] for index in order], columns=8)
    sitting.save_sheet("empty-prompt", empty, columns=8)
    sys.stdout.write(f"sheets: {TRAINING_FOLDER}/evaluation.png, {TRAINING_FOLDER}/empty-prompt.png\n")


def evaluation_scenes(count: int) -> list[Scene]:
    """Draw scenes for prompts: first half from trained combinations, second half from held-out ones."""
    random = Random(_PROMPT_SEED)
    halves: dict[bool, list[Scene]] = {False: [], True: []}
    while min(len(half) for half in halves.values()) < count // 2:
        scene = single_scene(random)
        halves[held_out(scene.figure, setting=scene.setting)].append(replace(scene, seed=0))
    return halves[False][: count // 2] + halves[True][: count // 2]


def paint(prompts: list[str], parts: Parts, *, guidance_scale: float) -> list[Image.Image]:
    """Paint one picture per prompt at 20 steps with the default scheduler; picture n has seed n."""
    workers = Workers()
    batches = [
        partial(
            _paint_batch, prompts[start : start + _BATCH_SIZE], parts, first_seed=start, guidance_scale=guidance_scale
        )
        for start in range(0, len(prompts), _BATCH_SIZE)
    ]
    return [picture for batch in workers.run(batches) for picture in batch]


def _paint_batch(prompts: list[str], parts: Parts, *, first_seed: int, guidance_scale: float) -> list[Image.Image]:
    generators = [torch.Generator().manual_seed(first_seed + index) for index in range(len(prompts))]
    pipeline = pipeline_of(parts)
    pictures: list[Image.Image] = pipeline(
        prompts, num_inference_steps=20, guidance_scale=guidance_scale, generator=generators
    ).images
    return pictures


def _result(right: Tensor) -> Result:
    shares = tuple(right.float().mean(0).tolist())
    return Result(len(right), shares, right.all(1).float().mean().item())


def _report(judge: Judge, seen: Result, unseen: Result, everything: Result) -> str:
    lines = [
        "| | judge on fresh renders | all | trained combinations | held-out combinations | goal |",
        "| --- | --- | --- | --- | --- | --- |",
        f"| prompts | | {everything.count} | {seen.count} | {unseen.count} | 300 |",
    ]
    for index, name in enumerate(JUDGED):
        shares = [result.shares[index] for result in (everything, seen, unseen)]
        cells = " | ".join(f"{share:.1%}" for share in (judge.accuracy[index], *shares))
        lines.append(f"| {name} | {cells} | ≥ {REQUIRED[name]:.0%} |")
    together = " | ".join(f"{result.together:.1%}" for result in (everything, seen, unseen))
    lines.append(f"| all four | | {together} | ≥ {REQUIRED_TOGETHER:.0%} |")
    return "\n".join(lines)


def _variety(judge: Judge, pictures: list[Image.Image]) -> str:
    pixels = to_pixels(pictures)
    read, certainty = judge.classifier.read(pixels), judge.classifier.certainty(pixels)
    kinds = ", ".join(f"{len(set(read[:, index].tolist()))} {name}s" for index, name in enumerate(JUDGED))
    sure = ", ".join(
        f"{name} {share:.0%}" for name, share in zip(JUDGED, (certainty > _SURE).float().mean(0).tolist(), strict=True)
    )
    return f"{kinds}; the judge is sure ({_SURE}) of {sure}"


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
