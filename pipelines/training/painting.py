"""Pictures of what is learnt, made by the studio's own denoising loop: validation prompts, and a sweep of strengths."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from pipelines.runtime import autoencoding
from pipelines.runtime.adapters.applied import AppliedLoras
from pipelines.runtime.conditioning import PromptEncoder
from pipelines.runtime.denoiser import Guidance
from pipelines.runtime.loading import Components
from pipelines.runtime.sampling import denoise
from pipelines.spec.canvas import Canvas
from pipelines.spec.errors import InvalidRequest
from pipelines.spec.model import Model
from pipelines.spec.prompt import parse
from pipelines.spec.request import GenerationRequest, ResolvedRequest
from pipelines.spec.resolve import check_prompts, resolve
from pipelines.spec.training import TrainingRequest
from pipelines.training.adapters import Adapter
from pipelines.training.files import replace_file

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
SHOWN_CAPTIONS = 4
"""How many captions stand in for validation prompts that nobody gave."""
SWEPT_PROMPTS = 2
"""How many of the prompts are painted at every strength."""
_LABEL_HEIGHT = 14


def validation_requests(request: TrainingRequest, model: Model, captions: Sequence[str]) -> list[ResolvedRequest]:
    """Return what is painted: prompt i with seed `validation_seed` + i, everything else the model's default.

    Raises:
        InvalidRequest: a prompt asks for what cannot be painted here.
    """
    prompts = request.validation_prompts or tuple(dict.fromkeys(captions))[:SHOWN_CAPTIONS]
    resolved = []
    for index, prompt in enumerate(prompts):
        asked = GenerationRequest(
            prompt=prompt, template=prompt, seed=request.validation_seed + index, clip_skip=request.clip_skip
        )
        (each,) = resolve(asked, model)
        if request.validation_prompts:
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


def paint(requests: Sequence[ResolvedRequest], components: Components) -> list[Image.Image]:
    """Return one picture per request, with the models as they are at this moment."""
    prompts = PromptEncoder()  # a fresh one: a text encoder that is trained gives other embeddings every time
    pictures = []
    for request in requests:
        guidance = Guidance(
            prompt=prompts.encode(request, components=components),
            negative_prompt=prompts.encode_negative(request, components=components),
            scale=request.guidance_scale,
        )
        denoised = denoise(
            [request],
            components=components,
            canvas=Canvas(),
            guidance=[guidance],
            loras=AppliedLoras(),
            progress=lambda *_: None,
        )
        pictures.append(autoencoding.to_image(autoencoding.decode(denoised.latents, components=components)))
    return pictures


def save_row(path: Path, pictures: Sequence[Image.Image]) -> None:
    """Write pictures side by side as a PNG."""
    _save(path, [("", picture) for picture in pictures], columns=len(pictures))


def save_sweep(path: Path, requests: Sequence[ResolvedRequest], *, components: Components, adapter: Adapter) -> None:
    """Write a sheet: one row per prompt, one column per strength."""
    requests, columns = requests[:SWEPT_PROMPTS], []
    for strength in STRENGTHS:
        with adapter.at_strength(strength):
            columns.append(paint(requests, components))
    cells = [
        (f"{strength:g}", column[row])
        for row in range(len(requests))
        for strength, column in zip(STRENGTHS, columns, strict=True)
    ]
    _save(path, cells, columns=len(STRENGTHS))


def _save(path: Path, cells: Sequence[tuple[str, Image.Image]], *, columns: int) -> None:
    width, height = max(cell.width for _, cell in cells), max(cell.height for _, cell in cells)
    label = _LABEL_HEIGHT if any(text for text, _ in cells) else 0
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * (width + 2) - 2, rows * (height + label + 2) - 2), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (text, picture) in enumerate(cells):
        left, top = index % columns * (width + 2), index // columns * (height + label + 2)
        draw.text((left + 2, top + 1), text, fill="black")
        sheet.paste(picture, (left, top + label))
    replace_file(path, lambda file: sheet.save(file, format="PNG"))
