"""Which upscale models lie in their folder: each is one safetensors file, whose name without the ending is its name."""

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from pipelines.spec.errors import InvalidRequest, NotFound
from pipelines.spec.pickles import WAY_OUT
from pipelines.spec.upscalers import INSTALL_SPANDREL, PICTURE_UPSCALERS, UPSCALERS

SUFFIX = ".safetensors"
_ENDING = re.compile(r"\.(safetensors|pth|pt|ckpt|bin|onnx)\Z")


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
    built_in = ", ".join(PICTURE_UPSCALERS if field == "upscaler" else UPSCALERS)
    path = next((path for path in folder.glob(f"*{SUFFIX}") if name in {path.stem, path.name}), None)
    if path is None:
        other = next((path for path in sorted(folder.glob("*")) if name in {path.stem, path.name}), None)
        if other is not None:
            raise InvalidRequest(
                f"{field} {name!r}: {other.name} is no safetensors file, and others can run code when they are "
                f"read; get one of safetensors, or, if it is a pickle: {WAY_OUT}",
                field=field,
            )
        known = ", ".join((built_in, *installed_upscalers(folder)))
        raise NotFound(f"{field} {name!r} is not there; there are {known} (model files live in {folder})")
    if find_spec("spandrel") is None:
        raise InvalidRequest(
            f"{field} {name!r} is a model file, which needs spandrel: {INSTALL_SPANDREL}; or choose one of {built_in}",
            field=field,
        )
    return path


def upscaler_finder(folder: Path) -> Callable[[str], str | None]:
    """Return a function from any program's name to that of an upscale model that is installed and can run, or None."""

    def find(name: str) -> str | None:
        for spelled in (name, alike(name, installed_upscalers(folder))):
            with suppress(InvalidRequest, NotFound):
                return find_upscaler(spelled or name, folder, field="upscaler").stem
        return None

    return find


def alike(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is another but for case, ending, and what is neither letter nor digit nor plus."""
    return next((each for each in known if _bare(each) == _bare(name)), None)


def _bare(name: str) -> str:
    return "".join(char for char in _ENDING.sub("", name.casefold()) if char.isalnum() or char == "+")
