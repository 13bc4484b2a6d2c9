"""The judge: a small network that reads subject, colour, setting and time of day off a picture with one subject."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipelines.pocket.muon import Optimizers
from pipelines.pocket.parallel import Workers, lay_channels_last
from pipelines.pocket.scenery import SETTINGS, TIMES
from pipelines.pocket.scenes import Scene, random_scene, render
from pipelines.pocket.sitting import Average, Every, Sitting
from pipelines.pocket.subjects import COLOURS, SUBJECTS
from pipelines.pocket.vae_training import to_pixels

JUDGED: dict[str, tuple[str, ...]] = {
    "subject": tuple(SUBJECTS),
    "colour": tuple(COLOURS),
    "setting": tuple(SETTINGS),
    "time": tuple(TIMES),
}
_FRESH_SEED = 2_000_000_011


class Classifier(nn.Module):
    """Looks at half size; pictures come as (batch, 3, height, width) in -1 to 1."""

    def __init__(self, judged: Mapping[str, tuple[str, ...]] = JUDGED) -> None:
        """Build the untrained network, with one head per attribute."""
        super().__init__()
        widths = (32, 64, 128)
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 5, stride=2, padding=2)]
        for before, after in zip((widths[0], *widths), widths, strict=False):
            layers += [_Residual(before, after, stride=1 if before == after == widths[0] else 2)]
            layers += [_Residual(after, after, stride=1)] if after > widths[0] else []
        self.body = nn.Sequential(*layers)
        self.heads = nn.ModuleList(nn.Linear(2 * widths[-1], len(values)) for values in judged.values())

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return one tensor of scores per judged attribute."""
        features = self.body(functional.avg_pool2d(pixels, 2))
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)
        return [head(pooled) for head in self.heads]

    @torch.no_grad()
    def read(self, pixels: Tensor) -> Tensor:
        """Return the recognised values as indices: (batch, judged attributes)."""
        return torch.stack([scores.argmax(-1) for scores in self(pixels)], 1)

    @torch.no_grad()
    def certainty(self, pixels: Tensor) -> Tensor:
        """Return how sure the reading is, 0 to 1: (batch, judged attributes)."""
        return torch.stack([scores.softmax(-1).amax(-1) for scores in self(pixels)], 1)


@dataclass(frozen=True)
class Judge:
    """A trained classifier, and its share of correct answers per attribute on fresh renders."""

    classifier: Classifier
    accuracy: tuple[float, ...]


@dataclass(frozen=True)
class Lesson:
    """What a judge learns from."""

    name: str
    """Of its checkpoint."""
    draw: Callable[[Random, int], tuple[Tensor, Tensor]]
    """Draws so many pictures, and the true indices of what is judged: (count, judged attributes)."""
    batch_size: int
    learning_rate: float
    """At its peak."""
    decay_from: float
    """The share of the sitting from which it falls."""


def labels_of(scenes: list[Scene]) -> Tensor:
    """Return the true indices of the judged attributes: (scenes, judged attributes)."""
    rows = [(scene.figure.subject, scene.figure.colour, scene.setting, scene.time) for scene in scenes]
    return torch.tensor(
        [[names.index(value) for value, names in zip(row, JUDGED.values(), strict=True)] for row in rows]
    )


def load_judge(sitting: Sitting) -> Judge:
    """Load the judge, or train it for the length of the sitting; in both cases check it on fresh renders."""
    classifier = Classifier()
    state = sitting.load(_LESSON.name)
    if state is None:
        train(sitting, classifier, _LESSON)
        sitting.save(_LESSON.name, classifier.state_dict())
    else:
        classifier.load_state_dict(state)
    classifier.eval()
    return Judge(classifier, tuple(_accuracy(classifier, Random(_FRESH_SEED), count=2000).tolist()))


def single_scene(random: Random) -> Scene:
    """Draw a scene with one subject."""
    while True:
        scene = random_scene(random)
        if scene.companion is None:
            return scene


def worn(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Add blur and grain: a judge must not depend on edges sharper than an autoencoder draws."""
    blurred = functional.avg_pool2d(pixels, 5, stride=1, padding=2, count_include_pad=False)
    pixels = pixels.lerp(blurred, torch.rand(len(pixels), 1, 1, 1, generator=generator))
    return pixels + 0.05 * torch.randn(pixels.shape, generator=generator)


class _Residual(nn.Module):
    def __init__(self, before: int, after: int, *, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride=stride, padding=1)
        self.second = nn.Conv2d(after, after, 3, padding=1)
        self.norms = nn.ModuleList((nn.GroupNorm(4, before), nn.GroupNorm(4, after)))
        self.skip = nn.Conv2d(before, after, 1, stride=stride)

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.first(functional.silu(self.norms[0](features)))
        hidden = self.second(functional.silu(self.norms[1](hidden)))
        return cast(Tensor, hidden + self.skip(features))


def train(sitting: Sitting, classifier: Classifier, lesson: Lesson) -> None:
    """Train until the sitting ends."""
    lay_channels_last(classifier)
    workers = Workers()
    optimizers = Optimizers([classifier], lr=lesson.learning_rate)
    wrong, step, log = Average(30), 0, Every(30)
    while sitting.progress(step) < 1:
        losses = [partial(_loss, classifier, lesson, seed=workers.count * step + half) for half in range(workers.count)]
        wrong.add(workers.backward(losses, optimizers.parameters))
        rate = sitting.learning_rate(lesson.learning_rate, step, decay_from=lesson.decay_from)
        optimizers.step(workers, lr=rate)
        step += 1
        if log.due():
            pictures = step * lesson.batch_size
            sitting.log(f"{lesson.name} {pictures} pictures, {wrong.value:.2%} not read in full")


def _loss(classifier: Classifier, lesson: Lesson, *, seed: int) -> tuple[Tensor, float]:
    random, generator = Random(seed), torch.Generator().manual_seed(seed)
    pixels, labels = lesson.draw(random, lesson.batch_size // 2)
    pixels = worn(pixels, generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = classifier(pixels.contiguous(memory_format=torch.channels_last))
    losses = [functional.cross_entropy(score.float(), labels[:, index]) for index, score in enumerate(scores)]
    right = torch.stack([score.argmax(-1) == labels[:, index] for index, score in enumerate(scores)]).all(0)
    return torch.stack(losses).sum(), 1 - right.float().mean().item()


def _rendered(random: Random, count: int) -> tuple[Tensor, Tensor]:
    scenes = [single_scene(random) for _ in range(count)]
    return to_pixels([render(scene) for scene in scenes]), labels_of(scenes)


_LESSON = Lesson("classifier", _rendered, batch_size=64, learning_rate=2e-3, decay_from=0.5)


def _accuracy(classifier: Classifier, random: Random, *, count: int) -> Tensor:
    right = []
    for _ in range(0, count, 50):
        pixels, labels = _rendered(random, 50)
        right.append(classifier.read(pixels) == labels)
    return torch.cat(right).float().mean(0)
