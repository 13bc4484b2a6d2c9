"""What a picture says about itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pipelines.spec.request import ResolvedRequest
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
            KeyError, TypeError, ValueError: it is not such a record.
        """
        if data["schema"] != SCHEMA:
            raise ValueError(f"record has schema {data['schema']!r}; this version reads {SCHEMA}")
        return cls(
            job_id=str(data["job"]),
            index=int(data["index"]),
            created_at=float(data["created_at"]),
            request=ResolvedRequest.model_validate(data["request"]),
            provenance=dict(data["provenance"]),
        )
