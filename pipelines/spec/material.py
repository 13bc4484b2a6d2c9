"""What a training works on, read and checked: all that can be known before a device is looked at. No torch."""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from pipelines.spec.buckets import BatchPlan
from pipelines.spec.dataset import DataSet, Finding, Severity, read_dataset
from pipelines.spec.errors import InvalidRequest, ModelError
from pipelines.spec.literal import as_text
from pipelines.spec.model import Model
from pipelines.spec.prompt import parse
from pipelines.spec.prompt.tokenizing import read_tokenizer
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import check_prompts, resolve
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.trainer import TrainingPlan
from pipelines.spec.training import TrainingRequest
from pipelines.spec.values import MAX_PROMPT_CHARACTERS

VALIDATION_PREFIX = "step-"
READ_TOKENS = 75
"""Of a caption, by CLIP: 77 less one for the beginning and one for the end."""
SHOWN_CAPTIONS = 4
"""How many captions stand in for validation prompts that nobody gave."""


@dataclass(frozen=True)
class Material:
    """The pictures in their batches, and what is painted on the way."""

    request: TrainingRequest
    model: Model
    dataset: DataSet
    batches: BatchPlan
    resolution: int
    clip_skip: int
    shown: list[ResolvedRequest]

    @classmethod
    def read(cls, request: TrainingRequest, model: Model) -> Self:
        """Read the data set and refuse what cannot work on any device. Opens every picture.

        Raises:
            InvalidRequest: naming the field, the value and the way out.
            ModelError: the model's configuration cannot be read.
        """
        if model.unet_in_channels != 4:
            raise InvalidRequest(
                f"model {model.name} is made for inpaint, which LoRAs are not trained on; "
                "choose its text-to-image sibling",
                field="model",
            )
        clip_skip = model.default("clip_skip") if request.clip_skip is None else request.clip_skip
        if clip_skip > model.text_encoder_layers:
            raise InvalidRequest(
                f"clip_skip must be at most {model.text_encoder_layers} for model {model.name}, got {clip_skip}",
                field="clip_skip",
            )
        resolution = request.resolution or round(math.sqrt(model.native_width * model.native_height))
        step = _bucket_step(model)
        if resolution < step:
            raise InvalidRequest(
                f"resolution must be at least {step} for {model.name}, got {resolution}", field="resolution"
            )
        dataset = read_dataset(Path(request.data).expanduser(), caption=request.caption, least_side=resolution // 2)
        dataset = replace(dataset, findings=(*dataset.findings, *_cut_captions(dataset, request, model)))
        batches = BatchPlan.make(
            dataset.examples,
            resolution=resolution,
            step=step,
            buckets=request.aspect_buckets,
            batch_size=request.batch_size,
            seed=request.seed,
        )
        shown = _validation_requests(request, model, [each.caption for each in dataset.examples])
        return cls(request, model, dataset, batches, resolution, clip_skip, shown)

    @property
    def num_steps(self) -> int:
        """How many steps the training takes."""
        return self.request.num_steps(self.batches.batches_per_epoch)

    def plan(self) -> TrainingPlan:
        """Return what the training will be, as far as no device has a say in it."""
        return TrainingPlan(
            num_pictures=len(self.dataset.examples),
            num_steps=self.num_steps,
            batches_per_epoch=self.batches.batches_per_epoch,
            buckets=[(*size, count) for size, count in self.batches.counts().items()],
            findings=self.dataset.findings,
        )


def validation_name(step: int) -> str:
    """Return the name of the picture that shows what is learnt after so many steps."""
    return f"{VALIDATION_PREFIX}{step:06d}.png"


def _bucket_step(model: Model) -> int:
    """Return the pixels that one cell of the U-Net's coarsest level covers; sides are multiples of it."""
    return int(2 ** (sum(_levels(model.path / part / "config.json") for part in ("vae", "unet")) - 2))


def _levels(path: Path) -> int:
    try:
        return len(json.loads(path.read_bytes())["block_out_channels"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} cannot be read ({error}); download the model again") from error


def _cut_captions(dataset: DataSet, request: TrainingRequest, model: Model) -> Iterator[Finding]:
    """Find captions whose end no text encoder reads; a model without a tokenizer is refused when it is loaded."""
    with suppress(ModelError):
        tokenize = read_tokenizer(model.path / "tokenizer")
        for each in dataset.examples:
            count = len(tokenize(request.triggered(each.caption)))
            if count > READ_TOKENS:
                text = f"its caption has {count} tokens, of which the first {READ_TOKENS} are read"
                yield Finding(each.path.relative_to(dataset.folder).as_posix(), Severity.NOTE, text)


def _validation_requests(request: TrainingRequest, model: Model, captions: Sequence[str]) -> list[ResolvedRequest]:
    """Return what is painted: prompt i with seed `validation_seed` + i, everything else the model's default.

    Captions, which stand in for prompts that nobody gave, mean themselves, as they do in training.

    Raises:
        InvalidRequest: a prompt asks for what cannot be painted here.
    """
    is_asked = bool(request.validation_prompts)
    triggered = dict.fromkeys(request.triggered(caption)[: MAX_PROMPT_CHARACTERS // 2] for caption in captions)
    prompts = request.validation_prompts or tuple(map(as_text, tuple(triggered)[:SHOWN_CAPTIONS]))
    resolved = []
    for index, prompt in enumerate(prompts):
        asked = GenerationRequest(
            prompt=prompt,
            template=prompt,
            prompt_comments=is_asked,  # in a caption, "#" is a sign like any other
            seed=request.validation_seed + index,
            clip_skip=request.clip_skip,
        )
        (each,) = resolve(asked, model)
        if is_asked:
            check_prompts(each)
            _refuse_tags(prompt)
        resolved.append(each)
    return resolved


def _refuse_tags(prompt: str) -> None:
    """Only what is being trained is applied: a picture with another LoRA would not show what it does."""
    for tag in parse(prompt).extra_networks:
        raise InvalidRequest(
            f"validation_prompts names <{tag.kind}:{tag.name}>, and only what is trained is applied; take the tag out",
            field="validation_prompts",
        )
