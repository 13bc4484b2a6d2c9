"""Pictures of what is learnt, made by the studio's own denoising loop: validation prompts, and a sweep of strengths."""

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from pipelines.runtime import autoencoding
from pipelines.runtime.adapters.applied import AppliedLoras
from pipelines.runtime.conditioning import PromptEncoder
from pipelines.runtime.denoiser import Guidance
from pipelines.runtime.guards import is_out_of_memory, release_memory
from pipelines.runtime.loading import Components
from pipelines.runtime.recovery import reduced_memory
from pipelines.runtime.sampling import denoise
from pipelines.spec.canvas import Canvas
from pipelines.spec.material import VALIDATION_PREFIX, validation_name
from pipelines.spec.resolved import ResolvedRequest
from pipelines.training.adapters import Adapter
from pipelines.training.files import replace_file

SWEEP_NAME = "strengths.png"
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
SWEPT_PROMPTS = 2
"""How many of the prompts are painted at every strength."""
_LABEL_HEIGHT = 14


def paint(
    requests: Sequence[ResolvedRequest], components: Components, on_step: Callable[[int], None]
) -> list[Image.Image]:
    """Return one picture per request, with the models as they are at this moment.

    `on_step` is told which is painted, from 1; what it raises ends the painting.

    Where they do not fit into memory beside all that is trained, they are painted again in pieces, as users' pictures
    are.
    """
    try:
        return _painted(requests, components, on_step)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
    release_memory(components.device)  # out here no frame of the failed attempt holds on to memory
    with reduced_memory(components):
        return _painted(requests, components, on_step)


def _painted(
    requests: Sequence[ResolvedRequest], components: Components, on_step: Callable[[int], None]
) -> list[Image.Image]:
    prompts = PromptEncoder()  # a fresh one: a text encoder that is trained gives other embeddings every time
    pictures: list[Image.Image] = []
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
            progress=lambda *_: on_step(len(pictures) + 1),
        )
        pictures.append(autoencoding.to_image(autoencoding.decode(denoised.latents, components=components)))
    return pictures


def forget_pictures(folder: Path, *, after: int) -> None:
    """Delete what an older training of the same name painted after so many steps."""
    stale = (path for path in folder.glob(f"{VALIDATION_PREFIX}*.png") if path.name > validation_name(after))
    for path in (*stale, folder / SWEEP_NAME):
        path.unlink(missing_ok=True)


def swept(requests: Sequence[ResolvedRequest]) -> Sequence[ResolvedRequest]:
    """Return those that are painted at every strength."""
    return requests[:SWEPT_PROMPTS]


def save_row(path: Path, pictures: Sequence[Image.Image]) -> None:
    """Write pictures side by side as a PNG."""
    _save(path, [("", picture) for picture in pictures], columns=len(pictures))


def save_sweep(
    path: Path,
    requests: Sequence[ResolvedRequest],
    *,
    components: Components,
    adapter: Adapter,
    on_step: Callable[[int], None],
) -> None:
    """Write a sheet: one row per request, one column per strength. `on_step`: see `paint`."""
    columns: list[list[Image.Image]] = []
    for strength in STRENGTHS:
        with adapter.at_strength(strength):
            columns.append(paint(requests, components, lambda number: on_step(len(columns) * len(requests) + number)))
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
