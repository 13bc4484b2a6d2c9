"""What sets one model family apart from another, as data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.spec.values import Task


@dataclass(frozen=True)
class Family:
    """One row of the family table."""

    name: str
    label: str
    pipeline_classes: frozenset[str]
    """The `_class_name`s in model_index.json that belong to this family."""
    tasks: frozenset[Task]
    size_multiple: int
    """Width and height are multiples of this many pixels."""
    pools_first_chunk: bool
    """Whether the first 75 tokens alone also say what the picture is as a whole (the pooled embedding)."""
    defaults: Mapping[str, Any]
    """Default of every request field that may be left empty, width and height apart: those are the model's own."""
