"""Pickles: what torch.save writes. Reading one can run code, so none is loaded; what is in it can be written anew."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

SUFFIXES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".pkl"})
"""How they are usually called; their content decides."""

WAY_OUT = "`studio convert FILE` makes a safetensors file of it, and runs nothing that is in it"


@dataclass(frozen=True)
class Unpickled:
    """The tensors of a pickle, ready to be written as a safetensors file."""

    num_tensors: int
    size: int
    """Bytes of all tensors."""
    left_out: tuple[str, ...]
    """What else the pickle holds: names of entries that are no tensors."""
    write: Callable[[BinaryIO], None]
    """Writes the file's content."""
