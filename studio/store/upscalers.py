"""Which upscale models lie in their folder: each is one safetensors file, whose name without the ending is its name."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from pipelines.spec.errors import InvalidRequest, NotFound
from pipelines.spec.pickles import WAY_OUT
from pipelines.spec.upscalers import UPSCALERS

SUFFIX = ".safetensors"


def installed_upscalers(folder: Path) -> list[str]:
    """Return the names of all model files."""
    return sorted(path.stem for path in folder.glob(f"*{SUFFIX}") if path.is_file())


def find_upscaler(name: str, folder: Path, *, field: str) -> Path:
    """Return the file of an upscale model.

    Args:
        name: that of the file, with or without its ending.
        folder: where model files lie.
        field: that names it.

    Raises:
        NotFound: no such file; the message lists what there is.
        InvalidRequest: it is not a safetensors file, or spandrel, which runs it, is not installed.
    """
    path = next((path for path in folder.glob(f"*{SUFFIX}") if name in {path.stem, path.name}), None)
    if path is None:
        other = next((path for path in sorted(folder.glob("*")) if name in {path.stem, path.name}), None)
        if other is not None:
            raise InvalidRequest(
                f"{field} {name!r}: {other.name} is no safetensors file, and others can run code when they are "
                f"read; get one of safetensors, or, if it is a pickle: {WAY_OUT}",
                field=field,
            )
        known = ", ".join((*UPSCALERS, *installed_upscalers(folder)))
        raise NotFound(f"{field} {name!r} is not there; there are {known} (model files live in {folder})")
    if find_spec("spandrel") is None:
        raise InvalidRequest(
            f"{field} {name!r} is a model file, which needs spandrel: "
            "pip install 'open-weights-studio[upscale]'; or choose one of " + ", ".join(UPSCALERS),
            field=field,
        )
    return path


def upscaler_finder(folder: Path) -> Callable[[str], str | None]:
    """Return a function from a name to that of an upscale model that is installed and can run, or None."""

    def find(name: str) -> str | None:
        try:
            return find_upscaler(name, folder, field="upscaler").stem
        except (InvalidRequest, NotFound):
            return None

    return find
