"""Judges a style LoRA with stock diffusers: `python -m pipelines.pocket.evaluate_style pixel-art`.

The same prompts and seeds are painted without the LoRA and with it. What counts: the style is there with it and not
without it, and subject and colour are read off as well as before.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from pipelines.pocket.captions import plain_caption
from pipelines.pocket.classifier import Judge, labels_of
from pipelines.pocket.evaluate import evaluation_scenes, paint
from pipelines.pocket.sitting import TRAINING_FOLDER, Sitting
from pipelines.pocket.style_classifier import JUDGED_WITH_STYLE, load_style_judge
from pipelines.pocket.style_pictures import LEARNT
from pipelines.pocket.vae_training import to_pixels
from pipelines.pocket.weights import GUIDANCE_SCALE, WEIGHTS_FOLDER, load_parts, pipeline_of

REQUIRED_JUDGE = 0.99
REQUIRED_STYLE = 0.90
MOST_STYLE_WITHOUT = 0.05
MOST_LOST = 0.05
_SHEET_COUNT = 24


def main(arguments: Sequence[str] | None = None) -> None:
    """Judge one LoRA and write the report."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.pocket.evaluate_style", description=__doc__)
    parser.add_argument("style", choices=LEARNT)
    parser.add_argument("--lora", type=Path, help="the file (default: loras/STYLE.safetensors)")
    parser.add_argument("--weights", type=Path, default=WEIGHTS_FOLDER, help="model folder (default: the shipped one)")
    parser.add_argument("--prompts", type=int, default=160, help="how many, half of them held out (default: 160)")
    parser.add_argument("--judge-minutes", type=float, default=8, help="training of the judge, if there is none")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    lora = asked.lora or Path("loras") / f"{asked.style}.safetensors"
    judge = load_style_judge(Sitting(asked.judge_minutes))
    scenes = evaluation_scenes(asked.prompts)
    prompts = [plain_caption(scene) for scene in scenes]
    pictures = [_paint(prompts, asked.weights, each) for each in (None, lora)]
    wanted = torch.full((len(scenes), 1), JUDGED_WITH_STYLE["style"].index(asked.style))
    labels = torch.cat([labels_of(scenes), wanted], dim=1)
    shares = [(judge.classifier.read(to_pixels(each)) == labels).float().mean(0) for each in pictures]
    sys.stdout.write(_report(judge, shares[0], shares[1], count=len(scenes)))
    row = [picture for pair in zip(*pictures, strict=True) for picture in pair][: 2 * _SHEET_COUNT]
    Sitting(0).save_sheet(f"style-{asked.style}", row, columns=8)
    sys.stdout.write(f"sheet, without and with in turn: {TRAINING_FOLDER}/style-{asked.style}.png\n")


def _paint(prompts: list[str], weights: Path, lora: Path | None) -> list[Image.Image]:
    parts = load_parts(weights)
    if lora is not None:
        pipeline_of(parts).load_lora_weights(lora.parent, weight_name=lora.name)  # into the parts, which are shared
    return paint(prompts, parts, guidance_scale=GUIDANCE_SCALE)


def _report(judge: Judge, without: Tensor, styled: Tensor, *, count: int) -> str:
    lines = [
        f"{count} prompts, half of them of combinations that training never showed",
        "| | judge on fresh renders | without | with the LoRA at 1 | goal |",
        "| --- | --- | --- | --- | --- |",
    ]
    for index, name in enumerate(JUDGED_WITH_STYLE):
        goal, is_met = "", True
        if name == "style":
            goal = f"≤ {MOST_STYLE_WITHOUT:.0%} without, ≥ {REQUIRED_STYLE:.0%} with, judge ≥ {REQUIRED_JUDGE:.0%}"
            is_met = bool(without[index] <= MOST_STYLE_WITHOUT and styled[index] >= REQUIRED_STYLE)
            is_met = is_met and judge.accuracy[index] >= REQUIRED_JUDGE
        elif name in {"subject", "colour"}:
            goal = f"at most {MOST_LOST:.0%} less than without"
            is_met = bool(styled[index] >= without[index] - MOST_LOST)
        cells = " | ".join(f"{share:.1%}" for share in (judge.accuracy[index], without[index], styled[index]))
        lines.append(f"| {name} | {cells} | {goal}{'' if is_met else ' (missed)'} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
