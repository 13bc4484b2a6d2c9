"""The catalogue of embeddings (textual inversion): files whose names are words in prompts. Reads headers only."""

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipelines.spec import pickles
from pipelines.spec.embeddings import EmbeddingFile, EmbeddingLayout, check_fits, layout_of
from pipelines.spec.errors import InvalidRequest, ModelError
from pipelines.spec.loras import ResolvedLora
from pipelines.spec.model import Model
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.safetensors_header import read_header
from pipelines.spec.schedulers import prompt_steps
from pipelines.spec.templates import TEMPLATES
from studio.store.loras import InstalledLora

SUFFIXES = frozenset({".safetensors", ".sft", ".pt", ".bin"})
"""What is looked at; that a file is called .pt does not make it a pickle, nor .safetensors none."""
_NOTES = ("modelspec.description", "modelspec.usage_hint", "modelspec.title", "ss_training_comment")
_MAX_NOTE = 200
_MIN_DIGEST = 8
"""A shorter hash means nothing."""
_SIGNS = frozenset("()[]<\\#")
"""What makes the text that an encoder reads another than the one in the prompt."""


@dataclass(frozen=True)
class InstalledEmbedding:
    """A file of the folder. Its header has been read, its vectors have not."""

    name: str
    """The file's name without its suffix."""
    path: Path
    layout: EmbeddingLayout | None
    """None where the file cannot be used."""
    problem: str = ""
    """Why it cannot be used, in a sentence."""
    note: str = ""
    """What its metadata says about it."""
    lora_sha256: str = ""
    """Of the LoRA's tensors, if it comes with a LoRA in one file."""

    @cached_property
    def sha256(self) -> str:
        """Of the whole file; of its tensors, where that is a LoRA.

        Raises:
            ModelError: it cannot be read.
        """
        if self.lora_sha256:
            return self.lora_sha256
        try:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ModelError(f"embedding {self.name!r} cannot be read: {error.strerror}") from error

    @property
    def vectors(self) -> int:
        """How many tokens it takes; 1 where that cannot be known."""
        return self.layout.vectors if self.layout else 1

    def described(self) -> dict[str, Any]:
        """Return what a listing says of it, in JSON's types; `problem` is empty where it can be used."""
        return {
            "name": self.name,
            "vectors": self.layout.vectors if self.layout else 0,
            "made_for": self.layout.made_for if self.layout else "",
            "sha256": self.sha256 if self.layout else "",
            "note": self.note,
            "problem": self.problem,
        }

    def file(self) -> EmbeddingFile:
        """Return it for the engine.

        Raises:
            ModelError: it cannot be read.
        """
        return EmbeddingFile(self.name, self.path, self.sha256)


class EmbeddingCatalogue:
    """The embeddings of a folder and its subfolders. A file is read once, and again when it has changed.

    Args:
        folder: it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[Path, tuple[tuple[int, int, int], InstalledEmbedding]] = {}

    def all(self) -> list[InstalledEmbedding]:
        """Return every file, by name; those that cannot be used say why. A pickle that was converted is left out."""
        self._known = dict(self._look())
        usable = {embedding.path for _, embedding in self._known.values() if embedding.layout}
        found = [embedding for _, embedding in self._known.values() if not _is_replaced(embedding, usable)]
        return sorted(found, key=lambda each: (each.name.lower(), each.path))

    def vectors(self) -> dict[str, int]:
        """Return how many vectors stand for each name."""
        return {_plain(embedding.name): embedding.vectors for embedding in self.all()}

    def named_by(
        self, requests: Iterable[ResolvedRequest], model: Model, *, find_lora: Callable[[str], InstalledLora]
    ) -> Iterator[dict[str, InstalledEmbedding]]:
        """Yield the embeddings that the prompts of each picture name: name -> file. Its LoRAs may bring some.

        A name counts where the model's tokenizer cuts it into the same tokens as a piece of the prompt, the longest
        name first, as in A1111.

        Args:
            requests: pictures that differ in prompts and in LoRAs only.
            model: whose tokenizer reads the prompts.
            find_lora: finds a LoRA by its name.

        Raises:
            InvalidRequest: an embedding is for another kind of model, cannot be used, or is there twice.
            ModelError: the tokenizer cannot be read.
        """
        own = self.all()
        known: dict[tuple[object, ...], dict[str, InstalledEmbedding]] = {}
        for request in requests:
            key = (*_prompts(request).items(), *(lora.name for lora in request.loras))
            if key not in known:
                installed: dict[str, list[InstalledEmbedding]] = defaultdict(list)
                for embedding in (*own, *brought_by(request.loras, find_lora)):
                    installed[_plain(embedding.name)].append(embedding)
                known[key] = _named(request, model, installed)
            yield known[key]

    def find(self, name: str, digest: str) -> str | None:
        """Return the name of the embedding with a hash (its first digits), or with a name where no hash is given."""
        if digest and len(digest) < _MIN_DIGEST:
            return None
        for embedding in self.all():
            if embedding.layout is not None and (
                embedding.sha256.startswith(digest.lower()) if digest else _plain(embedding.name) == _plain(name)
            ):
                return embedding.name
        return None

    def _look(self) -> Iterator[tuple[Path, tuple[tuple[int, int, int], InstalledEmbedding]]]:
        for path in sorted(self.folder.rglob("*")):
            if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or not path.is_file():
                continue
            stat = path.stat()
            stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            known = self._known.get(path)
            yield path, known if known is not None and known[0] == stamp else (stamp, _read(path))


def _is_replaced(embedding: InstalledEmbedding, usable: Collection[Path]) -> bool:
    """Whether it is called like a pickle, cannot be used, and a file beside it can, as `studio convert` makes it."""
    is_refused = embedding.layout is None and embedding.path.suffix.lower() in pickles.SUFFIXES
    return is_refused and embedding.path.with_suffix(".safetensors") in usable


def brought_by(
    loras: Iterable[ResolvedLora], find_lora: Callable[[str], InstalledLora]
) -> Iterator[InstalledEmbedding]:
    """Yield the embeddings in the files of some LoRAs: words of the prompts of pictures that get these LoRAs."""
    for lora in loras:
        file = find_lora(lora.name)
        for name, layout in file.header.embeddings.items() if file.header else ():
            yield InstalledEmbedding(name, file.path, layout, lora_sha256=lora.sha256)


def _prompts(request: ResolvedRequest) -> dict[str, str]:
    """Return the prompts of both passes by their fields; one that is not there is empty."""
    return {field: getattr(request, field) or "" for field in TEMPLATES}


def _named(
    request: ResolvedRequest, model: Model, installed: Mapping[str, list[InstalledEmbedding]]
) -> dict[str, InstalledEmbedding]:
    named: dict[str, InstalledEmbedding] = {}
    for field, text in _prompts(request).items():
        if not _may_name(text, installed):
            continue
        from pipelines.spec.prompt import named_embeddings  # a sixth of a second, and most prompts name none
        from pipelines.spec.prompt.tokenizing import chunk_rules

        vectors = {name: each[0].vectors for name, each in installed.items()}
        for name in named_embeddings(
            text,
            num_inference_steps=prompt_steps(request.scheduler, request.num_inference_steps),
            rules=chunk_rules(model.path / "tokenizer", embeddings=vectors),
            hires_steps=request.hires_steps
            and prompt_steps(request.hires_scheduler or request.scheduler, request.hires_steps),
            comments=request.prompt_comments,
            composable=not field.endswith("negative_prompt"),
        ):
            embedding = _usable(installed[name], model, field=field)
            named[embedding.name] = embedding
    return named


def _may_name(text: str, names: Collection[str]) -> bool:
    """Whether a text could name an embedding; a quick answer for the many that do not."""
    if not _SIGNS.isdisjoint(text):
        return bool(names)
    squeezed = _squeezed(text)
    return any(_squeezed(name) in squeezed for name in names)


def _squeezed(text: str) -> str:
    return "".join(_plain(text).split())


def _plain(name: str) -> str:
    """Return a name as text encoders see it: NFC, in lower case."""
    return unicodedata.normalize("NFC", name).lower()


def _usable(candidates: list[InstalledEmbedding], model: Model, *, field: str) -> InstalledEmbedding:
    """Return the one embedding of a name, if the model can use it."""
    first, *others = candidates
    if others:
        paths = " and ".join(str(each.path) for each in candidates)
        raise InvalidRequest(
            f"{field} names embedding {first.name!r}, which is {paths}; rename one, or leave it out", field=field
        )
    if first.layout is None:
        raise InvalidRequest(f"{field} names embedding {first.name!r}: {first.problem}", field=field)
    check_fits(first.name, first.layout, model, field=field)
    return first


def _read(path: Path) -> InstalledEmbedding:
    name = unicodedata.normalize("NFC", path.stem)
    try:
        header = read_header(path)
        layout = layout_of(header, path)
    except ModelError as error:
        return InstalledEmbedding(name, path, None, problem=str(error).replace(str(path), path.name))
    note = next((text for key in _NOTES if (text := " ".join(header.metadata.get(key, "").split()))), "")
    return InstalledEmbedding(name, path, layout, note=note if len(note) <= _MAX_NOTE else f"{note[: _MAX_NOTE - 1]}…")
