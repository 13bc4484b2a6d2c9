"""The files of a diffusers folder, before any is trusted: which there are, whether they are whole, who they are.

Knows nothing of torch. Pickles are refused: reading one runs the code inside it.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.spec import pickles
from pipelines.spec.errors import ModelError
from pipelines.spec.safetensors_header import read_header

FINGERPRINT_BLOCK = 64 * 1024
FINGERPRINT_BLOCKS = 256

Stamp = tuple[tuple[str, int, int, int, int], ...]
"""Per file: relative path, device, inode, size, mtime in nanoseconds."""


@dataclass(frozen=True)
class Weights:
    """The weights of one component: one safetensors file, or the shards of one."""

    files: tuple[Path, ...]
    variant: str | None
    """"fp16" for `model.fp16.safetensors`; None for `model.safetensors`."""

    @property
    def num_parameters(self) -> int:
        """How many numbers the files hold."""
        return sum(math.prod(tensor.shape) for path in self.files for tensor in read_header(path).tensors.values())


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        ModelError: naming the file, when it is missing or is not a JSON object.
    """
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing; download the model again") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON ({error}); download the model again") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} must hold a JSON object, got {type(data).__name__}; download the model again")
    return data


def find_weights(folder: Path) -> Weights:
    """Return the safetensors files of one component's folder, each checked to be whole.

    Raises:
        ModelError: there are none, they are pickles, or one is damaged.
    """
    single = sorted(path for path in folder.glob("*.safetensors") if "-of-" not in path.name)
    plain = [path for path in single if path.stem.count(".") == 0 and "non_ema" not in path.name]
    half = [path for path in single if path.stem.endswith(".fp16") and "non_ema" not in path.name]
    indexes = sorted(folder.glob("*.safetensors.index.json"))
    if plain:
        found = Weights((plain[0],), None)
    elif indexes:
        shards = read_json(indexes[0]).get("weight_map", {}).values()
        found = Weights(tuple(folder / Path(name).name for name in sorted(set(shards))), None)
    elif half:
        found = Weights((half[0],), "fp16")
    else:
        refused = [path.name for path in sorted(folder.glob("*")) if path.suffix in pickles.SUFFIXES]
        if refused:
            raise ModelError(
                f"{folder / refused[0]} is a pickle, which can run code when it is read; "
                f"only safetensors are loaded: get the model's safetensors files, or: {pickles.WAY_OUT}"
            )
        raise ModelError(f"{folder} holds no .safetensors file; download the model again")
    for path in found.files:
        read_header(path)
    return found


def stamp_files(folder: Path) -> Stamp:
    """Return what changes when any file of a model changes; a few `stat` calls, no reading.

    Raises:
        ModelError: the folder is missing.
    """
    if not (folder / "model_index.json").is_file():
        raise ModelError(f"{folder / 'model_index.json'} is missing; download the model again")
    return tuple(
        (path.relative_to(folder).as_posix(), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        for path in _model_files(folder)
        for stat in (path.stat(),)
    )


def fingerprint(folder: Path, files: tuple[Path, ...]) -> str:
    """Return 16 hexadecimal digits that tell one set of weights from another.

    SHA-256 over name, size and up to 256 evenly spaced blocks of 64 KiB of each file: all of a file of up to 16 MiB,
    a sample of 16 MiB of a larger one. It takes no time for any model. It recognises weights, it does not authenticate.
    """
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
        stride = max(FINGERPRINT_BLOCK, size // FINGERPRINT_BLOCKS)
        with path.open("rb") as file:
            for offset in range(0, size, stride):
                file.seek(offset)
                digest.update(file.read(FINGERPRINT_BLOCK))
    return digest.hexdigest()[:16]


def _model_files(folder: Path) -> Iterator[Path]:
    """The files of the folder and of the components' folders, in order; nothing deeper."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from (inner for inner in sorted(path.iterdir()) if inner.is_file())
        elif path.is_file():
            yield path
