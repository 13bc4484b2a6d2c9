"""Drawn scenes: repeatable, complete in every style, and truthfully described."""

from random import Random

import numpy as np
import pytest

from pipelines.pocket.captions import SETTING_WORDS, SUBJECT_WORDS, TIME_WORDS, Wording, caption, plain_caption
from pipelines.pocket.scenery import SETTINGS, TIMES, WEATHERS
from pipelines.pocket.scenes import (
    STYLES,
    Figure,
    Scene,
    held_out,
    held_out_combinations,
    mirrored,
    random_scene,
    render,
    render_layers,
    training_scene,
)
from pipelines.pocket.subjects import COLOURS, SUBJECTS


def test_the_world_is_as_large_as_promised() -> None:
    assert len(SUBJECTS) >= 20
    assert len(COLOURS) >= 10
    assert len(SETTINGS) >= 6
    assert set(TIMES) == {"day", "sunset", "night"}
    assert len(STYLES) >= 3


@pytest.mark.parametrize("style", STYLES)
def test_equal_scenes_give_equal_pixels(style: str) -> None:
    scene = random_scene(Random(5))
    assert np.array_equal(render(scene, style=style), render(scene, style=style))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_subject_shows_in_every_style(subject: str, style: str) -> None:
    scene = Scene(Figure(subject, "red", "centre", "small"), "snow", "day", "clouds", seed=3)
    empty, whole = (np.asarray(layer, int) for layer in render_layers(scene, style=style))
    rows, columns = np.nonzero(np.abs(whole - empty).max(-1) > 12)
    assert np.ptp(rows) >= 20
    assert np.ptp(columns) >= 12


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(("time", "weather"), [(time, weather) for time in TIMES for weather in WEATHERS[time]])
def test_every_setting_time_and_weather_can_be_drawn(setting: str, time: str, weather: str) -> None:
    picture = render(Scene(Figure("house", "blue"), setting, time, weather), width=192, height=128)
    assert picture.size == (192, 128)
    assert np.asarray(picture).std() > 20


@pytest.mark.parametrize("colour", COLOURS)
def test_a_subject_is_mostly_of_its_colour(colour: str) -> None:
    scene = Scene(Figure("tent", colour), "hill", "night", "moon", seed=1)
    pixels = np.asarray(render(scene), int)
    near = np.abs(pixels - np.array(COLOURS[colour].base)).max(-1) < 12
    assert near.sum() > 300


def test_an_unknown_style_is_refused() -> None:
    with pytest.raises(ValueError, match="style must be one of flat, pixel-art, ink, got oil"):
        render(random_scene(Random(0)), style="oil")


def test_mirroring_twice_changes_nothing() -> None:
    scene = random_scene(Random(11))
    assert mirrored(mirrored(scene)) == scene


def test_a_tenth_of_the_combinations_is_held_out_for_ever() -> None:
    combinations = list(held_out_combinations())
    share = len(combinations) / (len(SUBJECTS) * len(COLOURS) * len(SETTINGS))
    assert 0.10 <= share <= 0.15
    assert combinations[:2] == [("house", "yellow", "city"), ("house", "green", "sea")]


def test_training_never_meets_a_held_out_combination() -> None:
    random = Random(0)
    scenes = [training_scene(random) for _ in range(2000)]
    assert not any(held_out(figure, setting=scene.setting) for scene in scenes for figure in scene.figures)
    assert {scene.figure.subject for scene in scenes} == set(SUBJECTS)


def test_captions_mention_what_they_are_asked_to() -> None:
    random = Random(1)
    for _ in range(200):
        scene = random_scene(random)
        text = caption(scene, random, wording=Wording()).lower()
        assert scene.figure.colour in text
        assert any(word in text for word in SUBJECT_WORDS[scene.figure.subject])
        assert scene.companion is None or scene.companion.colour in text


def test_captions_vary_and_can_be_short() -> None:
    random, scene = Random(2), random_scene(Random(2))
    texts = {caption(scene, random) for _ in range(200)}
    assert len(texts) > 150
    assert min(len(text.split()) for text in texts) <= 3


def test_the_plain_caption_names_the_four_judged_attributes() -> None:
    scene = Scene(Figure("sailboat", "yellow"), "sea", "sunset", "clear")
    assert plain_caption(scene) == "a yellow sailboat by the sea at sunset"
    assert set(SETTING_WORDS) == set(SETTINGS)
    assert set(TIME_WORDS) == set(TIMES)
