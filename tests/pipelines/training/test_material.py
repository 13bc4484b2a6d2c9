"""What is known of the pictures before a device is looked at, and how they are cut to their bucket."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.spec.material import Material
from pipelines.spec.model import Model
from pipelines.spec.prompt import Weighted, parse, weigh
from pipelines.spec.training import TrainingRequest
from pipelines.training.latents import fit_to_bucket


def _material(data: Path, model: Model, **fields: Any) -> Material:
    return Material.read(TrainingRequest.parse({"data": str(data), "name": "x", **fields}), model)


def test_pictures_on_the_way_show_the_lora_triggered(data: Path, sd1: Model) -> None:
    shown = [each.prompt for each in _material(data, sd1, trigger_word="hous").shown]

    assert shown == [f"hous, a house, number {index}, red" for index in range(4)]
    given = _material(data, sd1, validation_prompts=("as", "said"), validation_seed=7).shown
    assert [(each.prompt, each.seed) for each in given] == [("as", 7), ("said", 8)]


def test_a_caption_that_is_painted_means_itself(tmp_path: Path, sd1: Model) -> None:
    captions = ["boat (photo) [x] #1", "<lora:x:1> AND more", "ratio 16:9", "a" * 8000]
    for index, caption in enumerate(captions):
        Image.new("RGB", (64, 64), (index, 0, 0)).save(tmp_path / f"{index}.png")
        (tmp_path / f"{index}.txt").write_text(caption)

    shown = _material(tmp_path, sd1).shown

    prompts = [parse(each.prompt, comments=each.prompt_comments) for each in shown]
    assert [prompt.extra_networks for prompt in prompts] == [()] * 4
    read = [[weigh(branch.text) for branch in prompt.branches] for prompt in prompts]
    assert read[:3] == [[(Weighted(caption, 1.0),)] for caption in captions[:3]]
    (given,) = _material(tmp_path, sd1, validation_prompts=("(loud)#no",)).shown
    assert (given.prompt, given.prompt_comments) == ("(loud)#no", True)


def test_a_caption_that_no_text_encoder_reads_to_its_end_is_told(tmp_path: Path, sd1: Model) -> None:
    for index, count in enumerate([75, 76]):
        Image.new("RGB", (64, 64), (index, 0, 0)).save(tmp_path / f"{index}.png")
        (tmp_path / f"{index}.txt").write_text(count * ", ")

    (finding,) = _material(tmp_path, sd1).dataset.findings

    assert str(finding) == "1.png: its caption has 76 tokens, of which the first 75 are read"


@pytest.mark.parametrize(("size", "bucket"), [((150, 100), (64, 64)), ((100, 150), (96, 48)), ((20, 31), (64, 96))])
def test_a_picture_covers_its_bucket_and_what_stands_out_is_cut_evenly(
    size: tuple[int, int], bucket: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    scale = max(bucket[0] / size[0], bucket[1] / size[1])
    covering = round(size[0] * scale), round(size[1] * scale)
    left, top = (covering[0] - bucket[0]) // 2, (covering[1] - bucket[1]) // 2
    whole = Image.fromarray(pixels).resize(covering, Image.Resampling.LANCZOS)

    cut, time_ids = fit_to_bucket(Image.fromarray(pixels), bucket)

    expected = whole.crop((left, top, left + bucket[0], top + bucket[1]))
    # Pillow rounds between its two passes, whose weights the box shifts in the last digit.
    np.testing.assert_allclose(np.asarray(cut).astype(int), np.asarray(expected).astype(int), atol=1)
    assert time_ids == (size[1], size[0], top, left, bucket[1], bucket[0])


def test_a_picture_of_any_length_is_cut_before_it_is_enlarged() -> None:
    cut, time_ids = fit_to_bucket(Image.new("RGB", (2, 40000), "red"), (1024, 1024))

    assert (cut.size, cut.getpixel((5, 5))) == ((1024, 1024), (255, 0, 0))
    assert time_ids == (40000, 2, 10239488, 0, 1024, 1024)
