"""The LoRA files of some folders, what lies beside them, and how they are called. Opens none of them."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.spec.lora_notes import CONFIG, config_stamp
from pipelines.spec.lora_tags import writable_name
from studio.store.beside import NOTES
from studio.store.hashes import key
from studio.store.headers import Stamp

SUFFIX = ".safetensors"
PREVIEWS = tuple(f"{ending}.{kind}" for ending in ("", ".preview") for kind in ("png", "jpg", "jpeg", "webp", "avif"))
"""How a picture beside a file is called, behind the file's name."""
_NAMES_OF_FOLDERS = frozenset({"adapter_model", "pytorch_lora_weights"})
"""What PEFT and diffusers call every file: the folder that it lies in bears the name."""


@dataclass(frozen=True)
class LoraOnDisk:
    """A file as the folders show it."""

    folder: Path
    path: Path
    place: str
    """The path within the folder, with / and without the ending (PEFT's and diffusers' files: the folder's)."""
    stamp: Stamp
    preview: Path | None
    """A picture beside the file, of the same name."""
    notes: tuple[Path, ...]
    """Other programs' notes beside the file, of the same name."""


def lora_files(folders: Sequence[Path]) -> Iterator[LoraOnDisk]:
    """Yield the LoRA files of all folders, each once, however many links lead to it; what is hidden is left out."""
    seen: set[str] = set()
    for folder in folders:
        waiting = [str(folder)]
        while waiting:
            here = waiting.pop()
            if (real_here := os.path.realpath(here)) in seen:
                continue
            seen.add(real_here)
            try:
                with os.scandir(here) as entries:
                    inside = sorted((entry for entry in entries if not entry.name.startswith(".")), key=_by_name)
            except OSError:  # not there, or not ours to read
                continue
            waiting += [entry.path for entry in inside if entry.is_dir()][::-1]
            names = {entry.name for entry in inside}
            for entry in inside:
                if not entry.name.lower().endswith(SUFFIX) or not entry.is_file():  # a broken link is none
                    continue
                real = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(real_here, entry.name)  # noqa: PTH118 - a thousand of them
                if real not in seen and (file := _file(folder, entry, names)) is not None:
                    seen.add(real)
                    yield file


def _by_name(entry: "os.DirEntry[str]") -> str:
    return entry.name


def _file(folder: Path, entry: "os.DirEntry[str]", names: set[str]) -> LoraOnDisk | None:
    """Return a file as it is; None if it is gone since it was listed."""
    path = Path(entry.path)
    place = path.relative_to(folder).with_suffix("")
    if place.name in _NAMES_OF_FOLDERS and place.parent.name:
        place = place.parent
    stem = path.stem
    preview = next((path.with_name(stem + ending) for ending in PREVIEWS if stem + ending in names), None)
    notes = tuple(path.with_name(stem + ending) for ending in NOTES if stem + ending in names)
    try:
        state = key(path, entry.stat())
    except OSError:
        return None
    stamp = state, config_stamp(path) if CONFIG in names else None
    return LoraOnDisk(folder, path, _readable(place.as_posix()), stamp, preview, notes)


def named(found: Iterable[LoraOnDisk]) -> dict[str, LoraOnDisk]:
    """Name each file: as it is called, else by its path in its folder, else with that folder's name, else with all."""
    files = list(found)
    stems = Counter(file.place.rpartition("/")[2] for file in files)
    names: dict[str, LoraOnDisk] = {}
    for file in files:
        stem = file.place.rpartition("/")[2]
        ways = (
            stem if stems[stem] == 1 else file.place,
            file.place,
            f"{_readable(file.folder.name)}/{file.place}",
            _readable(file.path.as_posix()),
        )
        names[next(name for name in map(writable_name, ways) if name not in names)] = file
    return names


def _readable(text: str) -> str:
    """Return a path as text: a name may hold bytes that are no character."""
    return os.fsencode(text).decode("utf-8", "replace")
