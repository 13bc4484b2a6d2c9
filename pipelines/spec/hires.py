"""The second pass of a picture (hires fix in A1111): how large it becomes, and the request that it is."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.spec.schedulers import SCHEDULERS

if TYPE_CHECKING:
    from pipelines.spec.resolved import ResolvedRequest

SIDE_STEP = 8
"""Pixels of the smallest step in size: one latent."""
DEFAULT_STRENGTH = 0.7
"""What A1111 begins with."""
DEFAULT_SCALE = 2.0
"""Of a finished picture that is to become larger."""
MAX_SCALE = 64
"""Of a picture that is only enlarged."""
SIZE_FIELDS = ("hires_scale", "hires_width", "hires_height")
"""One of them asks for the second pass."""
HIRES_FIELDS = (
    *SIZE_FIELDS,
    *("hires_upscaler", "hires_steps", "hires_strength", "hires_scheduler", "hires_noise_schedule"),
    *("hires_guidance_scale", "hires_prompt", "hires_negative_prompt", "hires_model"),
    *("hires_template", "hires_negative_template"),
)


@dataclass(frozen=True)
class Enlargement:
    """Sizes in pixels, all multiples of 8: the picture is stretched, and the middle of it is painted again."""

    stretched_width: int
    stretched_height: int
    width: int
    """At most the stretched one: the rest is cropped on both sides."""
    height: int

    @classmethod
    def of(
        cls, width: int, height: int, *, scale: float | None, to_width: int | None, to_height: int | None
    ) -> "Enlargement":
        """Return what becomes of width × height, by A1111's rules; what is no multiple of 8 is rounded down.

        Args:
            width: of the first pass.
            height: of the first pass.
            scale: so many times larger.
            to_width: else to this width, alone in the same shape.
            to_height: or this height; with both the picture covers the area.
        """
        if scale is not None:
            stretched = int(width * scale), int(height * scale)
        elif to_height is None or (to_width is not None and width * to_height <= height * to_width):
            stretched = to_width or width, (to_width or width) * height // width
        else:
            stretched = to_height * width // height, to_height
        stretched_width, stretched_height = (side // SIDE_STEP * SIDE_STEP for side in stretched)
        if to_width is None or to_height is None:
            return cls(stretched_width, stretched_height, stretched_width, stretched_height)
        return cls(stretched_width, stretched_height, to_width, to_height)


def second_pass(request: "ResolvedRequest") -> "ResolvedRequest":
    """Return the second pass of a request as a request of its own, which starts from the enlarged first.

    An eta that is the first scheduler's own measure becomes that of the second one. A1111 always runs exactly the steps
    asked for here.
    """
    size = request.enlargement
    assert size is not None
    scheduler = request.hires_scheduler
    assert scheduler is not None
    is_own_eta = request.eta == SCHEDULERS[request.scheduler].eta
    return request.model_copy(
        update={
            "prompt": request.prompt if request.hires_prompt is None else request.hires_prompt,
            "negative_prompt": (
                request.negative_prompt if request.hires_negative_prompt is None else request.hires_negative_prompt
            ),
            "model": request.hires_model or request.model,
            "width": size.width,
            "height": size.height,
            "num_inference_steps": request.hires_steps,
            "guidance_scale": request.hires_guidance_scale,
            "strength": request.hires_strength,
            "step_rule": "exact",
            "scheduler": scheduler,
            "noise_schedule": request.hires_noise_schedule,
            "eta": SCHEDULERS[scheduler].eta if is_own_eta else request.eta,
            **dict.fromkeys(HIRES_FIELDS),
        }
    )
