"""The judge of styles: reads style, subject, colour, setting and time of day off a picture in any of the styles."""

from random import Random

import torch
from torch import Tensor

from pipelines.pocket.classifier import JUDGED, Classifier, Judge, Lesson, labels_of, single_scene, train
from pipelines.pocket.scenes import STYLES, Scene, held_out, render
from pipelines.pocket.sitting import Sitting
from pipelines.pocket.vae_training import to_pixels

JUDGED_WITH_STYLE = {**JUDGED, "style": STYLES}
_FRESH_SEED = 2_000_000_033


def load_style_judge(sitting: Sitting) -> Judge:
    """Load the judge, or train it for the length of the sitting, from the judge of plain pictures where there is one.

    In both cases it is checked on fresh renders of scenes that training never shows.
    """
    classifier = Classifier(JUDGED_WITH_STYLE)
    state = sitting.load(_LESSON.name)
    if state is None:
        plain = sitting.load("classifier")
        if plain is not None:
            classifier.load_state_dict(plain, strict=False)
        train(sitting, classifier, _LESSON)
        sitting.save(_LESSON.name, classifier.state_dict())
    else:
        classifier.load_state_dict(state)
    classifier.eval()
    return Judge(classifier, tuple(_accuracy(classifier, Random(_FRESH_SEED), count=900).tolist()))


def _accuracy(classifier: Classifier, random: Random, *, count: int) -> Tensor:
    right = []
    for first in range(0, count, 50):
        pixels, labels = _rendered([_scene(random, is_held_out=True) for _ in range(50)], first=first)
        right.append(classifier.read(pixels) == labels)
    return torch.cat(right).float().mean(0)


def _rendered(scenes: list[Scene], *, first: int) -> tuple[Tensor, Tensor]:
    """Return pictures in all styles in turn, and the true indices of what is judged."""
    names = STYLES
    styles = [(first + index) % len(names) for index in range(len(scenes))]
    pictures = [render(scene, style=names[style]) for scene, style in zip(scenes, styles, strict=True)]
    return to_pixels(pictures), torch.cat([labels_of(scenes), torch.tensor(styles)[:, None]], dim=1)


def _scene(random: Random, *, is_held_out: bool) -> Scene:
    while True:
        scene = single_scene(random)
        if held_out(scene.figure, setting=scene.setting) is is_held_out:
            return scene


def _drawn(random: Random, count: int) -> tuple[Tensor, Tensor]:
    return _rendered([_scene(random, is_held_out=False) for _ in range(count)], first=0)


_LESSON = Lesson("style-classifier", _drawn, batch_size=48, learning_rate=1e-3, decay_from=0.4)
