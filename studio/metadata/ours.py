"""What asks for a picture of ours again, with the files that are here today: names change, weights do not."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from pipelines.spec.lora_tags import write_lora
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolved import ResolvedRequest
from studio.metadata.finding import (
    FindLora,
    FindModel,
    Lacking,
    Note,
    Outcome,
    embedding_notes,
    found_model,
    lora_verdict,
)
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


def files_here(
    record: Record, *, find_model: FindModel, find_lora: FindLora, find_embedding: FindModel
) -> Iterator[Note]:
    """Say of the models, LoRAs and embeddings of a picture of ours which are gone, called otherwise or changed."""
    yield from _models(record, find_model)
    yield from _loras(record.request, find_lora)
    yield from _embeddings(record.request, find_embedding)


def _models(ours: Record, find_model: FindModel) -> Iterator[Note]:
    for field, key in MODELS.items():
        if (name := getattr(ours.request, field)) is not None:
            try:
                found = found_model(name, str(ours.provenance.get(key, "")), find_model)
            except Lacking as lack:
                yield Note(field, name, Outcome.MISSING, str(lack))
            else:
                if found.why:
                    yield Note(field, name, found.outcome, found.why)


def _loras(ours: ResolvedRequest, find_lora: FindLora) -> Iterator[Note]:
    for lora in ours.loras:
        outcome, why = lora_verdict(lora.name, lora.sha256, find_lora(lora.name, lora.sha256))
        yield Note("loras", write_lora(lora), outcome, why or "as it is")


def _embeddings(ours: ResolvedRequest, find_embedding: FindModel) -> Iterator[Note]:
    """Those that LoRAs bring are there with them."""
    brought = {lora.sha256 for lora in ours.loras}
    digests = {name: digest for name, digest in ours.embeddings.items() if digest not in brought}
    return embedding_notes(digests, find_embedding)
