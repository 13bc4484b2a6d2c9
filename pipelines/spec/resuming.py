"""Whether a checkpoint may be taken up: what a training has learnt belongs to one request. No torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.spec.errors import InvalidRequest, ModelError
from pipelines.spec.safetensors_header import read_header
from pipelines.spec.training import TrainingRequest

CHECKPOINT_NAME = "checkpoint.safetensors"
IDENTITY = "identity"
"""Key of a checkpoint's metadata: what it belongs to, as JSON."""
FREE_FIELDS = frozenset(
    {
        *("data", "existing", "save_every", "validation_every", "validation_prompts", "validation_seed"),
        *("description", "author", "licence"),
    }
)
"""Fields that may differ when a training is taken up again: what is learnt does not depend on them.

`data` is only where the pictures are; what they are is compared by their hash.
"""


def lasting(request: TrainingRequest) -> dict[str, Any]:
    """Return the fields that decide about what is learnt."""
    return request.model_dump(mode="json", exclude=set(FREE_FIELDS))


def check_checkpoint(path: Path, request: TrainingRequest) -> None:
    """Refuse a checkpoint that is not of this request; pictures and model are compared when it is taken up.

    Raises:
        InvalidRequest: there is none, it is damaged, or it belongs to another request.
    """
    if not path.is_file():
        raise InvalidRequest(
            f"existing: there is no checkpoint {path} to resume; choose refuse or overwrite", field="existing"
        )
    wanted = lasting(request)
    try:
        saved: dict[str, Any] = json.loads(read_header(path).metadata[IDENTITY])
    except (ModelError, KeyError, ValueError) as error:
        raise damaged(path, error) from error
    refuse_another({field: saved.get(field) for field in wanted}, wanted, path)


def refuse_another(saved: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint of another training.

    Args:
        saved: what it belongs to.
        wanted: what is asked.
        path: the checkpoint.

    Raises:
        InvalidRequest: naming the first field that differs.
    """
    for field in sorted((saved.keys() | wanted.keys()) - FREE_FIELDS):  # an older studio kept `data` too
        if saved.get(field) != wanted.get(field):
            what = {"data_sha256": "data", "model_fingerprint": "model"}.get(field, field)
            told = f" {saved.get(field)!r}, and {wanted.get(field)!r} is asked" if what == field else ""
            raise InvalidRequest(
                f"{what}: the checkpoint {path} was made with another {what}{told}; "
                "give what it was made with, or existing: overwrite",
                field=what,
            )


def damaged(path: Path, error: Exception) -> InvalidRequest:
    """Return what is said of a checkpoint that cannot be read."""
    return InvalidRequest(f"the checkpoint {path} is damaged ({error}); choose existing: overwrite", field="existing")
