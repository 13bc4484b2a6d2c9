"""What asks for a picture of ours again, with the LoRA files that are here today: names change, tensors do not."""

from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolved import ResolvedRequest
from studio.metadata.meanings import FindLora


def asked_here(request: ResolvedRequest, find_lora: FindLora) -> GenerationRequest:
    """Return what asks for the picture, its LoRAs by the names that their files have here and today.

    A LoRA that is not here keeps its name, so that nobody makes another picture without being told.
    """
    loras = []
    for lora in request.loras:
        found = find_lora(lora.name, lora.sha256)
        loras.append(lora.asked().model_copy(update={"name": found.name if found else lora.name}))
    return request.asked().model_copy(update={"loras": tuple(loras)})
