"""Draws captioned pictures in one style, to train a LoRA on: `python -m pipelines.pocket.style_pictures ink FOLDER`.

Captions are worded as those that the pocket model learnt from and never name the style: the LoRA alone turns it on.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

from pipelines.pocket.captions import caption
from pipelines.pocket.scenes import STYLES, render, training_scene

LEARNT = tuple(style for style in STYLES if style != "flat")
_SEED = 4_000_000_007


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.pocket.style_pictures", description=__doc__)
    parser.add_argument("style", choices=LEARNT)
    parser.add_argument("folder", type=Path, help="made if need be; pictures and metadata.jsonl are put there")
    parser.add_argument("--count", type=int, default=400, help="how many pictures (default: 400)")
    asked = parser.parse_args(arguments)
    draw_pictures(asked.folder, asked.style, count=asked.count)
    sys.stdout.write(f"{asked.count} pictures in {asked.folder}\n")


def draw_pictures(folder: Path, style: str, *, count: int) -> None:
    """Write pictures of scenes from the model's training space, and one line of metadata.jsonl each."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        random = Random(f"{_SEED}/{number}")
        scene = training_scene(random)
        name = f"{number:04d}.png"
        render(scene, style=style).save(folder / name)
        rows.append(json.dumps({"file_name": name, "text": caption(scene, random)}))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
