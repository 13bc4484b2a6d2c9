"""A1111's "infotext", in the text field `parameters`, which most other programs and sites can read.

Grammar: prompt, a line "Negative prompt: …", then one line of "key: value" pairs; a value that holds a comma, colon or
line break is written as a JSON string.
"""

import json

from pipelines.spec.request import Task
from pipelines.spec.schedulers import NOISE_SCHEDULES, SCHEDULERS
from studio import __version__
from studio.metadata.record import Record

KEY = "parameters"


def write(record: Record) -> str:
    """Return the infotext of a picture."""
    request = record.request
    pairs: dict[str, object] = {
        "Steps": request.num_inference_steps,
        "Sampler": SCHEDULERS[request.scheduler].label,
        "Schedule type": NOISE_SCHEDULES[request.noise_schedule].label,
        "CFG scale": _number(request.guidance_scale),
        "Seed": request.seed,
        "Size": f"{request.width}x{request.height}",
        "Model": request.model,
    }
    if request.task is not Task.TEXT_TO_IMAGE and request.strength is not None:
        pairs["Denoising strength"] = _number(request.strength)
    if request.template:
        pairs["Template"] = request.template
    pairs["RNG"] = "CPU"
    pairs["Version"] = f"Open Weights Studio {__version__}"
    lines = [request.prompt]
    if request.negative_prompt:
        lines.append(f"Negative prompt: {request.negative_prompt}")
    lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in pairs.items()))
    return "\n".join(lines).strip()


def _number(value: float) -> str:
    return f"{value:g}"


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(sign in text for sign in ",\n:") else text
