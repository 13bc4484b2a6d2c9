"""A folder of pictures with captions, as training reads it, and what is wrong with which file. No torch."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pipelines.spec.errors import InvalidRequest
from pipelines.spec.pictures import UnreadablePicture, open_picture
from pipelines.spec.values import MAX_PROMPT_CHARACTERS

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".tif", ".tiff", ".gif"})
CAPTION_SUFFIX = ".txt"
METADATA_NAME = "metadata.jsonl"
_DOT = "."


class Severity(StrEnum):
    """What follows from a finding."""

    LEFT_OUT = "left out"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """One sentence about one file."""

    file: str
    """Relative to the folder."""
    severity: Severity
    text: str

    def __str__(self) -> str:
        return f"{self.file}: {self.text}"


@dataclass(frozen=True)
class Example:
    """One picture that can be trained on."""

    path: Path
    caption: str
    width: int
    """In pixels, upright (EXIF orientation applied)."""
    height: int


@dataclass(frozen=True)
class DataSet:
    """All pictures of a folder, in the order of their names."""

    folder: Path
    examples: tuple[Example, ...]
    findings: tuple[Finding, ...]

    def tag_frequency(self) -> Mapping[str, int]:
        """Return how often each part of a caption occurs, the most frequent first."""
        tags = Counter(tag.strip() for each in self.examples for tag in each.caption.split(",") if tag.strip())
        return dict(sorted(tags.items(), key=lambda item: (-item[1], item[0])))


def read_dataset(folder: Path, *, caption: str | None, least_side: int) -> DataSet:
    """Read a folder and the folders in it: every picture is opened whole once.

    A caption stands in a .txt file beside the picture, in metadata.jsonl (`file_name`, `text`), or is the one given.

    Args:
        folder: where the pictures are.
        caption: for pictures that have none; None leaves such pictures out.
        least_side: a picture whose shorter side has fewer pixels is noted as tiny.

    Raises:
        InvalidRequest: there is no such folder, metadata.jsonl is damaged, or no picture can be used.
    """
    if not folder.is_dir():
        raise InvalidRequest(f"data must be a folder of pictures, and {folder} is none", field="data")
    captions = _read_metadata(folder)
    files = sorted(path for path in folder.rglob("*") if _is_visible(path, folder))
    pictures = [path for path in files if path.suffix.lower() in SUFFIXES]
    texts = {path.with_suffix(""): path for path in files if path.suffix.lower() == CAPTION_SUFFIX}
    if not pictures:
        kinds = " ".join(sorted(SUFFIXES))
        raise InvalidRequest(f"data: {folder} holds no pictures; put some there ({kinds})", field="data")
    examples: list[Example] = []
    findings: list[Finding] = []
    seen: dict[str, str] = {}
    for path in pictures:
        reader = _Reader(path, path.relative_to(folder).as_posix(), texts.get(path.with_suffix("")))
        example = reader.read(captions, caption, seen, least_side=least_side)
        findings += reader.findings
        examples += [] if example is None else [example]
    findings += [
        Finding(METADATA_NAME, Severity.NOTE, f"names {name}, which is not there")
        for name in captions
        if not (folder / name).is_file()
    ]
    described = {path.with_suffix("") for path in pictures}
    read = {folder / METADATA_NAME, *pictures, *(path for name, path in texts.items() if name in described)}
    findings += [
        Finding(path.relative_to(folder).as_posix(), Severity.NOTE, _why_unread(path))
        for path in files
        if path not in read
    ]
    if not examples:
        raise InvalidRequest(
            f"data: none of the {len(pictures)} pictures in {folder} can be used; the first: {findings[0]}",
            field="data",
        )
    return DataSet(folder, tuple(examples), tuple(findings))


class _Reader:
    """Reads one picture and remembers what is to be said about it.

    Args:
        path: of the picture.
        name: of the picture, relative to the data set.
        text: the file beside it that holds its caption.
    """

    def __init__(self, path: Path, name: str, text: Path | None) -> None:
        self._path, self._name, self._text = path, name, text
        self.findings: list[Finding] = []

    def read(
        self, captions: Mapping[str, str], common: str | None, seen: dict[str, str], *, least_side: int
    ) -> Example | None:
        try:
            picture = open_picture(self._path)
        except UnreadablePicture as error:
            self._leave_out(f"cannot be read as a picture ({error}); replace or delete it")
            return None
        caption = self._caption(captions, common)
        if caption is None:
            txt = self._path.with_suffix(CAPTION_SUFFIX).name
            self._leave_out(f"has no caption; write {txt} beside it, or give one caption for all")
            return None
        if flaw := _flaw(caption):
            self._leave_out(f"its caption {flaw}")
            return None
        image = picture.image
        digest = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
        if digest in seen:
            self._note(f"shows the same pixels as {seen[digest]}, which therefore counts twice")
        seen.setdefault(digest, self._name)
        if picture.frames > 1:
            self._note(f"is animated ({picture.frames} frames); only the first is used")
        if picture.is_transparent:
            self._note("is transparent in parts, which are taken as white")
        if min(image.size) < least_side:
            self._note(f"is tiny: {image.width}×{image.height}, and will be enlarged to {least_side} pixels")
        if not caption:
            self._note("its caption is empty, so that it is shown without words")
        return Example(self._path, caption, *image.size)

    def _caption(self, captions: Mapping[str, str], common: str | None) -> str | None:
        """Return the first that says anything: the text beside the picture, what metadata.jsonl says, the common one.

        Empty where only empty ones are there, None where there is none.
        """
        given = [text for text in (self._beside(), captions.get(self._name), common) if text is not None]
        return next(filter(None, given), "" if given else None)

    def _beside(self) -> str | None:
        if self._text is None:
            return None
        try:
            return " ".join(self._text.read_text(encoding="utf-8-sig").split())
        except (OSError, UnicodeDecodeError) as error:
            self._note(f"its caption {self._text.name} cannot be read as UTF-8 text ({error})")
            return None

    def _note(self, text: str) -> None:
        self.findings.append(Finding(self._name, Severity.NOTE, text))

    def _leave_out(self, text: str) -> None:
        self.findings.append(Finding(self._name, Severity.LEFT_OUT, text))


def _flaw(caption: str) -> str:
    """Return why a caption is no text that can be trained on; empty where it is."""
    if len(caption) > MAX_PROMPT_CHARACTERS:
        return f"has {len(caption)} characters, and at most {MAX_PROMPT_CHARACTERS} are allowed; shorten it"
    if "\0" in caption:
        return f"holds a NUL character at position {caption.index(chr(0))}; remove it"
    if any("\ud800" <= character <= "\udfff" for character in caption):
        return "holds half of a surrogate pair, which is no character; remove it"
    return ""


def _why_unread(path: Path) -> str:
    if path.suffix.lower() == CAPTION_SUFFIX:
        return "belongs to no picture of its name, and is not read"
    if path.name == METADATA_NAME:
        return "is not read; it must stand in the data folder itself"
    return "is not read: no picture, and no caption of one"


def _read_metadata(folder: Path) -> dict[str, str]:
    path = folder / METADATA_NAME
    if not path.is_file():
        return {}
    captions: dict[str, str] = {}
    for number, row in _rows(path):
        name, text = row.get("file_name"), row.get("text")
        if not isinstance(name, str) or not isinstance(text, str):
            raise InvalidRequest(
                f'data: {path}, line {number}: each line is {{"file_name": "a.png", "text": "…"}}', field="data"
            )
        captions[name] = " ".join(text.split())
    return captions


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"data: {path} cannot be read as UTF-8 text: {error}", field="data") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InvalidRequest(f"data: {path}, line {number} is not JSON: {error}", field="data") from error
        if not isinstance(row, dict):
            raise InvalidRequest(f"data: {path}, line {number} must hold a JSON object", field="data")
        yield number, row


def _is_visible(path: Path, folder: Path) -> bool:
    return not any(part.startswith(_DOT) for part in path.relative_to(folder).parts) and path.is_file()
