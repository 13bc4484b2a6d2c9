"""What asks for a picture of ours again, with the files that are here today: names change, weights do not."""

from collections.abc import Mapping
from types import MappingProxyType

from pipelines.spec.request import GenerationRequest
from studio.metadata.meanings import FindLora, FindModel
from studio.metadata.record import Record

MODELS: Mapping[str, str] = MappingProxyType({"model": "model_hash", "hires_model": "hires_model_hash"})
"""Fields that name a model -> where a record's provenance keeps the hash of its weights."""


def asked_here(record: Record, *, find_model: FindModel, find_lora: FindLora) -> GenerationRequest:
    """Return what asks for the picture, models and LoRAs by the names that their files have here and today.

    What is not here keeps its name, so that nobody makes another picture without being told.
    """
    request = record.request
    models = {
        field: find_model(str(name), str(record.provenance.get(key, ""))) or name
        for field, key in MODELS.items()
        if (name := getattr(request, field)) is not None
    }
    loras = []
    for lora in request.loras:
        found = find_lora(lora.name, lora.sha256)
        loras.append(lora.asked().model_copy(update={"name": found.name if found else lora.name}))
    return request.asked().model_copy(update={**models, "loras": tuple(loras)})
