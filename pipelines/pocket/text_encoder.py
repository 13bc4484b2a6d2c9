"""The text encoder, and the auxiliary task that teaches it early: read the attributes off a caption."""

from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pipelines.pocket.captions import Wording, caption, random_wording
from pipelines.pocket.muon import Optimizers
from pipelines.pocket.parallel import Workers
from pipelines.pocket.scenery import SETTINGS, TIMES, WEATHER
from pipelines.pocket.scenes import POSITIONS, SIZES, Scene, training_scene
from pipelines.pocket.sitting import Average, Every, Sitting
from pipelines.pocket.subjects import COLOURS, SUBJECTS

WIDTH = 128
UNSAID = -100
_PRETRAINING_BATCH = 128
_PEAK_LEARNING_RATE = 2e-3

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "subject": tuple(SUBJECTS),
    "colour": tuple(COLOURS),
    "position": tuple(POSITIONS),
    "size": tuple(SIZES),
    "companion": ("none", *SUBJECTS),
    "companion colour": tuple(COLOURS),
    "setting": tuple(SETTINGS),
    "time": tuple(TIMES),
    "weather": tuple(WEATHER),
}


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Build the untrained encoder."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=3 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class AttributeHeads(nn.Module):
    """Linear readings of the attributes from the pooled text; used in training only."""

    def __init__(self) -> None:
        """One reading per attribute."""
        super().__init__()
        self.readings = nn.ModuleList(nn.Linear(WIDTH, len(values)) for values in ATTRIBUTES.values())

    def loss(self, pooled: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy; `pooled` is (batch, width), `labels` (batch, attributes) with UNSAID left out."""
        losses = []
        for index, reading in enumerate(self.readings):
            wanted = labels[:, index]
            if (wanted != UNSAID).any():
                losses.append(functional.cross_entropy(reading(pooled), wanted, ignore_index=UNSAID))
        return torch.stack(losses).mean()

    def accuracy(self, pooled: Tensor, labels: Tensor) -> float:
        """Return the share of mentioned attributes read correctly."""
        said = labels != UNSAID
        read = torch.stack([reading(pooled).argmax(-1) for reading in self.readings], 1)
        return ((read == labels) & said).sum().item() / said.sum().item()


@dataclass(frozen=True)
class Captioned:
    """Token ids (batch, length) and attribute labels (batch, attributes) of captions; UNSAID where unmentioned."""

    token_ids: Tensor
    labels: Tensor


def caption_batch(
    scenes: list[Scene], random: Random, tokenizer: CLIPTokenizer, *, empty_share: float = 0.0, padded: bool = True
) -> Captioned:
    """Word each scene afresh; `empty_share` of the portraits' captions are empty, as guidance needs.

    No caption means one large subject in the middle: all scenes are more than a small network can paint unasked.
    """
    texts: list[str] = []
    labels: list[list[int]] = []
    for scene in scenes:
        if scene.is_portrait and random.random() < empty_share:
            texts.append("")
            labels.append([UNSAID] * len(ATTRIBUTES))
            continue
        wording = random_wording(random)
        texts.append(caption(scene, random, wording=wording))
        labels.append(_labels(scene, wording))
    encoded = tokenizer(
        texts, padding="max_length" if padded else "longest", max_length=77, truncation=True, return_tensors="pt"
    )
    return Captioned(encoded.input_ids, torch.tensor(labels))


def pretrain_text_encoder(
    sitting: Sitting, encoder: CLIPTextModel, heads: AttributeHeads, tokenizer: CLIPTokenizer
) -> None:
    """Train encoder and heads on captions alone until the sitting ends."""
    optimizers = Optimizers([encoder, heads], lr=_PEAK_LEARNING_RATE)
    workers, accuracy, step, log = Workers(), Average(50), 0, Every(15)
    while sitting.progress(step) < 1:
        random = Random(-1 - step)
        batch = caption_batch(
            [training_scene(random) for _ in range(_PRETRAINING_BATCH)], random, tokenizer, padded=False
        )
        pooled = encoder(input_ids=batch.token_ids).pooler_output
        heads.loss(pooled, batch.labels).backward()  # type: ignore[no-untyped-call]
        optimizers.step(workers, lr=sitting.learning_rate(_PEAK_LEARNING_RATE, step, decay_from=0.5))
        accuracy.add(heads.accuracy(pooled.detach(), batch.labels))
        step += 1
        if log.due():
            sitting.log(f"text {step} steps of {_PRETRAINING_BATCH}, {accuracy.value:.1%} of the attributes read")
    sitting.log(f"text {step} steps, {accuracy.value:.1%} of the attributes read")


def _labels(scene: Scene, said: Wording) -> list[int]:
    other = scene.companion if said.companion else None
    figure = scene.figure
    values: tuple[str | None, ...] = (
        figure.subject,
        figure.colour if said.colour else None,
        figure.position if said.position else None,
        figure.size if said.size else None,
        other.subject if other else "none",
        other.colour if other and said.colour else None,
        scene.setting if said.setting else None,
        scene.time if said.time else None,
        scene.weather if said.weather else None,
    )
    return [
        UNSAID if value is None else names.index(value)
        for value, names in zip(values, ATTRIBUTES.values(), strict=True)
    ]
