"""A finished picture, larger: the request that paints it a second time, and the one that paints nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.spec.errors import InvalidRequest, NotFound
from pipelines.spec.hires import DEFAULT_SCALE, HIRES_FIELDS, MAX_SCALE, SIDE_STEP, SIZE_FIELDS
from pipelines.spec.request import GenerationRequest
from pipelines.spec.templates import TEMPLATES
from pipelines.spec.values import MAX_SIDE, MIN_SIDE
from studio import metadata
from studio.metadata import FindLora, FindModel


def enlarged(path: Path, fields: Mapping[str, Any], *, find_model: FindModel, find_lora: FindLora) -> GenerationRequest:
    """Return the request that a picture's record makes, with a second pass.

    The first pass is that of the picture, bit for bit. What the record says of a second pass stays unless a field says
    otherwise; a new size replaces the old one.

    Args:
        path: a picture made here.
        fields: those of the second pass; without a size, and without one in the record, it becomes twice as large.
        find_model: finds the picture's models by their hashes.
        find_lora: finds its LoRAs likewise.

    Raises:
        NotFound: no such file, or one without a record of ours.
        InvalidRequest: naming the field; a LoRA whose file is another by now repeats no first pass.
    """
    record = metadata.read(path)
    for lora in record.request.loras:
        if (found := find_lora(lora.name, lora.sha256)) is not None and not found.is_exact:
            raise InvalidRequest(
                f"loras: {lora.name} is another file than the one that the picture was made with "
                f"({lora.sha256[:12]}), and its first pass cannot be repeated; put that file back",
                field="loras",
            )
    values = metadata.asked_here(record, find_model=find_model, find_lora=find_lora).model_dump()
    if any(fields.get(field) is not None for field in SIZE_FIELDS):
        values |= dict.fromkeys(SIZE_FIELDS)
    elif record.request.enlargement is None:
        values["hires_scale"] = DEFAULT_SCALE
    made_anew = {note: None for field, note in TEMPLATES.items() if fields.get(field) is not None}
    return GenerationRequest.parse({**values, **made_anew, **fields})


def upscaled(
    path: Path, init_image: str, size: tuple[int, int], *, scale: float | None, fields: Mapping[str, Any]
) -> GenerationRequest:
    """Return the request that resizes a picture and paints nothing: image-to-image of strength 0.

    The file of the larger picture goes on saying all that this one says. Its request has the prompt, the seed and so on
    of a picture of ours, so that the gallery can name it; nothing of that is painted with.

    Args:
        path: the picture.
        init_image: the stored input that it is.
        size: its width and height in pixels.
        scale: so many times larger, in multiples of 8 pixels, rounded down; 2 where no size is given either.
        fields: other fields of the request.

    Raises:
        InvalidRequest: naming the field.
    """
    given = [side for side in ("width", "height") if fields.get(side) is not None]
    if scale is not None and given:
        raise InvalidRequest(f"scale and {given[0]} both say how large; give only one of them", field=given[0])
    if len(given) != 1:
        width, height = _scaled(size, DEFAULT_SCALE if scale is None else scale)
    elif given == ["width"]:
        width, height = fields["width"], int(fields["width"] * size[1] / size[0]) // SIDE_STEP * SIDE_STEP
    else:
        width, height = int(fields["height"] * size[0] / size[1]) // SIDE_STEP * SIDE_STEP, fields["height"]
    told = {name: value for name, value in fields.items() if value is not None}
    values = {**_painted(path), "init_image": init_image, "strength": 0.0, "width": width, "height": height, **told}
    return GenerationRequest.parse(values)


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    if not 0 < scale <= MAX_SCALE:
        raise InvalidRequest(f"scale must be above 0 and at most {MAX_SCALE}, got {scale:g}", field="scale")
    width, height = (int(side * scale) // SIDE_STEP * SIDE_STEP for side in size)
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE:
        made = f"scale {scale:g} of {size[0]}×{size[1]} makes {width}×{height}"
        raise InvalidRequest(f"{made}, and sides must be {MIN_SIDE} to {MAX_SIDE}; choose another", field="scale")
    return width, height


def _painted(path: Path) -> dict[str, Any]:
    """Return what a record says of how its picture was painted, without inputs and without a second pass."""
    try:
        asked = metadata.read(path).request.asked()
    except NotFound:
        return {}
    return asked.model_dump(exclude={*HIRES_FIELDS, *_OF_INPUTS})


_OF_INPUTS = frozenset(
    {
        *("init_image", "mask_image", "resize_mode", "upscaler"),
        *(f"outpaint_{side}" for side in ("left", "top", "right", "bottom")),
    }
)
"""Fields of what a picture was painted on."""
