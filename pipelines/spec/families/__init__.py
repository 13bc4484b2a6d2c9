"""The table of model families: one file each. `family_of` finds the family of a diffusers folder by its class name."""

from pipelines.spec.errors import ModelError
from pipelines.spec.families.family import Family
from pipelines.spec.families.sd1 import SD1
from pipelines.spec.families.sdxl import SDXL

FAMILIES: tuple[Family, ...] = (SD1, SDXL)


def family_of(pipeline_class: str) -> Family:
    """Return the family whose pipelines include this class of diffusers.

    Raises:
        ModelError: for a class that no family lists.
    """
    for family in FAMILIES:
        if pipeline_class in family.pipeline_classes:
            return family
    known = ", ".join(name for family in FAMILIES for name in family.pipeline_classes)
    raise ModelError(f"model_index.json names {pipeline_class!r}, which no known family runs; known are {known}")
