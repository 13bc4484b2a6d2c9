"""The catalogue of LoRAs: every .safetensors file of some folders, by name, with what its header tells.

A file that cannot be used stands in it too, with the reason.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pipelines.spec.errors import ModelError, NotFound
from pipelines.spec.lora_notes import config_stamp
from pipelines.spec.lora_tags import writable_name
from pipelines.spec.loras import LoraFile
from pipelines.spec.model import Model
from studio.store.hashes import FileHashes, Hashes, key
from studio.store.lora_header import FAMILY_LABELS, LoraHeader, read_lora_header

SUFFIX = ".safetensors"
PREVIEWS = tuple(f"{ending}.{kind}" for ending in ("", ".preview") for kind in ("png", "jpg", "jpeg", "webp", "avif"))
"""How a picture beside a file is called, behind the file's name."""
_NAMES_OF_FOLDERS = frozenset({"adapter_model", "pytorch_lora_weights"})
"""What PEFT and diffusers call every file: the folder that it lies in bears the name."""
MAX_SEARCH_BYTES = 2**31
"""How much is hashed at most to find a file by a hash: a second or two."""
_MAX_NAME = 256

State = tuple[str, int, int]
"""Path, size and time of change, as `hashes.key` returns them."""


@dataclass(frozen=True)
class InstalledLora:
    """One file of the catalogue."""

    name: str
    """The file's name without its ending, or its folder's where PEFT or diffusers named it; if several are called so,
    its path within its folder as well."""
    path: Path
    place: str
    """The path within its folder, with / and without the ending (PEFT's and diffusers' files: the folder's)."""
    size: int
    """In bytes."""
    header: LoraHeader | None
    """None if the file cannot be used."""
    problem: str
    """Why it cannot be used; empty if it can."""
    preview: Path | None
    """A picture beside the file, of the same name."""
    known_hashes: Hashes | None
    """The hashes, if they have been computed."""
    _hashes: FileHashes = field(repr=False, compare=False)

    @property
    def hashes(self) -> Hashes:
        """The hashes; the first time, the whole file is read.

        Raises:
            ModelError: it cannot be read.
        """
        return self.known_hashes or self._hashes.of(self.path)

    @property
    def sha256(self) -> str:
        """Of its tensors: what decides the pixels."""
        return self.hashes.tensors

    @property
    def is_claim_true(self) -> bool | None:
        """Whether the hash that the file claims is its own; None where none is claimed or none is computed."""
        claimed = self.header.claimed_sha256 if self.header else ""
        return self.known_hashes.match(claimed) if claimed and self.known_hashes else None

    @property
    def family_label(self) -> str:
        """The model family as a person would say it; empty if it is not known."""
        return FAMILY_LABELS[self.header.family] if self.header and self.header.family else ""

    def file(self) -> LoraFile:
        """Return what an engine needs to apply it."""
        return LoraFile(self.name, self.path, self.sha256)

    def check_fits(self, model: Model) -> None:
        """Check that it is made for such a model, as far as its header tells.

        Raises:
            ModelError: naming both sides.
        """
        header = self.header
        if header is None:
            raise ModelError(f"LoRA {self.name} cannot be used: {self.problem}")
        if header.family and header.family != model.family.name:
            raise ModelError(
                f"LoRA {self.name} is made for {self.family_label}, and model {model.name} is {model.family.label}; "
                "choose another model, or leave the LoRA out"
            )
        for name, layout in header.embeddings.items():
            if layout.widths != model.text_encoder_widths:
                raise ModelError(
                    f"LoRA {self.name} brings embedding {name!r} for {layout.made_for}, and model {model.name} takes "
                    f"{'+'.join(map(str, model.text_encoder_widths))}; choose another model, or leave the LoRA out"
                )
        width = model.cross_attention_dim
        if None not in {header.cross_attention_dim, width} and header.cross_attention_dim != width:
            raise ModelError(
                f"LoRA {self.name} is made for text of width {header.cross_attention_dim}, and model {model.name} "
                f"reads text of width {width}; choose another model, or leave the LoRA out"
            )


def described_lora(lora: InstalledLora) -> dict[str, Any]:
    """Return what other programs are told of a LoRA, as plain data: no path, and no picture inside the metadata."""
    header, hashes = lora.header, lora.known_hashes
    metadata = header.metadata if header else {}
    return {
        "name": lora.name,
        "title": header.title if header else "",
        "size": lora.size,
        "problem": lora.problem,
        "family": lora.family_label,
        "kind": header.kind if header else "",
        "ranks": list(header.ranks) if header else [],
        "alpha": header.alpha if header else None,
        "layers": dict(header.layers) if header else {},
        "embeddings": {word: layout.vectors for word, layout in header.embeddings.items()} if header else {},
        "trigger_words": list(header.trigger_words) if header else [],
        "licence": header.licence if header else "",
        "file_sha256": hashes.file if hashes else None,
        "sha256": hashes.tensors if hashes else None,
        "claimed_sha256": header.claimed_sha256 if header else "",
        "metadata": {key: text for key, text in metadata.items() if key != "modelspec.thumbnail"},
    }


class LoraCatalogue:
    """The LoRAs of some folders. Looks at the folders whenever it is asked, and reads only what has changed.

    Args:
        folders: in this order; they need not exist. Folders in them count, such as those of an A1111 models/Lora.
        hashes: computes and remembers hashes.
    """

    def __init__(self, folders: Sequence[Path], hashes: FileHashes) -> None:
        self._folders = folders
        self._hashes = hashes
        self._headers: dict[tuple[State, int | None], LoraHeader | str] = {}

    def installed(self) -> list[InstalledLora]:
        """Return every LoRA file, by name, those that cannot be used among them."""
        found = _named(_found(self._folders))
        known = self._hashes.known() if found else {}
        installed = [self._open(name, file, known) for name, file in found.items()]
        states = {file.state for file in found.values()}
        self._headers = {stamp: header for stamp, header in list(self._headers.items()) if stamp[0] in states}
        return sorted(installed, key=lambda lora: (lora.name.lower(), lora.name))

    def find(self, name: str) -> InstalledLora:
        """Return a LoRA by its name; else by its file's name or path, its title, or all that in any letter case.

        Raises:
            NotFound: there is none, or several are called so; the message names those that are near.
        """
        wanted = name.removesuffix(SUFFIX)
        found = _named(_found(self._folders))
        if wanted in found:  # without a look at the headers of the others
            return self._open(wanted, found[wanted], self._hashes.known())
        installed = self.installed()
        for called in (_by_file, _by_title, _loosely):
            meant = [lora for lora in installed if called(lora, wanted)]
            if len(meant) > 1:
                raise NotFound(f"LoRA {name!r:.80} is one of {', '.join(lora.name for lora in meant)}; say which")
            if meant:
                return meant[0]
        names = {called.lower(): lora.name for lora in installed for called in (lora.path.stem, lora.name)}
        near = [names[each] for each in get_close_matches(wanted.lower(), names, n=3, cutoff=0.5)]
        others = dict.fromkeys(near or (lora.name for lora in installed[:10]))
        there = f"there are {', '.join(others)}" if others else "there are none"
        raise NotFound(f"LoRA {name!r:.80} is not installed; {there} (LoRAs live in {self._folders[0]})")

    def _open(self, name: str, file: "_File", known: Mapping[State, Hashes]) -> InstalledLora:
        stamp = file.state, config_stamp(file.path)
        header = self._headers.get(stamp)
        if header is None:
            header = self._headers[stamp] = _read(file.path)
        problem = header if isinstance(header, str) else _problem_of(name)
        return InstalledLora(
            name=name,
            path=file.path,
            place=file.place,
            size=file.state[1],
            header=None if problem or isinstance(header, str) else header,
            problem=problem,
            preview=file.preview,
            known_hashes=known.get(file.state),
            _hashes=self._hashes,
        )

    def find_by_hash(self, name: str, digest: str) -> tuple[str, bool] | None:
        """Return the name of the LoRA that another program means, and whether its hash is the one said (if one was).

        The hash counts first, since files get other names. Files are hashed for it, those with the name or the claim
        first, and then as many as are read in a moment.
        """
        try:
            named = self.find(name)
        except NotFound:
            named = None
        for lora in _worth_hashing(self.installed(), named, digest) if digest else ():
            with suppress(ModelError):
                if lora.hashes.match(digest):
                    return lora.name, True
        return None if named is None or named.problem else (named.name, not digest)


def _by_file(lora: InstalledLora, wanted: str) -> bool:
    return wanted in {lora.place, lora.path.stem}


def _by_title(lora: InstalledLora, wanted: str) -> bool:
    return lora.header is not None and lora.header.title == wanted != ""


def _loosely(lora: InstalledLora, wanted: str) -> bool:
    names = {lora.name, lora.place, lora.path.stem, lora.header.title if lora.header else ""}
    return wanted.lower() in {name.lower() for name in names - {""}}


def _worth_hashing(
    installed: Sequence[InstalledLora], named: InstalledLora | None, digest: str
) -> Iterator[InstalledLora]:
    """Yield those whose hash is known, then those that claim it, then small ones; the one of that name before others.

    Several files may hold the same tensors.
    """
    usable = sorted((lora for lora in installed if not lora.problem), key=lambda lora: lora != named)
    yield from (lora for lora in usable if lora.known_hashes)
    unknown = [lora for lora in usable if not lora.known_hashes]

    def is_likely(lora: InstalledLora) -> bool:
        claimed = lora.header.claimed_sha256.lower().removeprefix("0x") if lora.header else ""
        return lora == named or claimed.startswith(digest.lower())

    yield from (lora for lora in unknown if is_likely(lora))
    left = MAX_SEARCH_BYTES
    for lora in sorted((lora for lora in unknown if not is_likely(lora)), key=lambda lora: lora.size):
        left -= lora.size
        if left < 0:
            return
        yield lora


@dataclass(frozen=True)
class _File:
    """A file as the folders show it."""

    folder: Path
    path: Path
    place: str
    state: State
    preview: Path | None


def _found(folders: Sequence[Path]) -> Iterator[_File]:
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


def _file(folder: Path, entry: "os.DirEntry[str]", names: set[str]) -> _File | None:
    """Return a file as it is; None if it is gone since it was listed."""
    path = Path(entry.path)
    place = path.relative_to(folder).with_suffix("")
    if place.name in _NAMES_OF_FOLDERS and place.parent.name:
        place = place.parent
    stem = path.stem
    preview = next((path.with_name(stem + ending) for ending in PREVIEWS if stem + ending in names), None)
    try:
        state = key(path, entry.stat())
    except OSError:
        return None
    return _File(folder, path, _readable(place.as_posix()), state, preview)


def _named(found: Iterable[_File]) -> dict[str, _File]:
    """Name each file: as it is called, else by its path in its folder, else with that folder's name, else with all."""
    files = list(found)
    stems = Counter(file.place.rpartition("/")[2] for file in files)
    names: dict[str, _File] = {}
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


def _read(path: Path) -> LoraHeader | str:
    """Return what a header tells, or why it cannot be read."""
    try:
        return read_lora_header(path)
    except ModelError as error:
        return str(error).replace(str(path), path.name)


def _problem_of(name: str) -> str:
    return f"its name has {len(name)} characters, and {_MAX_NAME} is the most" if len(name) > _MAX_NAME else ""
