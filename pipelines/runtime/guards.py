"""What goes wrong on a device: NaN, lack of memory, weights written to. Recognises it, and frees what it leaves."""

import gc
from enum import StrEnum

import torch

from pipelines.spec.errors import LoraError


class Stage(StrEnum):
    """Which model produced the numbers."""

    TEXT_ENCODERS = "text encoders"
    UNET = "unet"
    VAE = "vae"


class BaseChanged(LoraError):
    """The weights of the model itself are no longer those of its files: it is dropped, and loaded again when used."""


class NotFinite(Exception):
    """A model produced NaN or infinity in the precision it ran in."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self.stage = stage


def check_finite(tensor: torch.Tensor, stage: Stage) -> torch.Tensor:
    """Return the tensor unchanged. The test is for NaN and infinity, never for blackness: black is a legal picture.

    Raises:
        NotFinite: naming the stage.
    """
    if not bool(torch.isfinite(tensor).all()):
        raise NotFinite(stage)
    return tensor


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the processor could not allocate. On the processor torch raises a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _MEMORY_SIGNS)


_MEMORY_SIGNS = (
    "can't allocate memory",
    "out of memory",
    "not enough memory",
    "bad_alloc",
    "alloc_failed",
    "could not create a primitive",  # oneDNN, when there is no room for its generated code or its scratch memory
    "could not create a memory object",
)


def release_memory(device: torch.device) -> None:
    """Give back what a failed attempt left. Call it outside the `except` block, whose error keeps frames alive."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
