"""What the API answers with. Each view is made from one thing of the studio."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from fastapi import Depends, Request
from pydantic import BaseModel, Field

from pipelines.spec.loras import ResolvedLora
from pipelines.spec.model import Model
from pipelines.spec.request import GenerationRequest
from pipelines.spec.training import TrainingRequest
from studio.core import Studio
from studio.gallery import GalleryImage
from studio.jobs import Job, JobKind, JobState
from studio.store import InstalledLora, described_lora


def _studio(request: Request) -> Studio:
    studio: Studio = request.app.state.studio
    return studio


StudioDep = Annotated[Studio, Depends(_studio)]
"""The studio that the app serves."""


class JobView(BaseModel):
    """A job as it stands. Times are seconds since the epoch."""

    id: str
    kind: JobKind
    state: JobState
    request: GenerationRequest | TrainingRequest = Field(description="As asked, with the seed that was drawn.")
    created_at: float
    started_at: float | None
    finished_at: float | None
    device: str | None = Field(description="Where it runs, once a worker has it.")
    attempt: int
    image_index: int = Field(
        description="How many pictures were finished before the one being made, or those made at once."
    )
    images_at_once: int = Field(description="How many pictures are being made.")
    step: int = Field(description="Steps done of that picture, or of the training.")
    num_steps: int = Field(description="Steps of one picture, or of the training; 0 until the model is loaded.")
    loss: float | None = Field(description="Of a training: the mean of its latest steps.")
    status: str = Field(description="Where it stands, in a few words.")
    progress: float = Field(description="How much is done, from 0 to 1.")
    eta: float | None = Field(description="Seconds that are probably left.")
    cancel_requested: bool
    note: str | None = Field(description="Of a training that is done: what could not be painted, and why.")
    error: str | None = Field(description="Why it failed, in words.")

    @classmethod
    def of(cls, job: Job) -> Self:
        return cls(**{name: getattr(job, name) for name in cls.model_fields})


class ImageView(BaseModel):
    """A picture of the gallery; its bytes are at `/images/{id}/file`."""

    id: str
    job_id: str
    index: int
    width: int
    height: int
    name: str = Field(description="The file's name.")
    sha256: str = Field(description="Of the file.")
    created_at: float = Field(description="Seconds since the epoch.")
    request: GenerationRequest = Field(description="What ran; posting it again makes the same picture.")
    loras: tuple[ResolvedLora, ...] = Field(description="The LoRAs that were applied, and their SHA-256.")
    embeddings: Mapping[str, str] = Field(description="The embeddings that its prompts name, and their SHA-256.")
    provenance: Mapping[str, Any] = Field(description="Device, precision and versions that made the pixels.")

    @classmethod
    def of(cls, image: GalleryImage) -> Self:
        return cls(
            id=image.id,
            job_id=image.job_id,
            index=image.index,
            width=image.width,
            height=image.height,
            name=image.path.name,
            sha256=image.sha256,
            created_at=image.created_at,
            request=image.request.asked(),
            loras=image.request.loras,
            embeddings=image.request.embeddings,
            provenance=image.provenance,
        )


class ImagePage(BaseModel):
    """Some pictures, newest first, and how many there are in all."""

    images: list[ImageView]
    total: int


class ModelView(BaseModel):
    """An installed model."""

    name: str
    family: str
    description: str
    licence: str
    openness: str
    native_width: int
    native_height: int
    tasks: list[str]
    defaults: dict[str, Any] = Field(description="What a request's empty fields mean with this model.")
    sha256: str | None = Field(description="Of its weights, as in pictures' records, once it has been computed.")

    @classmethod
    def of(cls, model: Model, *, sha256: str | None) -> Self:
        return cls(
            name=model.name,
            family=model.family.label,
            description=model.description,
            licence=model.licence,
            openness=model.openness,
            native_width=model.native_width,
            native_height=model.native_height,
            tasks=sorted(model.family.tasks),
            defaults={**model.family.defaults, **model.defaults},
            sha256=sha256,
        )


class StyleView(BaseModel):
    """A row of a styles file."""

    name: str = Field(description="For `styles`.")
    prompt: str = Field(description="What it adds to a prompt; {prompt} stands for that.")
    negative_prompt: str = Field(description="What it adds to a negative prompt.")


class LoraView(BaseModel):
    """A LoRA file. What its header does not tell is empty."""

    name: str = Field(description="For `loras` and for tags in prompts.")
    title: str = Field(description="What its author calls it; understood as a name too.")
    size: int = Field(description="In bytes.")
    problem: str = Field(description="Why it cannot be used; empty if it can.")
    family: str = Field(description="The model family that it is made for.")
    kind: str = Field(description="LoRA, LoCon, LoHa, LoKr, DoRA, …")
    ranks: list[int]
    alpha: float | None
    layers: dict[str, int] = Field(description="How many layers it changes, by the part of the model.")
    embeddings: dict[str, int] = Field(description="Words that it brings for prompts, and how many tokens each takes.")
    trigger_words: list[str] = Field(description="As noted beside the file, then as its header tells.")
    preferred_weight: float | None = Field(description="As noted beside the file.")
    description: str = Field(description="As noted beside the file.")
    has_preview: bool = Field(description="Whether `/loras/{name}/preview` shows it.")
    licence: str
    file_sha256: str | None = Field(description="Of the file, once it has been computed.")
    sha256: str | None = Field(description="Of its tensors, as in pictures' records, once it has been computed.")
    claimed_sha256: str = Field(description="What its header claims that to be.")
    metadata: dict[str, str] = Field(description="All that its trainer wrote.")

    @classmethod
    def of(cls, lora: InstalledLora) -> Self:
        return cls(**described_lora(lora))


class EmbeddingView(BaseModel):
    """An embedding (textual inversion) in the studio's folder."""

    name: str = Field(description="The word in prompts; letter case does not count.")
    vectors: int = Field(description="How many tokens it takes.")
    made_for: str = Field(description="The models it fits.")
    sha256: str = Field(description="Of the file.")
    note: str = Field(description="What the file says about itself.")
    problem: str = Field(description="Why it cannot be used; empty if it can.")


class StoredInput(BaseModel):
    """An image that requests can name."""

    id: str = Field(description="For `init_image` and `mask_image`.")


class Health(BaseModel):
    """Whether the server answers and somebody works."""

    status: str
    version: str
    workers: list[str] = Field(description="Devices with a living worker.")
    queue_length: int
