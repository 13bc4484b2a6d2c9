"""Draws captioned pictures in one style, to train a LoRA on: `python -m pipelines.pocket.style_pictures ink FOLDER`.

Captions are worded as those that the pocket model learnt from and never name the style: the LoRA alone turns it on.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

from PIL import Image

from pipelines.pocket.captions import caption
from pipelines.pocket.drawing import INK
from pipelines.pocket.scenes import Scene, render, training_scene

STYLES = ("pixel-art", "ink")
_PAPER = (250, 247, 240)
_PAPER_SHARE = 0.35
"""How much of the paper shows through a wash."""
_LINE, _WASH = 40, 125
"""Luminance of the renderer's ink lines, and of the darkest grey that it washes with."""
_SEED = 4_000_000_007


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.pocket.style_pictures", description=__doc__)
    parser.add_argument("style", choices=STYLES)
    parser.add_argument("folder", type=Path, help="made if need be; pictures and metadata.jsonl are put there")
    parser.add_argument("--count", type=int, default=400, help="how many pictures (default: 400)")
    asked = parser.parse_args(arguments)
    draw_pictures(asked.folder, asked.style, count=asked.count)
    sys.stdout.write(f"{asked.count} pictures in {asked.folder}\n")


def styled(scene: Scene, style: str) -> Image.Image:
    """Draw a scene as 128 × 128 pixels in a style: large pixels, or ink lines over thin washes of the scene's colours.

    The renderer's own ink is grey; here the colours stay, because a style must not change what a picture shows.
    """
    if style == "pixel-art":
        return render(scene, style="pixel")
    lines = render(scene, style="ink").convert("L").point(lambda grey: 255 * (_WASH - grey) // (_WASH - _LINE))
    washes = Image.blend(render(scene), Image.new("RGB", lines.size, _PAPER), _PAPER_SHARE)
    washes.paste(INK, mask=lines)
    return washes


def draw_pictures(folder: Path, style: str, *, count: int) -> None:
    """Write pictures of scenes from the model's training space, and one line of metadata.jsonl each."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        random = Random(f"{_SEED}/{number}")
        scene = training_scene(random)
        name = f"{number:04d}.png"
        styled(scene, style).save(folder / name)
        rows.append(json.dumps({"file_name": name, "text": caption(scene, random)}))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
