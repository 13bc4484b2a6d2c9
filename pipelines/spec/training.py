"""What can be asked of a training (TrainingRequest). Bounds and descriptions stand here once. No torch."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipelines.spec.errors import InvalidRequest
from pipelines.spec.fields import explained
from pipelines.spec.values import MAX_PROMPT_CHARACTERS, MAX_SEED

AdapterKind = Literal["lora", "lokr", "dora"]
Optimizer = Literal["adamw", "adamw8bit"]
LearningRateSchedule = Literal["constant", "linear", "cosine"]
MixedPrecision = Literal["no", "bf16", "fp16"]
SaveDtype = Literal["float16", "bfloat16", "float32"]
Existing = Literal["refuse", "overwrite", "resume"]

DEFAULT_STEPS = 1000
"""Of a request that names neither steps nor epochs."""

OTHER_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "network_dim": "rank",
        "network_alpha": "alpha",
        "dim": "rank",
        "max_train_steps": "steps",
        "max_train_epochs": "epochs",
        "train_batch_size": "batch_size",
        "unet_lr": "learning_rate",
        "text_encoder_lr": "text_encoder_learning_rate",
        "enable_bucket": "aspect_buckets",
        "flip_aug": "flip",
        "caption_dropout_rate": "caption_dropout",
        "shuffle_caption": "shuffle_captions",
        "save_every_n_steps": "save_every",
        "train_data_dir": "data",
        "output_name": "name",
        "save_precision": "save_dtype",
        "lr_warmup_steps": "warmup_steps",
    }
)
"""What other trainers call a field: never accepted, but told to who tries it."""

_Prompt = Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS)]


class TrainingRequest(BaseModel):
    """All that a user can ask of one training of a LoRA."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    data: str = Field(min_length=1, max_length=4096, description="Folder of pictures with captions.")
    name: str = Field(
        max_length=100,
        pattern=r"^[^\W_][\w .+-]*$",
        description="Name of the LoRA, and of its file. Letters, digits, space and . _ + - are allowed.",
    )
    existing: Existing = Field(
        default="refuse",
        description="Where there is a LoRA of this name: refuse, overwrite it, or resume from its last checkpoint.",
    )
    model: str | None = Field(default=None, min_length=1, max_length=256, description="Name of an installed model.")
    kind: AdapterKind = Field(
        default="lora", description="LoRA (arXiv:2106.09685), LoKr (arXiv:2309.14859) or DoRA (arXiv:2402.09353)."
    )
    rank: int = Field(default=16, ge=1, le=1024, description="How much it can learn (network_dim in kohya).")
    alpha: float | None = Field(
        default=None, gt=0, le=1024, description="What it learns counts alpha / rank. Empty: as rank."
    )
    train_conv: bool = Field(default=False, description="Train the convolutions as well (LoCon): better for textures.")
    train_text_encoder: bool = Field(default=False, description="Train the text encoders as well.")
    steps: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description=f"Training steps. Empty: {DEFAULT_STEPS}, unless epochs are given.",
    )
    epochs: int | None = Field(default=None, ge=1, le=100_000, description="How often every picture is seen, instead.")
    batch_size: int = Field(default=1, ge=1, le=256, description="Pictures seen at once.")
    gradient_accumulation_steps: int = Field(
        default=1, ge=1, le=256, description="Batches that make one step: as a larger batch, in less memory."
    )
    learning_rate: float = Field(default=1e-4, gt=0, le=1, description="How fast the U-Net learns.")
    text_encoder_learning_rate: float | None = Field(
        default=None, gt=0, le=1, description="How fast the text encoders learn. Empty: half of learning_rate."
    )
    lr_schedule: LearningRateSchedule = Field(default="cosine", description="How the learning rate ends.")
    warmup_steps: int = Field(default=0, ge=0, le=100_000, description="Steps in which the learning rate rises.")
    optimizer: Optimizer = Field(
        default="adamw", description="adamw8bit needs a CUDA card and the package bitsandbytes."
    )
    weight_decay: float = Field(default=0.01, ge=0, le=1, description="Pulls what is learnt towards nothing.")
    max_grad_norm: float = Field(default=1.0, ge=0, le=1000, description="Longer gradients are cut. 0: never.")
    min_snr_gamma: float | None = Field(
        default=None, gt=0, le=100, description="Weigh noise levels evenly (arXiv:2303.09556); 5 is usual. Empty: off."
    )
    noise_offset: float = Field(
        default=0.0, ge=0, le=1, description="Noise common to all pixels of a channel: darker darks, lighter lights."
    )
    ema_decay: float | None = Field(
        default=None, gt=0, lt=1, description="Keep a running average of what is learnt, e.g. 0.999. Empty: off."
    )
    resolution: int | None = Field(
        default=None, ge=64, le=2048, multiple_of=8, description="Side of a square picture. Empty: the model's own."
    )
    aspect_buckets: bool = Field(default=True, description="Keep the shape of pictures; without it they are squared.")
    flip: bool = Field(default=False, description="Show every other picture mirrored.")
    caption: str | None = Field(
        default=None, max_length=MAX_PROMPT_CHARACTERS, description="One caption for pictures that have none."
    )
    trigger_word: str | None = Field(
        default=None, min_length=1, max_length=200, description="Put in front of every caption that lacks it."
    )
    caption_dropout: float = Field(default=0.0, ge=0, le=1, description="Share of pictures shown without a caption.")
    shuffle_captions: bool = Field(default=False, description="Mix the parts of a caption that commas divide.")
    keep_tokens: int = Field(default=0, ge=0, le=100, description="How many first parts stay in place when mixed.")
    clip_skip: int | None = Field(
        default=None, ge=1, le=12, description="Layer of the text encoder, from its end. Empty: the model's own."
    )
    gradient_checkpointing: bool = Field(default=False, description="Less memory, about a third more time.")
    mixed_precision: MixedPrecision = Field(default="no", description="Compute in half precision where it pays.")
    save_dtype: SaveDtype = Field(default="float16", description="Numbers of the finished file.")
    validation_prompts: tuple[_Prompt, ...] = Field(
        default=(),
        max_length=16,
        strict=False,
        description="Painted while training. Empty: captions, with the trigger word.",
    )
    validation_every: int | None = Field(
        default=None, ge=1, le=1_000_000, description="Paint after so many steps. Empty: at the end only."
    )
    validation_seed: int = Field(default=0, ge=0, le=MAX_SEED, description="Prompt i is painted with this seed + i.")
    save_every: int = Field(default=250, ge=1, le=1_000_000, description="Steps between checkpoints.")
    seed: int = Field(default=0, ge=0, le=MAX_SEED, description="Same seed, same data, same LoRA.")
    description: str | None = Field(default=None, max_length=2000, description="What the file says it is.")
    author: str | None = Field(default=None, max_length=200, description="Who the file says made it.")
    licence: str | None = Field(default=None, max_length=200, description="What the file says may be done with it.")

    @field_validator("name")
    @classmethod
    def _name_ends_well(cls, name: str) -> str:
        if name.endswith((".", " ")) or name.lower().endswith(".safetensors"):
            raise ValueError(
                f"must be a file's name without its suffix, got {name!r}; try {name.split('.')[0].strip()!r}"
            )
        return name

    @field_validator("data", "caption", "trigger_word")
    @classmethod
    def _no_nul(cls, text: str | None) -> str | None:
        if text is not None and "\0" in text:
            raise ValueError(f"holds a NUL character at position {text.index(chr(0))}; remove it")
        return text

    @model_validator(mode="after")
    def _fields_go_together(self) -> Self:
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"steps {self.steps} and epochs {self.epochs} both say how long; give one")
        if self.text_encoder_learning_rate is not None and not self.train_text_encoder:
            raise ValueError("text_encoder_learning_rate needs train_text_encoder; turn it on or leave it out")
        if self.keep_tokens and not self.shuffle_captions:
            raise ValueError("keep_tokens needs shuffle_captions; turn it on or leave it out")
        return self

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Build a request from outside data.

        Raises:
            InvalidRequest: naming the field, the value and the way out.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            if not first["loc"]:  # fields that do not go together
                raise InvalidRequest(str(first["ctx"]["error"])) from error
            if first["type"] == "string_pattern_mismatch":
                raise InvalidRequest(
                    f"name must begin with a letter or a digit and hold letters, digits, space and . _ + - only, "
                    f"got {first['input'][:60]!r}; try my-style",
                    field="name",
                ) from error
            raise explained(error, cls, other_names=OTHER_NAMES) from error

    @property
    def effective_alpha(self) -> float:
        """`alpha`, or the rank where none is asked."""
        return float(self.rank if self.alpha is None else self.alpha)

    @property
    def effective_text_encoder_learning_rate(self) -> float:
        """The text encoders' learning rate, asked or half of the U-Net's."""
        asked = self.text_encoder_learning_rate
        return self.learning_rate / 2 if asked is None else asked

    def triggered(self, caption: str) -> str:
        """Return a caption with the trigger word in front, unless it stands in there as a word of its own."""
        word = self.trigger_word
        if word is None or re.search(rf"(?<!\w){re.escape(word)}(?!\w)", caption, re.IGNORECASE):
            return caption
        return f"{word}, {caption}" if caption else word

    def num_steps(self, batches_per_epoch: int) -> int:
        """Return how many steps the training takes.

        Args:
            batches_per_epoch: into how many batches the data set falls.
        """
        if self.epochs is None:
            return self.steps or DEFAULT_STEPS
        return -(-self.epochs * batches_per_epoch // self.gradient_accumulation_steps)
