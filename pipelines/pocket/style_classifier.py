"""The judge of styles: reads style, subject, colour, setting and time of day off a picture in any of the styles."""

from functools import partial
from random import Random

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.pocket.classifier import JUDGED, Classifier, Judge, labels_of, single_scene, worn
from pipelines.pocket.muon import Optimizers
from pipelines.pocket.parallel import Workers, lay_channels_last
from pipelines.pocket.scenes import Scene, held_out, render
from pipelines.pocket.sitting import Average, Every, Sitting
from pipelines.pocket.style_pictures import STYLES, styled
from pipelines.pocket.vae_training import to_pixels

PLAIN = "plain"
JUDGED_WITH_STYLE = {**JUDGED, "style": (PLAIN, *STYLES)}
NAME = "style-classifier"
_BATCH_SIZE = 48
_PEAK_LEARNING_RATE = 1e-3
_FRESH_SEED = 2_000_000_033


def load_style_judge(sitting: Sitting) -> Judge:
    """Load the judge, or train it for the length of the sitting, from the judge of plain pictures where there is one.

    In both cases it is checked on fresh renders of scenes that training never shows.
    """
    classifier = Classifier(JUDGED_WITH_STYLE)
    state = sitting.load(NAME)
    if state is None:
        plain = sitting.load("classifier")
        if plain is not None:
            classifier.load_state_dict(plain, strict=False)
        _train(sitting, classifier)
        sitting.save(NAME, classifier.state_dict())
    else:
        classifier.load_state_dict(state)
    classifier.eval()
    return Judge(classifier, tuple(_accuracy(classifier, Random(_FRESH_SEED), count=900).tolist()))


def _train(sitting: Sitting, classifier: Classifier) -> None:
    lay_channels_last(classifier)
    workers = Workers()
    optimizers = Optimizers([classifier], lr=_PEAK_LEARNING_RATE)
    wrong, step, log = Average(30), 0, Every(30)
    while sitting.progress(step) < 1:
        losses = [partial(_loss, classifier, seed=workers.count * step + half) for half in range(workers.count)]
        wrong.add(workers.backward(losses, optimizers.parameters))
        optimizers.step(workers, lr=sitting.learning_rate(_PEAK_LEARNING_RATE, step, decay_from=0.4))
        step += 1
        if log.due():
            sitting.log(f"{NAME} {step * _BATCH_SIZE} pictures, {wrong.value:.2%} not read in full")


def _loss(classifier: Classifier, *, seed: int) -> tuple[Tensor, float]:
    random, generator = Random(seed), torch.Generator().manual_seed(seed)
    count = _BATCH_SIZE // 2
    scenes = [_scene(random, is_held_out=False) for _ in range(count)]
    pixels, labels = _rendered(scenes, first=0)
    pixels = worn(pixels, generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = classifier(pixels.contiguous(memory_format=torch.channels_last))
    losses = [functional.cross_entropy(score.float(), labels[:, index]) for index, score in enumerate(scores)]
    right = torch.stack([score.argmax(-1) == labels[:, index] for index, score in enumerate(scores)]).all(0)
    return torch.stack(losses).sum(), 1 - right.float().mean().item()


def _accuracy(classifier: Classifier, random: Random, *, count: int) -> Tensor:
    right = []
    for first in range(0, count, 50):
        pixels, labels = _rendered([_scene(random, is_held_out=True) for _ in range(50)], first=first)
        right.append(classifier.read(pixels) == labels)
    return torch.cat(right).float().mean(0)


def _rendered(scenes: list[Scene], *, first: int) -> tuple[Tensor, Tensor]:
    """Return pictures in all styles in turn, and the true indices of what is judged."""
    names = JUDGED_WITH_STYLE["style"]
    styles = [(first + index) % len(names) for index in range(len(scenes))]
    pictures = [
        render(scene) if names[style] == PLAIN else styled(scene, names[style])
        for scene, style in zip(scenes, styles, strict=True)
    ]
    return to_pixels(pictures), torch.cat([labels_of(scenes), torch.tensor(styles)[:, None]], dim=1)


def _scene(random: Random, *, is_held_out: bool) -> Scene:
    while True:
        scene = single_scene(random)
        if held_out(scene.figure, setting=scene.setting) is is_held_out:
            return scene
