"""An engine without torch: draws the request, with its LoRAs, as coloured noise. For tests and user interface work."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence

from PIL import Image

from pipelines.spec.engine import GeneratedImage, Inputs, Step
from pipelines.spec.errors import ModelError
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.templates import TEMPLATES


class FakeEngine:
    """Deterministic pictures in no time; the same request gives the same pixels.

    Args:
        step_seconds: how long each step pretends to work.
    """

    def __init__(self, *, step_seconds: float = 0.0) -> None:
        self._step_seconds = step_seconds

    def generate(
        self, requests: Sequence[ResolvedRequest], inputs: Inputs, on_step: Callable[[Step], None]
    ) -> Iterator[GeneratedImage]:
        """Yield one picture per request; see `pipelines.spec.engine.Engine.generate`."""
        for index, request in enumerate(requests):
            _check_loras(request, inputs)
            image = _draw(request)
            num_steps = request.num_inference_steps + (request.hires_steps or 0)
            for step in range(num_steps + 1):
                if step:
                    time.sleep(self._step_seconds)
                on_step(Step(index, step, num_steps, preview=lambda image=image: image))  # type: ignore[misc]
            audits = {f"lora {lora.name}": "1/1: drawing 1" for lora in request.loras}
            yield GeneratedImage(index, request, image, {"engine": "fake", **audits})


def _check_loras(request: ResolvedRequest, inputs: Inputs) -> None:
    """Refuse what an engine that applies LoRAs could not do either."""
    for lora in request.loras:
        file = inputs.loras.get(lora.sha256)
        if file is None or file.sha256 != lora.sha256 or not file.path.is_file():
            raise ModelError(f"LoRA {lora.name} is not the file that was asked for; try again")


def _draw(request: ResolvedRequest) -> Image.Image:
    """Return an 8×8 pattern from the hash of the request, enlarged to its size."""
    notes = dict.fromkeys(("styles", *TEMPLATES.values()), True)
    seen = request.model_dump_json(exclude={**notes, "loras": {"__all__": {"name"}}})  # notes and names paint nothing
    pattern = hashlib.shake_256(seen.encode()).digest(8 * 8 * 3)
    return Image.frombytes("RGB", (8, 8), pattern).resize(request.final_size, Image.Resampling.BICUBIC)
