"""How the API reads what is asked: by the request itself, whose errors name the field, the value and the way out."""

from collections.abc import Callable, Mapping
from typing import Annotated

from fastapi import Body
from pydantic import BeforeValidator

from pipelines.spec.errors import InvalidRequest
from pipelines.spec.request import GenerationRequest
from pipelines.spec.training import TrainingRequest


def _read_by(parse: Callable[[Mapping[str, object]], object]) -> BeforeValidator:
    def read(body: object) -> object:
        if not isinstance(body, Mapping):
            raise InvalidRequest(
                f"the body must be a JSON object with the header Content-Type: application/json, got {_named(body)}"
            )
        return parse(body)

    return BeforeValidator(read)


def _named(body: object) -> str:
    return "another type of content" if isinstance(body, bytes) else type(body).__name__


AskedPictures = Annotated[GenerationRequest, _read_by(GenerationRequest.parse), Body()]
AskedTraining = Annotated[TrainingRequest, _read_by(TrainingRequest.parse), Body()]
