"""What a picture says about itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.spec.loras import ALL_ZERO
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.schedulers import SCHEDULERS
from pipelines.spec.values import MAX_IMAGES
from studio import __version__

SCHEMA = 5
"""In 2 to 4, a request had fewer fields; in 1, its schedulers were diffusers' own: see `_upgraded`."""

BLANK_MASK = "the mask is blank, so there was no masked region to paint: the whole picture was painted again"

YEAR_10000 = 253402214400
"""The first moment that no calendar of Python can show, wherever it stands: a day before the year 10000 in UTC."""


@dataclass(frozen=True)
class Record:
    """How one picture came to be: enough to make it again.

    `created_at` is in seconds since the epoch; `provenance` is what the engine reported; `software` is what made it.
    """

    job_id: str
    index: int
    created_at: float
    request: ResolvedRequest
    provenance: Mapping[str, str | int | float | bool]
    software: str = f"Open Weights Studio {__version__}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done otherwise than it was asked, or in vain, in sentences."""
        blank = (BLANK_MASK,) if self.provenance.get("blank_mask") else ()
        audits = ((key, str(said)) for key, said in self.provenance.items() if key.startswith("lora "))
        vain = (key.removeprefix("lora ") for key, audit in audits if audit.endswith(ALL_ZERO))
        return (*blank, *(f"LoRA {name} is {ALL_ZERO}" for name in vain))

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain data."""
        return {
            "schema": SCHEMA,
            "software": self.software,
            "job": self.job_id,
            "index": self.index,
            "created_at": self.created_at,
            "request": self.request.model_dump(mode="json"),
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read plain data back.

        Raises:
            ValueError: it is not such a record, or a newer version made it.
        """
        schema = data.get("schema") if isinstance(data, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            made = f"it was made by a newer version, {data.get('software')!s:.80} (schema {schema})"
            raise ValueError(f"{made}; this one, {__version__}, knows schemas up to {SCHEMA}: update it")
        try:
            stored = _Stored.model_validate(_upgraded(data))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "it"
            raise ValueError(f"{place}: {first['msg'].lower()}, got {first['input']!r:.60}") from error
        return cls(stored.job, stored.index, stored.created_at, stored.request, stored.provenance, stored.software)


def _upgraded(data: Any) -> Any:
    """Bring a record of an older schema to the present one."""
    if not isinstance(data, dict) or data.get("schema") not in {1, 2, 3, 4}:
        return data
    request = data.get("request")
    if isinstance(request, dict):
        request = _with_new_fields(_from_schema_1(request) if data["schema"] == 1 else request)
    return {**data, "schema": SCHEMA, "request": request}


def _with_new_fields(request: Mapping[str, Any]) -> dict[str, Any]:
    """Add the fields that did not exist then: each has a default that means it is not used."""
    defaults = {
        name: field.get_default(call_default_factory=True)
        for name, field in GenerationRequest.model_fields.items()
        if name in ResolvedRequest.model_fields
    }
    return {**defaults, **request}


def _from_schema_1(request: Mapping[str, Any]) -> dict[str, Any]:
    """Say what was not said in schema 1, with the meaning it had then."""
    own = SCHEDULERS.get(str(request.get("scheduler")), SCHEDULERS["euler"])
    then = {"eta": own.eta, "clip_skip": 1, "mask_blur_x": 0.0, "mask_blur_y": 0.0}
    if request.get("noise_schedule") == "default":
        request = {**request, "noise_schedule": own.noise_schedule if own.ignores_schedule else "uniform"}
    return {**then, **request}


class _Stored(BaseModel):
    """The shape of a record as plain data. It may come from anyone's file."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    schema_: Literal[5] = Field(alias="schema")
    job: str = Field(pattern="^[0-9a-f]{16}$")
    index: int = Field(ge=0, lt=MAX_IMAGES)
    software: str = Field(max_length=200)
    created_at: float = Field(ge=0, lt=YEAR_10000)
    request: ResolvedRequest
    provenance: dict[str, str | int | float | bool]
