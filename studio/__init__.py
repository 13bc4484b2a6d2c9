"""Open Weights Studio: Stable Diffusion and its successors on your own machine.

    from studio import Studio
    images = Studio().generate("a blue boat", num_images=4, seed=1)
    images[0].image, images[0].path, images[0].request

Names are imported when first used, so `import studio` costs milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from studio import environment

environment.silence()

if TYPE_CHECKING:
    from pipelines.spec.errors import (
        AlreadyRunning,
        Cancelled,
        GenerationFailed,
        InvalidRequest,
        ModelError,
        NotANumber,
        NotFound,
        OutOfMemory,
        SomeFailed,
        StorageError,
        StudioError,
    )
    from pipelines.spec.loras import LoraSpec
    from pipelines.spec.request import GenerationRequest
    from pipelines.spec.resolved import ResolvedRequest
    from pipelines.spec.trainer import TrainedLora
    from pipelines.spec.training import TrainingRequest
    from pipelines.spec.values import Task
    from studio.core import Studio
    from studio.gallery import GalleryImage
    from studio.jobs import Job, JobState
    from studio.settings import Settings

__version__ = "0.1.0"

__all__ = [
    "AlreadyRunning",
    "Cancelled",
    "GalleryImage",
    "GenerationFailed",
    "GenerationRequest",
    "InvalidRequest",
    "Job",
    "JobState",
    "LoraSpec",
    "ModelError",
    "NotANumber",
    "NotFound",
    "OutOfMemory",
    "ResolvedRequest",
    "Settings",
    "SomeFailed",
    "StorageError",
    "Studio",
    "StudioError",
    "Task",
    "TrainedLora",
    "TrainingRequest",
]

_HOMES = {
    "GalleryImage": "studio.gallery",
    "GenerationRequest": "pipelines.spec.request",
    "Job": "studio.jobs",
    "JobState": "studio.jobs",
    "LoraSpec": "pipelines.spec.loras",
    "ResolvedRequest": "pipelines.spec.resolved",
    "Settings": "studio.settings",
    "Studio": "studio.core",
    "Task": "pipelines.spec.values",
    "TrainedLora": "pipelines.spec.trainer",
    "TrainingRequest": "pipelines.spec.training",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'studio' has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "pipelines.spec.errors")), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
