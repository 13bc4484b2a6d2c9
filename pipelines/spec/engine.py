"""The seam between the application and whatever makes pictures: one protocol with one method."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from PIL import Image

from pipelines.spec.embeddings import EmbeddingFile
from pipelines.spec.loras import LoraFile
from pipelines.spec.model import Model
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.templates import TEMPLATES

OWN_FIELDS = frozenset(
    {
        *("prompt", "negative_prompt", "embeddings", "guidance_scale", "seed", "variation_seed", "variation_strength"),
        *("hires_prompt", "hires_negative_prompt", "hires_guidance_scale", "output_format"),
        *("styles", *TEMPLATES.values()),  # notes, which paint nothing
    }
)
"""Fields in which pictures that are made at once may differ."""


def shared_fields(request: ResolvedRequest) -> dict[str, object]:
    """Return what pictures that are made at once have in common."""
    return request.model_dump(exclude=set(OWN_FIELDS))


@dataclass(frozen=True)
class Inputs:
    """Everything the requests name, opened."""

    model: Model
    init_image: Image.Image | None = None
    """RGB, any size."""
    mask_image: Image.Image | None = None
    """L, any size; 255 is repainted, 0 is kept."""
    loras: Mapping[str, LoraFile] = field(default_factory=dict)
    """Every LoRA that the requests name, by its `sha256`."""
    embeddings: Mapping[str, EmbeddingFile] = field(default_factory=dict)
    """Those that the requests name in `ResolvedRequest.embeddings`."""
    hires_model: Model | None = None
    """What paints the second pass; None is the same model."""
    upscaler: Path | None = None
    """The model file that `upscaler` names, if it names one."""
    hires_upscaler: Path | None = None
    """The model file that `hires_upscaler` names, if it names one."""


@dataclass(frozen=True)
class Step:
    """One denoising step is done."""

    image_index: int
    """Which of the requests, from 0; the first of those that are made at once."""
    step: int
    """Steps done, from 1; 0 says that loading is done and denoising starts."""
    num_steps: int
    """Of both passes together."""
    preview: Callable[[], Image.Image] | None = field(default=None, compare=False)
    """Draws the picture as it stands (small, RGB); costs nothing until called."""
    images_at_once: int = 1
    """How many pictures this step is of."""


@dataclass(frozen=True)
class GeneratedImage:
    """One finished picture and how it came to be."""

    index: int
    """Which of the requests it answers, from 0."""
    request: ResolvedRequest
    image: Image.Image
    """RGB, `final_size` of the request; of the input's size where only its masked region was painted."""
    provenance: Mapping[str, str | int | float | bool]
    """What the request does not say but the pixels depend on: device, dtype, library versions, retries."""


class Engine(Protocol):
    """Makes pictures. Knows torch (or nothing), and neither HTTP nor SQL."""

    def generate(
        self, requests: Sequence[ResolvedRequest], inputs: Inputs, on_step: Callable[[Step], None]
    ) -> Iterator[GeneratedImage]:
        """Yield one picture per request, in order, each as soon as it is finished.

        Args:
            requests: at least one; all name the same model and inputs.
            inputs: the opened model and images.
            on_step: called after every step. It may raise `Cancelled`: the engine then stops at once, unharmed.

        Raises:
            Cancelled: raised by `on_step`, passed on.
            GenerationFailed: a picture could not be made; those already yielded stand.
        """
        ...
