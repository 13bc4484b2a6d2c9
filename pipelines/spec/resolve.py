"""Asked -> what will run: fill every default from the model, and refuse what cannot work before anything loads."""

import math
from typing import Any

from pipelines.spec.errors import InvalidRequest
from pipelines.spec.model import Model
from pipelines.spec.request import MAX_SEED, MAX_SIDE, MAX_STEPS, MIN_SIDE, GenerationRequest, ResolvedRequest, Task
from pipelines.spec.schedulers import NOISE_SCHEDULES, SCHEDULERS


def resolve(
    request: GenerationRequest, model: Model, *, input_size: tuple[int, int] | None = None
) -> tuple[ResolvedRequest, ...]:
    """Expand a request into one resolved request per image; image i has seed + i.

    Args:
        request: what is asked. A request without a seed is given one.
        model: the installed model it runs on.
        input_size: width and height of `init_image` in pixels, when there is one.

    Raises:
        InvalidRequest: naming the field that cannot work with this model.
    """
    request = request.with_seed()
    task = request.task
    _check_task(request, model)
    width, height = _size(request, model, input_size)
    steps: int = _or_default(request, model, "num_inference_steps")
    strength: float | None = None if task is Task.TEXT_TO_IMAGE else _or_default(request, model, "strength")
    if strength is not None and int(steps * strength) < 1:
        enough = next((more for more in range(steps, MAX_STEPS + 1) if int(more * strength) >= 1), None)
        raise InvalidRequest(
            f"strength {strength} leaves no step of {steps}; try strength {math.ceil(100 / steps) / 100}"
            + ("" if enough is None else f" or num_inference_steps {enough}"),
            field="strength",
        )
    scheduler, noise_schedule = _sampling(request, model)
    _check_steps(steps, scheduler)
    assert request.seed is not None
    if request.seed + request.num_images - 1 > MAX_SEED:
        raise InvalidRequest(
            f"seed must be at most {MAX_SEED - request.num_images + 1} for {request.num_images} images "
            f"(image i uses seed + i), got {request.seed}",
            field="seed",
        )
    return tuple(
        ResolvedRequest(
            prompt=request.prompt,
            negative_prompt=_or_default(request, model, "negative_prompt"),
            model=model.name,
            init_image=request.init_image,
            mask_image=request.mask_image,
            width=width,
            height=height,
            num_inference_steps=steps,
            guidance_scale=_or_default(request, model, "guidance_scale"),
            strength=strength,
            scheduler=scheduler,
            noise_schedule=noise_schedule,
            seed=request.seed + index,
            output_format=request.output_format,
            template=request.template,
        )
        for index in range(request.num_images)
    )


def _or_default(request: GenerationRequest, model: Model, field: str) -> Any:
    value = getattr(request, field)
    return model.default(field) if value is None else value


def _check_task(request: GenerationRequest, model: Model) -> None:
    if request.mask_image is not None and request.init_image is None:
        raise InvalidRequest("mask_image needs init_image: give the picture it masks", field="mask_image")
    if request.strength is not None and request.init_image is None:
        raise InvalidRequest(
            f"strength {request.strength} needs init_image: text-to-image has no input to keep", field="strength"
        )
    if request.task not in model.family.tasks:
        raise InvalidRequest(f"model {model.name} ({model.family.label}) cannot do {request.task}", field="model")
    if model.unet_in_channels == 9 and request.task is not Task.INPAINT:
        raise InvalidRequest(f"model {model.name} is made for inpaint; give init_image and mask_image", field="model")


def _size(request: GenerationRequest, model: Model, input_size: tuple[int, int] | None) -> tuple[int, int]:
    """Return the asked size; where none is asked, the input's shape at the model's native area."""
    native_width, native_height = model.native_width, model.native_height
    step = model.family.size_multiple
    if input_size is not None and request.width is None and request.height is None:
        scale = math.sqrt(native_width * native_height / (input_size[0] * input_size[1]))
        native_width, native_height = (max(MIN_SIDE, round(side * scale / step) * step) for side in input_size)
        if max(native_width, native_height) > MAX_SIDE:
            raise InvalidRequest(
                f"width and height must be given for an input as long as {input_size[0]}×{input_size[1]}: in its shape "
                f"the picture would be {native_width}×{native_height}, and {MAX_SIDE} is the most",
                field="width",
            )
    width = native_width if request.width is None else request.width
    height = native_height if request.height is None else request.height
    for field, side in (("width", width), ("height", height)):
        if side % step:
            below = side // step * step
            raise InvalidRequest(
                f"{field} must be a multiple of {step} for {model.family.label}, got {side}; "
                f"try {below} or {below + step}",
                field=field,
            )
    return width, height


def _check_steps(steps: int, scheduler: str) -> None:
    most = SCHEDULERS[scheduler].max_steps
    if most is not None and steps > most:
        raise InvalidRequest(
            f"num_inference_steps must be at most {most} for scheduler {scheduler}, got {steps}; "
            "take fewer steps or another scheduler",
            field="num_inference_steps",
        )


def _sampling(request: GenerationRequest, model: Model) -> tuple[str, str]:
    """Return scheduler and noise schedule; a chosen scheduler that lacks the model's default schedule gets its own."""
    scheduler = request.scheduler or model.default("scheduler")
    possible = SCHEDULERS[scheduler].noise_schedules
    if request.noise_schedule is None:
        preferred = model.default("noise_schedule")
        return scheduler, preferred if preferred in possible else "default"
    if request.noise_schedule not in possible:
        labels = ", ".join(name for name in NOISE_SCHEDULES if name in possible)
        raise InvalidRequest(
            f"noise_schedule {request.noise_schedule} does not exist for scheduler {scheduler}; choose one of {labels}",
            field="noise_schedule",
        )
    return scheduler, request.noise_schedule
