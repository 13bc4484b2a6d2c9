"""The form: widgets and the request they stand for, matched by field name. Bounds and hints come from the request."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from pipelines.spec.errors import InvalidRequest, NotFound
from pipelines.spec.hires import DEFAULT_STRENGTH
from pipelines.spec.lora_tags import write_lora
from pipelines.spec.model import Model
from pipelines.spec.request import GenerationRequest, bounds, field_names
from pipelines.spec.schedulers import NOISE_SCHEDULES, SCHEDULERS
from pipelines.spec.templates import TEMPLATES
from pipelines.spec.upscalers import DEFAULT_UPSCALER, PICTURE_UPSCALERS, UPSCALERS, upscaler_label
from studio.core import Studio
from studio.ui.masking import mask_input
from studio.ui.widgets import Updates, can_show, hint, image_input, number_input, read_number

LABELS: Mapping[str, str] = {
    "prompt": "Prompt",
    "negative_prompt": "Negative prompt",
    "styles": "Styles",
    "model": "Model",
    "loras": "LoRAs",
    "init_image": "Image",
    "mask_image": "Mask",
    "width": "Width",
    "height": "Height",
    "num_inference_steps": "Steps",
    "guidance_scale": "Guidance",
    "strength": "Strength",
    "step_rule": "Steps with an image",
    "resize_mode": "Fit the image",
    "upscaler": "Enlarge the image with",
    "invert_mask": "Repaint what is black",
    "mask_blur_x": "Mask blur, sideways",
    "mask_blur_y": "Mask blur, up and down",
    "masked_content": "Start the masked part from",
    "inpaint_area": "Paint",
    "mask_padding": "Padding",
    "mask_mode": "Greys of the mask",
    "soft_schedule_bias": "Soft: schedule bias",
    "soft_preservation": "Soft: preservation",
    "soft_contrast_boost": "Soft: contrast boost",
    "soft_mask_influence": "Soft: mask influence",
    "soft_difference_threshold": "Soft: difference threshold",
    "soft_difference_contrast": "Soft: difference contrast",
    "outpaint_left": "Grow left",
    "outpaint_top": "Grow upwards",
    "outpaint_right": "Grow right",
    "outpaint_bottom": "Grow downwards",
    "scheduler": "Scheduler",
    "noise_schedule": "Noise schedule",
    "sigma_min": "Last noise level",
    "sigma_max": "First noise level",
    "rho": "Rho",
    "eta": "Eta",
    "s_churn": "Churn",
    "s_tmin": "Churn from",
    "s_tmax": "Churn up to",
    "s_noise": "Noise strength",
    "clip_skip": "Clip skip",
    "emphasis": "Emphasis",
    "prompt_comments": "Comments in prompts",
    "seed": "Seed",
    "variation_seed": "Variation seed",
    "variation_strength": "Variation",
    "seed_resize_width": "Seed's width",
    "seed_resize_height": "Seed's height",
    "noise_source": "Noise",
    "eta_noise_seed_delta": "Seed delta (ENSD)",
    "hires_scale": "Times larger",
    "hires_width": "To width",
    "hires_height": "To height",
    "hires_upscaler": "Enlarge with",
    "hires_steps": "Steps, second pass",
    "hires_strength": "Strength, second pass",
    "hires_scheduler": "Scheduler, second pass",
    "hires_noise_schedule": "Noise schedule, second pass",
    "hires_guidance_scale": "Guidance, second pass",
    "hires_prompt": "Prompt, second pass",
    "hires_negative_prompt": "Negative prompt, second pass",
    "hires_model": "Model, second pass",
    "tile_size": "Tiles of",
    "tile_overlap": "Tiles share",
    "num_images": "Images",
    "output_format": "Format",
    "template": "Template",
    "negative_template": "Template of the negative prompt",
    "hires_template": "Template, second pass",
    "hires_negative_template": "Template of its negative prompt",
}
SHAPES: Mapping[str, float] = {"Square": 1, "Portrait": 2 / 3, "Landscape": 3 / 2, "Wide": 16 / 9}
"""Width divided by height."""

CHOICE_LABELS: Mapping[str, Mapping[str, str]] = {
    "step_rule": {"a1111": "As in A1111", "exact": "Exactly those asked for"},
    "resize_mode": {"stretch": "Stretch", "crop": "Crop", "fill": "Fill up", "latent": "Stretch its latents"},
    "masked_content": {
        "original": "Itself",
        "fill": "The colours around it",
        "latent_noise": "Noise",
        "latent_nothing": "Nothing",
    },
    "inpaint_area": {"whole_picture": "The whole picture", "only_masked": "Only what is masked"},
    "mask_mode": {"hard": "Ignore them", "soft": "Blend softly", "differential": "How much may change"},
    "emphasis": {"a1111": "A1111", "no_norm": "No norm", "comfy": "ComfyUI"},
    "noise_source": {"cpu": "Processor", "device": "Device", "nv": "NVIDIA card"},
    "output_format": {},
}
"""How the choices of a field are called; those that are not named here, by their own names."""

_NUMBERS = tuple(name for name in field_names() if bounds(name)["type"] in {"integer", "number"})
_SWITCHES = tuple(name for name in field_names() if bounds(name)["type"] == "boolean")
_ENUMS = tuple(name for name in field_names() if "enum" in bounds(name))
_SAME = ("hires_scheduler", "hires_noise_schedule", "hires_model")
"""Choices that are, by default, those of the first pass."""
_CHOICES = ("scheduler", "noise_schedule", "model", "upscaler", "hires_upscaler", *_SAME, *_ENUMS)
_IMAGES = ("init_image", "mask_image")


_ALWAYS: Mapping[str, str] = {
    "prompt": "a red house on a green hill at night",
    "seed": "random",
    "variation_seed": "random",
    "sigma_min": "the model's",
    "sigma_max": "the model's",
    "rho": "the schedule's",
    "eta": "the scheduler's",
    "s_tmax": "no limit",
    "seed_resize_width": "as the picture",
    "seed_resize_height": "as the picture",
    "hires_scale": "no second pass",
    "hires_width": "",
    "hires_height": "",
    "hires_steps": "the same",
    "hires_strength": f"{DEFAULT_STRENGTH:g}",
    "hires_guidance_scale": "the same",
    "hires_prompt": "the same",
    "hires_negative_prompt": "the same",
    "tile_size": "the whole picture",
    "tile_overlap": "half of a tile",
    **dict.fromkeys(TEMPLATES.values(), ""),
}
"""What an empty widget means, or might hold, with every model."""


class RequestForm:
    """Widgets of all request fields, made but not yet placed: a tab renders each where it belongs.

    A widget left empty means the model's default, which it shows as its placeholder.

    Args:
        studio: knows the models and keeps the images that users give.
    """

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        model = self._model(None)
        self.widgets: dict[str, Component] = {name: self._make(name, model) for name in field_names()}

    images = _IMAGES
    """The fields whose widgets hold files."""

    def __getitem__(self, field: str) -> Component:
        return self.widgets[field]

    def __iter__(self) -> Iterator[Component]:
        return iter(self.widgets.values())

    def read(self, values: Sequence[Any]) -> GenerationRequest:
        """Turn the widgets' values, in the order of the fields, into a request. Images are stored first.

        Raises:
            InvalidRequest: naming the field.
        """
        given = {name: value for name, value in zip(self.widgets, values, strict=True) if value not in (None, "")}
        if "init_image" not in given:
            given.pop("strength", None)
        return GenerationRequest.parse({name: self._to_field(name, value) for name, value in given.items()})

    def write(self, request: GenerationRequest) -> Updates:
        """Return updates that make the form stand for a request; models that are not installed are left out."""
        request = self._studio.as_typed(request)
        installed = {model.name for model in self._studio.models()}
        values = {name: self._to_widget(name, getattr(request, name)) for name in self.widgets}
        if request.model not in installed and (default := self._model(None)) is not None:
            values["model"] = default.name
        if request.hires_model not in installed:
            values["hires_model"] = ""
        starts_from_image = values["init_image"] is not None
        hints = self.hints(request.model, scheduler=request.scheduler, starts_from_image=starts_from_image)
        return {widget: gr.update(value=values[name], **hints.get(widget, {})) for name, widget in self.widgets.items()}

    def restore(self, kept: object) -> Updates:
        """Return updates that put back what a page kept: the value of each field's widget.

        The page may be older than the studio: what is unknown by now stays as it is on a new page.
        """
        given = {name: value for name, value in kept.items() if name in self.widgets} if isinstance(kept, dict) else {}
        model, scheduler = (
            value if can_show(self[name], value := given.get(name)) else None for name in ("model", "scheduler")
        )
        updates: dict[Block, dict[str, Any]] = self.hints(model, scheduler=scheduler)
        for name, value in given.items():
            update = updates.setdefault(self[name], {})
            if can_show(self[name], value, choices=update.get("choices")):
                update["value"] = value
        return {widget: gr.update(**update) for widget, update in updates.items()}

    def hints(
        self, model_name: str | None, *, scheduler: str | None = None, starts_from_image: bool = False
    ) -> dict[Block, dict[str, Any]]:
        """Return what empty widgets mean with a model, and which noise schedules a scheduler knows."""
        model = self._model(model_name)
        hints: dict[Block, dict[str, Any]] = {
            self[name]: {"placeholder": _default(name, model)} for name in (*_NUMBERS, "negative_prompt")
        }
        if starts_from_image:
            hints |= {self[name]: {"placeholder": "the image's shape"} for name in ("width", "height")}
        hints[self["scheduler"]] = {"choices": _schedulers(model)}
        hints[self["loras"]] = {"choices": self._loras(model)}
        hints[self["styles"]] = {"choices": self._styles()}
        hints[self["noise_schedule"]] = {"choices": _noise_schedules(model, scheduler=scheduler or None)}
        return hints

    def lora_choices(self, model_name: str | None) -> dict[str, Any]:
        """Return an update with the LoRAs that are there at this moment and fit a model."""
        return gr.update(choices=self._loras(self._model(model_name)))

    def style_choices(self) -> dict[str, Any]:
        """Return an update with the styles that are there at this moment."""
        return gr.update(choices=self._styles())

    def shaped(self, model_name: str | None, ratio: float) -> tuple[int, int]:
        """Return width and height of about a model's native area, with a ratio of width to height."""
        model = self._model(model_name)
        if model is None:
            return 512, 512
        area, step = model.native_width * model.native_height, model.family.size_multiple
        return round((area * ratio) ** 0.5 / step) * step, round((area / ratio) ** 0.5 / step) * step

    def _model(self, name: str | None) -> Model | None:
        """Return the model of that name, else the default one; None when it is not installed."""
        wanted = name or self._studio.settings.default_model
        return next((model for model in self._studio.models() if model.name == wanted), None)

    def _loras(self, model: Model | None) -> list[str]:
        """Return the names of the LoRAs that fit a model, as far as is known."""
        family = model.family.name if model else ""
        usable = ((lora.name, lora.header.family) for lora in self._studio.loras() if lora.header)
        return [name for name, made_for in usable if not (family and made_for) or made_for == family]

    def _styles(self) -> list[str]:
        """Return the names of the styles. A file that cannot be read is told where its styles are asked for."""
        try:
            return [style.name for style in self._studio.styles()]
        except InvalidRequest:
            return []

    def _make(self, name: str, model: Model | None) -> Component:
        common: dict[str, Any] = {
            "label": LABELS[name],
            "info": hint(bounds(name), limits=name != "seed"),
            "elem_id": name,
            "render": False,
        }
        if name in _NUMBERS:
            return number_input(placeholder="random" if name == "seed" else _default(name, model), **common)
        if name in _CHOICES:
            return self._make_choice(name, model, common)
        if name == "loras":
            return gr.Dropdown(
                self._loras(model), value=[], multiselect=True, allow_custom_value=True, filterable=True, **common
            )
        if name == "styles":
            return gr.Dropdown(self._styles(), value=[], multiselect=True, allow_custom_value=True, **common)
        if name in _IMAGES:
            del common["info"]
            return (mask_input if name == "mask_image" else image_input)(height=180, **common)
        if name in _SWITCHES:
            return gr.Checkbox(value=bounds(name)["default"], min_width=120, **common)
        lines, max_lines = (3, 10) if name == "prompt" else (2, 6)
        return gr.Textbox(placeholder=_default(name, model), lines=lines, max_lines=max_lines, **common)

    def _make_choice(self, name: str, model: Model | None, common: dict[str, Any]) -> Component:
        choices: Callable[[], list[tuple[str, str]]] = {
            "scheduler": lambda: _schedulers(model),
            "noise_schedule": lambda: _noise_schedules(model, scheduler=None),
            "model": self._models,
            "upscaler": self._picture_upscalers,
            "hires_upscaler": self._upscalers,
            "hires_scheduler": lambda: [("The same", ""), *((row.label, name) for name, row in SCHEDULERS.items())],
            "hires_noise_schedule": lambda: [
                ("The same", ""),
                *((each, name) for name, each in NOISE_SCHEDULES.items()),
            ],
            "hires_model": lambda: [("The same", ""), *self._models()],
        }.get(name, lambda: [(CHOICE_LABELS[name].get(kind, kind.upper()), kind) for kind in bounds(name)["enum"]])
        value = {"model": model.name if model else None, **{each: bounds(each)["default"] for each in _ENUMS}}
        return gr.Dropdown(choices(), value=value.get(name, ""), min_width=160, **common)

    def _models(self) -> list[tuple[str, str]]:
        return [(known.name, known.name) for known in self._studio.models()]

    def _upscalers(self) -> list[tuple[str, str]]:
        default = f"{upscaler_label(DEFAULT_UPSCALER)} (default)"
        return [(default, ""), *((upscaler_label(name), name) for name in self._studio.upscalers())]

    def _picture_upscalers(self) -> list[tuple[str, str]]:
        names = (name for name in self._studio.upscalers() if name in PICTURE_UPSCALERS or name not in UPSCALERS)
        return [(f"{upscaler_label('lanczos')} (default)", ""), *((upscaler_label(name), name) for name in names)]

    def _to_field(self, name: str, value: Any) -> Any:
        if name in _IMAGES:
            return self._studio.inputs.put(value if isinstance(value, bytes) else Path(value), field=name)
        return read_number(bounds(name), value) if name in _NUMBERS else value

    def _to_widget(self, name: str, value: Any) -> Any:
        if value is None:
            return "" if name in _CHOICES else None
        if name in _IMAGES:
            return self.image_value(value)
        if name == "loras":
            return [write_lora(lora) for lora in value]
        if name == "styles":
            return list(value)
        return str(value).removesuffix(".0") if name in _NUMBERS else value

    def image_value(self, input_id: str) -> str | None:
        """Return a stored input under a name that tells browsers its type; None if it is gone."""
        try:
            path, suffix = self._studio.inputs.path(input_id), self._studio.inputs.kind(input_id)
        except NotFound:
            return None
        copy = self._studio.settings.uploads_dir / f"{input_id}.{suffix}"
        shutil.copyfile(path, copy)
        return str(copy)


def _default(name: str, model: Model | None) -> str:
    """Return what an empty widget means, for its placeholder."""
    if name in _ALWAYS:
        return _ALWAYS[name]
    if model is None:
        return ""
    native = {"width": model.native_width, "height": model.native_height}
    always = bounds(name).get("default")
    value = native.get(name) or (model.default(name) if always is None else always)
    return f"{value:g}" if isinstance(value, int | float) else value or "nothing in particular"


def _schedulers(model: Model | None) -> list[tuple[str, str]]:
    default = f"{SCHEDULERS[model.default('scheduler')].label} (default)" if model else "Default"
    return [(default, ""), *((row.label, name) for name, row in SCHEDULERS.items())]


def _noise_schedules(model: Model | None, *, scheduler: str | None) -> list[tuple[str, str]]:
    chosen = scheduler or (model.default("scheduler") if model else None)
    possible = SCHEDULERS[chosen].noise_schedules if chosen else frozenset(NOISE_SCHEDULES)
    own = f"{NOISE_SCHEDULES[SCHEDULERS[chosen].noise_schedule]} (automatic)" if chosen else "Automatic"
    return [(own, ""), *((label, name) for name, label in NOISE_SCHEDULES.items() if name in possible)]
