"""What a picture says about itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from pipelines.spec.request import MAX_IMAGES, ResolvedRequest
from studio import __version__

SCHEMA = 1


@dataclass(frozen=True)
class Record:
    """How one picture came to be: enough to make it again.

    `created_at` is in seconds since the epoch; `provenance` is what the engine reported.
    """

    job_id: str
    index: int
    created_at: float
    request: ResolvedRequest
    provenance: Mapping[str, str | int | float | bool]

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain data."""
        return {
            "schema": SCHEMA,
            "software": f"Open Weights Studio {__version__}",
            "job": self.job_id,
            "index": self.index,
            "created_at": self.created_at,
            "request": self.request.model_dump(mode="json"),
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read plain data back.

        Raises:
            ValueError: it is not such a record.
        """
        stored = _Stored.model_validate(data)
        return cls(stored.job, stored.index, stored.created_at, stored.request, stored.provenance)


class _Stored(BaseModel):
    """The shape of a record as plain data. It may come from anyone's file."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    schema_: Literal[1] = Field(alias="schema")
    job: str = Field(pattern="^[0-9a-f]{16}$")
    index: int = Field(ge=0, lt=MAX_IMAGES)
    created_at: float = Field(ge=0, lt=2**40)
    request: ResolvedRequest
    provenance: dict[str, str | int | float | bool]
