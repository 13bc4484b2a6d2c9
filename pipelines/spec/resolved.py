"""One picture exactly as it will run (ResolvedRequest): what is asked, with every default filled in."""

from collections.abc import Mapping

from pydantic import Field

from pipelines.spec.hires import Enlargement
from pipelines.spec.loras import ResolvedLora
from pipelines.spec.request import BaseRequest, GenerationRequest
from pipelines.spec.templates import as_it_stands
from pipelines.spec.values import (
    Emphasis,
    InpaintArea,
    InputId,
    MaskedContent,
    MaskMode,
    NoiseSource,
    OutputFormat,
    ResizeMode,
    StepRule,
)


class ResolvedRequest(BaseRequest):
    """One picture, exactly as it will run: nothing is left to a default.

    What is None here is not used: images and strength by the task, a variation, another size of the seed, a limit, the
    templates where the prompts came from none, and all of the second pass unless a size asks for it. Where there is
    one, prompts and model that are None are the first pass's.
    """

    prompt: str
    negative_prompt: str
    styles: tuple[str, ...] = ()
    """What was applied to the prompts: a note, like the templates."""
    model: str
    loras: tuple[ResolvedLora, ...] = ()
    init_image: InputId | None
    mask_image: InputId | None
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    strength: float | None
    step_rule: StepRule
    resize_mode: ResizeMode
    upscaler: str | None
    invert_mask: bool
    mask_blur_x: float
    mask_blur_y: float
    masked_content: MaskedContent
    inpaint_area: InpaintArea
    mask_padding: int
    mask_mode: MaskMode
    soft_schedule_bias: float
    soft_preservation: float
    soft_contrast_boost: float
    soft_mask_influence: float
    soft_difference_threshold: float
    soft_difference_contrast: float
    outpaint_left: int
    outpaint_top: int
    outpaint_right: int
    outpaint_bottom: int
    scheduler: str
    noise_schedule: str
    sigma_min: float | None
    sigma_max: float | None
    rho: float | None
    eta: float
    s_churn: float
    s_tmin: float
    s_tmax: float | None
    s_noise: float
    clip_skip: int
    emphasis: Emphasis
    seed: int
    variation_seed: int | None
    variation_strength: float
    seed_resize_width: int | None
    seed_resize_height: int | None
    noise_source: NoiseSource
    eta_noise_seed_delta: int
    hires_scale: float | None
    hires_width: int | None
    hires_height: int | None
    hires_upscaler: str | None
    hires_steps: int | None
    hires_strength: float | None
    hires_scheduler: str | None
    hires_noise_schedule: str | None
    hires_guidance_scale: float | None
    hires_prompt: str | None
    hires_negative_prompt: str | None
    hires_model: str | None
    tile_size: int | None
    tile_overlap: int | None
    output_format: OutputFormat
    prompt_comments: bool = True
    template: str | None = None
    negative_template: str | None = None
    hires_template: str | None = None
    hires_negative_template: str | None = None
    embeddings: Mapping[str, str] = Field(default_factory=dict)
    """The embeddings that the prompts name, and the SHA-256 of their files; the LoRA's, where one brings it."""

    @property
    def enlargement(self) -> Enlargement | None:
        """The sizes of the second pass, if there is one."""
        scale, width, height = self.hires_scale, self.hires_width, self.hires_height
        if scale is None and width is None and height is None:
            return None
        return Enlargement.of(self.width, self.height, scale=scale, to_width=width, to_height=height)

    @property
    def paints_nothing(self) -> bool:
        """Whether the input only becomes larger or smaller: prompts, seed and model then have no part in it."""
        return self.strength == 0

    @property
    def final_size(self) -> tuple[int, int]:
        """Width and height of the last pass."""
        size = self.enlargement
        return (self.width, self.height) if size is None else (size.width, size.height)

    def asked(self) -> GenerationRequest:
        """Return the request that makes exactly this picture again.

        Raises:
            InvalidRequest: this came from a foreign record and holds what nobody can ask.
        """
        loras = tuple(lora.asked() for lora in self.loras)
        fields = as_it_stands(self.model_dump(exclude={"embeddings"}))
        return GenerationRequest.parse({**fields, "loras": loras, "num_images": 1})
