"""Asked -> what will run: fill every default from the model, and refuse what cannot work before anything loads."""

import math
from collections.abc import Mapping
from typing import Any

from pipelines.spec.errors import InvalidRequest
from pipelines.spec.hires import DEFAULT_STRENGTH, HIRES_FIELDS, SIZE_FIELDS, Enlargement
from pipelines.spec.model import Model
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.schedulers import NOISE_SCHEDULES, RHO, SCHEDULERS, SPANNED, ignored
from pipelines.spec.steps import MAX_SCHEDULED_STEPS
from pipelines.spec.upscalers import DEFAULT_UPSCALER, PICTURE_UPSCALERS, UPSCALERS, LatentUpscaler
from pipelines.spec.values import MAX_SEED, MAX_SIDE, MIN_SIDE, StepRule, Task


def resolve(
    request: GenerationRequest,
    model: Model,
    *,
    input_size: tuple[int, int] | None = None,
    hires_model: Model | None = None,
) -> tuple[ResolvedRequest, ...]:
    """Expand a request into one resolved request per image; image i has seed + i. LoRAs: `choosing.choose_loras`.

    Args:
        request: what is asked. A request without a seed is given one.
        model: the installed model it runs on.
        input_size: width and height of `init_image` in pixels, when there is one.
        hires_model: the installed model of the second pass, when the request names one.

    Raises:
        InvalidRequest: naming the field that cannot work with this model.
    """
    request = request.with_seeds()
    _check_task(request, model)
    _check_variation(request)
    width, height = _size(request, model, request.grown(input_size) if input_size else None)
    scheduler, noise_schedule = _sampling(request, model)
    own = SCHEDULERS[scheduler]
    decided = {
        "negative_prompt": _or_default(request, model, "negative_prompt"),
        "model": model.name,
        "loras": (),
        "width": width,
        "height": height,
        "num_inference_steps": _or_default(request, model, "num_inference_steps"),
        "guidance_scale": _or_default(request, model, "guidance_scale"),
        "strength": _strength(request, model),
        "scheduler": scheduler,
        "noise_schedule": noise_schedule,
        "eta": own.eta if request.eta is None else request.eta,
        "clip_skip": _or_default(request, model, "clip_skip"),
        "tile_overlap": _tile_overlap(request, model),
        "embeddings": {},  # found in the prompts once these are expanded
    }
    if any(getattr(request, field) is not None for field in HIRES_FIELDS):
        decided |= _hires(request, model, hires_model or model, first=decided)
    as_asked = {name: getattr(request, name) for name in ResolvedRequest.model_fields.keys() - decided.keys()}
    _check_clip_skip(decided["clip_skip"], model)
    _check_levels(request, noise_schedule)
    _check_noise(request, scheduler, decided.get("hires_scheduler") or scheduler)
    _check_steps(decided["num_inference_steps"], decided["strength"], request.step_rule, scheduler)
    if request.task is Task.INPAINT and request.mask_mode == "differential" and own.steps(10) is None:
        raise InvalidRequest(
            f"mask_mode differential counts steps, and scheduler {scheduler} has no fixed number of them; "
            "choose another scheduler",
            field="mask_mode",
        )
    return tuple(ResolvedRequest(**{**as_asked, **decided, **seeds}) for seeds in _seeds(request))


def check_prompts(request: ResolvedRequest) -> None:
    """Refuse what the prompts ask for and cannot get.

    Raises:
        InvalidRequest: the prompt changes with steps that nobody can count.
    """
    schedulers = [name for name in (request.scheduler, request.hires_scheduler) if name is not None]
    uncounted = next((name for name in schedulers if SCHEDULERS[name].steps(10) is None), None)
    if uncounted is None:
        return
    for field in ("prompt", "negative_prompt", "hires_prompt", "hires_negative_prompt"):
        text: str = getattr(request, field) or ""
        if "[" not in text:
            continue
        from pipelines.spec.prompt import parse, schedule  # a sixth of a second, and most prompts have no such sign

        is_composable = not field.endswith("negative_prompt")
        branches = parse(text, comments=request.prompt_comments, composable=is_composable).branches
        if any(
            len(schedule(branch.text, num_inference_steps=10, hires_steps=hires_steps)) > 1
            for branch in branches
            for hires_steps in (None, 10)[: len(schedulers)]
        ):
            raise InvalidRequest(
                f"{field} changes with the steps, and scheduler {uncounted} has no fixed number of them; "
                "choose another scheduler",
                field=field,
            )


def _seeds(request: GenerationRequest) -> list[dict[str, int | None]]:
    """Return the seeds of each image: the next seed or, with a variation, the same seed and the next variation."""
    field = "variation_seed" if request.variation_strength else "seed"
    first = getattr(request, field)
    if first + request.num_images - 1 > MAX_SEED:
        raise InvalidRequest(
            f"{field} must be at most {MAX_SEED - request.num_images + 1} for {request.num_images} images "
            f"(image i uses {field} + i), got {first}",
            field=field,
        )
    return [{field: first + index} for index in range(request.num_images)]


def _or_default(request: GenerationRequest, model: Model, field: str) -> Any:
    value = getattr(request, field)
    return model.default(field) if value is None else value


def _hires(request: GenerationRequest, model: Model, hires_model: Model, *, first: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the second pass leaves to defaults, most of which are the first pass's."""
    _check_enlargement(request, width=first["width"], height=first["height"])
    scheduler = request.hires_scheduler or first["scheduler"]
    spec = SCHEDULERS[scheduler]
    noise_schedule = request.hires_noise_schedule
    if noise_schedule is None:
        # A1111's "Automatic" is the own schedule of either sampler.
        is_same = request.noise_schedule is not None or scheduler == first["scheduler"]
        inherited = first["noise_schedule"] if is_same else spec.noise_schedule
        noise_schedule = inherited if inherited in spec.noise_schedules else spec.noise_schedule
    _check_noise_schedule(noise_schedule, scheduler, field="hires_noise_schedule")
    upscaler = request.hires_upscaler or DEFAULT_UPSCALER
    _check_hires_model(model, hires_model, upscaler=upscaler, clip_skip=first["clip_skip"])
    steps, strength = request.hires_steps or first["num_inference_steps"], request.hires_strength or DEFAULT_STRENGTH
    _check_steps(steps, strength, "exact", scheduler, fields=("hires_steps", "hires_strength"))
    return {
        "hires_upscaler": upscaler,
        "hires_steps": steps,
        "hires_strength": strength,
        "hires_scheduler": scheduler,
        "hires_noise_schedule": noise_schedule,
        "hires_guidance_scale": request.hires_guidance_scale or first["guidance_scale"],
        "hires_model": None if hires_model.name == model.name else hires_model.name,
    }


def _check_enlargement(request: GenerationRequest, *, width: int, height: int) -> None:
    sizes = [field for field in SIZE_FIELDS if getattr(request, field) is not None]
    if not sizes:
        field = next(field for field in HIRES_FIELDS if getattr(request, field) is not None)
        raise InvalidRequest(
            f"{field} {getattr(request, field)!r:.60} needs a second pass: give hires_scale, or hires_width and "
            "hires_height",
            field=field,
        )
    field = sizes[0]
    if request.task is not Task.TEXT_TO_IMAGE:
        raise InvalidRequest(f"{field} is for text-to-image; take it out, or init_image", field=field)
    if field == "hires_scale" and len(sizes) > 1:
        raise InvalidRequest(f"hires_scale and {sizes[1]} both say how large; give only one of them", field=sizes[1])
    size = Enlargement.of(
        width, height, scale=request.hires_scale, to_width=request.hires_width, to_height=request.hires_height
    )
    becomes = f"{field} {getattr(request, field):g} makes {width}×{height} into {size.width}×{size.height}"
    if size.width < width or size.height < height:
        raise InvalidRequest(f"{becomes}, which is smaller; the second pass enlarges", field=field)
    if max(size.stretched_width, size.stretched_height) > MAX_SIDE:
        raise InvalidRequest(
            f"{becomes}, stretched to {size.stretched_width}×{size.stretched_height}, and {MAX_SIDE} is the most; "
            "choose less",
            field=field,
        )


def _check_hires_model(model: Model, hires_model: Model, *, upscaler: str, clip_skip: int) -> None:
    if hires_model.unet_in_channels == 9:
        raise InvalidRequest(f"hires_model {hires_model.name} is made for inpaint; choose another", field="hires_model")
    if isinstance(UPSCALERS.get(upscaler), LatentUpscaler) and hires_model.family is not model.family:
        raise InvalidRequest(
            f"hires_upscaler {upscaler} stretches latents, and those of {model.name} ({model.family.label}) mean "
            f"nothing to {hires_model.name} ({hires_model.family.label}); choose lanczos or a model file",
            field="hires_upscaler",
        )
    _check_clip_skip(clip_skip, hires_model)


def _check_task(request: GenerationRequest, model: Model) -> None:
    if request.mask_image is not None and request.init_image is None:
        raise InvalidRequest("mask_image needs init_image: give the picture it masks", field="mask_image")
    if any(request.margins) and request.init_image is None:
        side = next(side for side in ("left", "top", "right", "bottom") if getattr(request, f"outpaint_{side}"))
        raise InvalidRequest(
            f"outpaint_{side} {getattr(request, f'outpaint_{side}')} needs init_image: give the picture that grows",
            field=f"outpaint_{side}",
        )
    if request.strength is not None and request.init_image is None:
        raise InvalidRequest(
            f"strength {request.strength} needs init_image: text-to-image has no input to keep", field="strength"
        )
    if request.strength == 0 and request.task is Task.INPAINT:
        raise InvalidRequest("strength 0 paints nothing, and inpaint repaints a part; choose more", field="strength")
    if request.strength == 0 and request.resize_mode == "latent":
        raise InvalidRequest(
            "resize_mode latent stretches what is painted again, and strength 0 paints nothing; "
            "choose stretch, crop or fill",
            field="resize_mode",
        )
    _check_upscaler(request)
    if request.task is Task.INPAINT and request.resize_mode == "latent":
        field = "mask_image" if request.mask_image is not None else "outpaint"
        raise InvalidRequest(
            f"resize_mode latent does not go with {field}; choose stretch, crop or fill", field="resize_mode"
        )
    if request.task not in model.family.tasks:
        raise InvalidRequest(f"model {model.name} ({model.family.label}) cannot do {request.task}", field="model")
    if model.unet_in_channels == 9 and request.task is not Task.INPAINT and request.strength != 0:
        raise InvalidRequest(f"model {model.name} is made for inpaint; give init_image and mask_image", field="model")


def _check_upscaler(request: GenerationRequest) -> None:
    if request.upscaler is None:
        return
    if request.task is not Task.IMAGE_TO_IMAGE:
        raise InvalidRequest(
            f"upscaler {request.upscaler} enlarges the input of image-to-image, and this is {request.task}; "
            "take it out (hires_upscaler is that of a second pass)",
            field="upscaler",
        )
    is_latent = isinstance(UPSCALERS.get(request.upscaler), LatentUpscaler)
    known = f"{', '.join(PICTURE_UPSCALERS)} or a model file"
    if is_latent and request.strength == 0:
        raise InvalidRequest(
            f"upscaler {request.upscaler} stretches latents, and here a picture is enlarged; choose {known}",
            field="upscaler",
        )
    if is_latent or request.resize_mode == "latent":
        raise InvalidRequest(
            f"upscaler {request.upscaler} with resize_mode {request.resize_mode}: latents are stretched by resize_mode "
            f"latent alone, pictures by upscaler {known}",
            field="upscaler",
        )


def _strength(request: GenerationRequest, model: Model) -> float | None:
    """Return the asked strength; where none is asked, an outpainted side has nothing to keep."""
    if request.task is Task.TEXT_TO_IMAGE:
        return None
    if any(request.margins) and request.strength is None:
        return 1.0
    strength: float = _or_default(request, model, "strength")
    return strength


def _size(request: GenerationRequest, model: Model, input_size: tuple[int, int] | None) -> tuple[int, int]:
    """Return the asked size; where none is asked, the input's shape at the model's native area.

    A picture that grows is painted at its own scale instead, so that what is new is as sharp as what was there.
    """
    native_width, native_height = model.native_width, model.native_height
    step = model.family.size_multiple
    if input_size is not None and request.width is None and request.height is None:
        if any(request.margins) and request.inpaint_area == "whole_picture":
            native_width, native_height = (max(MIN_SIDE, math.ceil(side / step) * step) for side in input_size)
        else:
            scale = math.sqrt(native_width * native_height / (input_size[0] * input_size[1]))
            native_width, native_height = (max(MIN_SIDE, round(side * scale / step) * step) for side in input_size)
        if max(native_width, native_height) > MAX_SIDE:
            raise InvalidRequest(
                f"width and height must be given for {input_size[0]}×{input_size[1]} pixels: in that shape "
                f"the picture would be {native_width}×{native_height}, and {MAX_SIDE} is the most",
                field="width",
            )
    width = native_width if request.width is None else request.width
    height = native_height if request.height is None else request.height
    _check_multiples(model, width=width, height=height)
    return width, height


def _check_multiples(model: Model, **sides: int) -> None:
    step = model.family.size_multiple
    for field, side in sides.items():
        if side % step:
            below = side // step * step
            raise InvalidRequest(
                f"{field} must be a multiple of {step} for {model.family.label}, got {side}; "
                f"try {below} or {below + step}",
                field=field,
            )


def _tile_overlap(request: GenerationRequest, model: Model) -> int | None:
    """Return how much tiles share: half of one where nothing is asked, None without tiles."""
    size, overlap, step = request.tile_size, request.tile_overlap, model.family.size_multiple
    if size is None:
        if overlap is not None:
            raise InvalidRequest(f"tile_overlap {overlap} needs tile_size, the side of a tile", field="tile_overlap")
        return None
    if overlap is None:
        overlap = size // 2 // step * step
    _check_multiples(model, tile_size=size, tile_overlap=overlap)
    if overlap > size * 3 // 4:
        raise InvalidRequest(
            f"tile_overlap must be at most three quarters of tile_size {size}, got {overlap}; "
            f"try {size // 2 // step * step}",
            field="tile_overlap",
        )
    return overlap


def _check_clip_skip(clip_skip: int, model: Model) -> None:
    if clip_skip > model.text_encoder_layers:
        raise InvalidRequest(
            f"clip_skip must be at most {model.text_encoder_layers} for model {model.name}, got {clip_skip}",
            field="clip_skip",
        )


def _check_variation(request: GenerationRequest) -> None:
    if request.variation_seed is not None and not request.variation_strength:
        raise InvalidRequest(
            f"variation_seed {request.variation_seed} needs variation_strength above 0, the share of it that is "
            "blended in",
            field="variation_seed",
        )
    sides = {"seed_resize_width": request.seed_resize_width, "seed_resize_height": request.seed_resize_height}
    missing = [name for name, side in sides.items() if side is None]
    if len(missing) == 1:
        raise InvalidRequest(f"{missing[0]} is missing: the size of a seed has a width and a height", field=missing[0])


def _check_steps(
    steps: int,
    strength: float | None,
    rule: StepRule,
    scheduler: str,
    *,
    fields: tuple[str, str] = ("num_inference_steps", "strength"),
) -> None:
    spec = SCHEDULERS[scheduler]
    steps_field, strength_field = fields
    if steps < spec.min_steps or (spec.max_steps is not None and steps > spec.max_steps):
        bound = f"at least {spec.min_steps}" if steps < spec.min_steps else f"at most {spec.max_steps}"
        raise InvalidRequest(
            f"{steps_field} must be {bound} for scheduler {scheduler}, got {steps}; "
            "take another number or another scheduler",
            field=steps_field,
        )
    most_levels = MAX_SCHEDULED_STEPS // spec.timestep_stride - spec.discards_next_to_last
    if strength and rule == "exact" and steps > most_levels * strength:
        most = int(most_levels * strength)
        enough = next(each / 1000 for each in range(1, 1001) if steps <= most_levels * each / 1000)
        raise InvalidRequest(
            f"{strength_field} {strength} with {steps} exact steps would divide the noise into more than {most_levels} "
            f"levels; try {strength_field} {enough}" + (f" or {steps_field} {most}" if most else ""),
            field=strength_field,
        )


def _check_levels(request: GenerationRequest, noise_schedule: str) -> None:
    """Refuse what the noise schedule would ignore."""
    takers = {"sigma_min": SPANNED, "sigma_max": SPANNED, "rho": frozenset(RHO)}
    for field, takes_it in takers.items():
        value: float | None = getattr(request, field)
        if value is not None and noise_schedule not in takes_it:
            raise InvalidRequest(
                f"{field} {value:g} means nothing to noise_schedule {noise_schedule}; leave it empty, "
                f"or choose one of {', '.join(name for name in NOISE_SCHEDULES if name in takes_it)}",
                field=field,
            )
    if request.sigma_min is not None and request.sigma_max is not None and request.sigma_min >= request.sigma_max:
        raise InvalidRequest(
            f"sigma_min must be below sigma_max, got {request.sigma_min:g} and {request.sigma_max:g}; exchange them",
            field="sigma_min",
        )


def _check_noise(request: GenerationRequest, *schedulers: str) -> None:
    """Refuse what the schedulers would ignore."""
    fields = ("eta", "s_churn", "s_tmin", "s_tmax", "s_noise")
    for field in ignored({field: getattr(request, field) for field in fields}, *schedulers):
        takers = ", ".join(name for name, row in SCHEDULERS.items() if field in row.takes)
        raise InvalidRequest(
            f"{field} {getattr(request, field):g} means nothing to scheduler {schedulers[0]}; leave it as it is by "
            f"default, or choose one of {takers}",
            field=field,
        )


def _sampling(request: GenerationRequest, model: Model) -> tuple[str, str]:
    """Return scheduler and noise schedule; an empty noise schedule is the scheduler's own, unless the model has one."""
    scheduler = request.scheduler or model.default("scheduler")
    spec = SCHEDULERS[scheduler]
    if request.noise_schedule is None:
        preferred = model.defaults.get("noise_schedule", spec.noise_schedule)
        return scheduler, preferred if preferred in spec.noise_schedules else spec.noise_schedule
    _check_noise_schedule(request.noise_schedule, scheduler, field="noise_schedule")
    return scheduler, request.noise_schedule


def _check_noise_schedule(noise_schedule: str, scheduler: str, *, field: str) -> None:
    spec = SCHEDULERS[scheduler]
    if noise_schedule not in spec.noise_schedules:
        way_out = "leave it empty" if spec.ignores_schedule else f"choose one of {', '.join(spec.noise_schedules)}"
        raise InvalidRequest(
            f"{field} {noise_schedule} does not exist for scheduler {scheduler}; {way_out}", field=field
        )
