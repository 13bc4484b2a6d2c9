"""Files of a training, written whole or not at all; those of tensors with equal bytes for equal content."""

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from pipelines.runtime.tensor_files import bytes_of, write_tensors
from pipelines.spec.errors import StorageError


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return what stands behind the header: the bytes of all tensors by name."""
    return b"".join(bytes_of(tensors[name]) for name in sorted(tensors))


def sha256(data: bytes) -> str:
    """Return 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a file; equal arguments give equal bytes.

    Raises:
        StorageError: the disk refused; an older file of that name is as it was.
    """
    in_order = {name: tensors[name] for name in sorted(tensors)}
    replace_file(path, lambda file: write_tensors(file, in_order, metadata))


def replace_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file that appears whole or not at all.

    Raises:
        StorageError: the disk refused; an older file of that name is as it was.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StorageError(f"cannot write {path.name} to {path.parent}: {error.strerror or error}") from error
