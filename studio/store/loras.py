"""The catalogue of LoRAs: every .safetensors file of some folders, by name, with what its header tells.

A file that cannot be used stands in it too, with the reason.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from pipelines.spec import pickles
from pipelines.spec.errors import ModelError, NotFound
from pipelines.spec.loras import LoraFile
from pipelines.spec.model import Model
from studio.store.beside import Notes, read_notes
from studio.store.hashes import FileHashes, Hashes
from studio.store.headers import FileHeaders, Stamp
from studio.store.lora_folders import SUFFIX, LoraOnDisk, lora_files, named
from studio.store.lora_header import FAMILY_LABELS, LoraHeader, read_lora_header

MAX_SEARCH_BYTES = 2**31
"""How much is hashed at most to find a file by a hash: a second or two."""
THUMBNAIL = "modelspec.thumbnail"
"""The key of a picture inside of the metadata."""
_MAX_NAME = 256
_TOLD = 10
"""So many LoRAs are named where one is not found, and is like none of them."""


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
    note_files: tuple[Path, ...]
    """Notes of other programs beside the file."""
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

    @cached_property
    def notes(self) -> Notes:
        """What A1111 and Civitai note beside the file."""
        return read_notes(self.note_files)

    @property
    def trigger_words(self) -> tuple[str, ...]:
        """What calls up what it has learnt: as noted beside the file, then as its header tells."""
        return tuple(dict.fromkeys((*self.notes.trigger_words, *(self.header.trigger_words if self.header else ()))))

    @property
    def picture(self) -> Path | str | None:
        """What shows it: the file beside it, else the data URI in its header."""
        return self.preview or (self.header.metadata.get(THUMBNAIL) if self.header else None) or None

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
        "trigger_words": list(lora.trigger_words),
        "preferred_weight": lora.notes.preferred_weight,
        "description": lora.notes.description,
        "has_preview": lora.picture is not None,
        "licence": header.licence if header else "",
        "file_sha256": hashes.file if hashes else None,
        "sha256": hashes.tensors if hashes else None,
        "claimed_sha256": header.claimed_sha256 if header else "",
        "metadata": {key: text for key, text in metadata.items() if key != THUMBNAIL},
    }


class LoraCatalogue:
    """The LoRAs of some folders. Looks at the folders whenever it is asked, and reads only what has changed.

    Args:
        folders: in this order; they need not exist. Folders in them count, such as those of an A1111 models/Lora.
        hashes: computes and remembers hashes.
        headers: remembers headers beyond this process.
    """

    def __init__(self, folders: Sequence[Path], hashes: FileHashes, headers: FileHeaders) -> None:
        self._folders = folders
        self._hashes = hashes
        self._kept = headers
        self._headers: dict[Stamp, LoraHeader | str] = {}

    def installed(self) -> list[InstalledLora]:
        """Return every LoRA file, by name, those that cannot be used among them."""
        found = named(lora_files(self._folders))
        known = self._hashes.known() if found else {}
        self._headers = headers = self._read(found.values(), found)
        installed = [self._open(name, file, known, headers) for name, file in found.items()]
        return sorted(installed, key=lambda lora: (lora.name.lower(), lora.name))

    def find(self, name: str) -> InstalledLora:
        """Return a LoRA by its name; else by its file's name or path, its title, or all that in any letter case.

        Raises:
            NotFound: there is none, or several are called so; the message names those that are near.
        """
        wanted = name.removesuffix(SUFFIX)
        found = named(lora_files(self._folders))
        if wanted in found:  # without a look at the headers of the others
            headers = self._read([found[wanted]], found)
            self._headers = {**self._headers, **headers}
            return self._open(wanted, found[wanted], self._hashes.known(), headers)
        installed = self.installed()
        meant = _called(wanted, installed)
        if len(meant) > 1:
            raise NotFound(f"LoRA {name!r:.80} is one of {', '.join(lora.name for lora in meant)}; say which")
        if meant:
            return meant[0]
        if (other := self._not_read(name)) is not None:
            raise NotFound(
                f"LoRA {name!r:.80} is there as {other.name} only, and only {SUFFIX} files are read; "
                f"if it is a pickle: {pickles.WAY_OUT}"
            )
        names = {called.lower(): lora.name for lora in installed for called in (lora.path.stem, lora.name)}
        near = [names[each] for each in get_close_matches(wanted.lower(), names, n=3, cutoff=0.5)]
        usable = [lora.name for lora in installed if not lora.problem]
        if near:
            there = f"did you mean {' or '.join(dict.fromkeys(near))}? `studio loras` lists all"
        elif usable:
            more = f" and {len(usable) - _TOLD} more, see `studio loras`" if len(usable) > _TOLD else ""
            there = f"there are {', '.join(usable[:_TOLD])}{more}"
        else:
            there = "there are none"
        folders = ", ".join(map(str, dict.fromkeys(self._folders)))
        raise NotFound(f"LoRA {name!r:.80} is not installed; {there} (LoRAs live in {folders})")

    def _not_read(self, name: str) -> Path | None:
        """Return a file of that name that is called as pickles are."""
        files = (
            path for folder in self._folders for path in sorted(folder.rglob("*")) if path.suffix in pickles.SUFFIXES
        )
        return next((each for each in files if name in {each.name, each.stem}), None)

    def of_names(self, names: Iterable[str]) -> list[InstalledLora]:
        """Return the LoRAs that `find` finds by some names, each once; what finds none, or several, is left out."""
        installed = self.installed()
        meant = (_called(name.removesuffix(SUFFIX), installed) for name in names)
        return list({found[0].name: found[0] for found in meant if len(found) == 1}.values())

    def _read(self, files: Iterable[LoraOnDisk], found: Mapping[str, LoraOnDisk]) -> dict[Stamp, LoraHeader | str]:
        """Return what the headers of files tell, or why they cannot be read: from memory, the database, the files.

        Args:
            files: those to read.
            found: all that are there.
        """
        stamps = {file.stamp: file for file in files}
        headers = {stamp: header for stamp in stamps if (header := self._headers.get(stamp)) is not None}
        if unknown := stamps.keys() - headers.keys():
            kept = self._kept.known({path for (path, _, _), _ in unknown})
            headers |= {stamp: kept[stamp] for stamp in unknown & kept.keys()}
            read = {stamp: _read(stamps[stamp].path) for stamp in unknown - kept.keys()}
            whole = {stamp: header for stamp, header in read.items() if isinstance(header, LoraHeader)}
            self._kept.keep(whole, there={file.stamp[0][0] for file in found.values()})
            headers |= read
        return headers

    def _open(
        self,
        name: str,
        file: LoraOnDisk,
        known: Mapping[tuple[str, int, int], Hashes],
        headers: Mapping[Stamp, LoraHeader | str],
    ) -> InstalledLora:
        header = headers[file.stamp]
        problem = header if isinstance(header, str) else _problem_of(name)
        return InstalledLora(
            name=name,
            path=file.path,
            place=file.place,
            size=file.stamp[0][1],
            header=None if problem or isinstance(header, str) else header,
            problem=problem,
            preview=file.preview,
            note_files=file.notes,
            known_hashes=known.get(file.stamp[0]),
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


def _called(name: str, installed: Sequence[InstalledLora]) -> list[InstalledLora]:
    """Return those of a name; else those of such a file, else of such a title, else of all that in any letter case."""
    ways = (_by_name, _by_file, _by_title, _loosely)
    meant = ([lora for lora in installed if is_called(lora, name)] for is_called in ways)
    return next(filter(None, meant), [])


def _by_name(lora: InstalledLora, wanted: str) -> bool:
    return lora.name == wanted


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


def _read(path: Path) -> LoraHeader | str:
    """Return what a header tells, or why it cannot be read."""
    try:
        return read_lora_header(path)
    except ModelError as error:
        return str(error).replace(str(path), path.name)


def _problem_of(name: str) -> str:
    return f"its name has {len(name)} characters, and {_MAX_NAME} is the most" if len(name) > _MAX_NAME else ""
