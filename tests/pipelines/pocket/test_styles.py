"""Pictures in a style: drawn with truthful captions, repeatable, and in the style."""

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest

from pipelines.pocket.scenes import PALETTE_STEP, PIXEL_BLOCK, render, training_scene
from pipelines.pocket.style_pictures import LEARNT, main
from pipelines.spec.dataset import read_dataset


@pytest.mark.parametrize("style", LEARNT)
def test_the_script_draws_a_data_set_that_training_reads(style: str, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        main([style, str(tmp_path / folder), "--count", "3"])

    read = read_dataset(tmp_path / "a", caption=None, least_side=64)

    assert len(read.examples) == 3
    assert read.findings == ()
    assert not any(word in each.caption.lower() for each in read.examples for word in ("pixel", "ink"))
    assert all(each.path.read_bytes() == (tmp_path / "b" / each.path.name).read_bytes() for each in read.examples)
    lines = (tmp_path / "a" / "metadata.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == [each.caption for each in read.examples]


def test_pixel_art_is_made_of_large_pixels() -> None:
    pixels = np.asarray(render(training_scene(Random(0)), style="pixel-art"))

    assert np.array_equal(pixels, pixels[::PIXEL_BLOCK, ::PIXEL_BLOCK].repeat(PIXEL_BLOCK, 0).repeat(PIXEL_BLOCK, 1))
    assert not (pixels % PALETTE_STEP).any()


def test_ink_keeps_the_colours_and_draws_lines() -> None:
    scene = training_scene(Random(1))

    plain, ink = (np.asarray(picture.convert("HSV")) for picture in (render(scene), render(scene, style="ink")))

    lines = np.asarray(render(scene, style="ink").convert("L")) < 110
    assert 0.005 < lines.mean() < 0.25
    coloured = ~lines & (plain[..., 1] > 100)
    turned = np.abs(plain[..., 0].astype(int) - ink[..., 0])[coloured]
    assert np.median(np.minimum(turned, 256 - turned)) < 12
