"""A folder of pictures with captions, as training reads it, and what is wrong with which file. No torch."""

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from pipelines.spec.errors import InvalidRequest

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".tif", ".tiff", ".gif"})
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
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and _is_visible(path, folder))
    if not files:
        kinds = " ".join(sorted(SUFFIXES))
        raise InvalidRequest(f"data: {folder} holds no pictures; put some there ({kinds})", field="data")
    examples: list[Example] = []
    findings: list[Finding] = []
    seen: dict[str, str] = {}
    for path in files:
        reader = _Reader(path, path.relative_to(folder).as_posix())
        example = reader.read(captions, caption, seen, least_side=least_side)
        findings += reader.findings
        examples += [] if example is None else [example]
    findings += [
        Finding(METADATA_NAME, Severity.NOTE, f"names {name}, which is not there")
        for name in captions
        if not (folder / name).is_file()
    ]
    if not examples:
        raise InvalidRequest(
            f"data: none of the {len(files)} pictures in {folder} can be used; the first: {findings[0]}", field="data"
        )
    return DataSet(folder, tuple(examples), tuple(findings))


def open_picture(path: Path) -> Image.Image:
    """Return a picture as RGB, upright, transparency on white.

    Raises:
        OSError: it cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            if not _has_alpha(picture):
                return picture.convert("RGB")
            layer = picture.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


class _Reader:
    """Reads one file and remembers what is to be said about it."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self.findings: list[Finding] = []

    def read(
        self, captions: Mapping[str, str], common: str | None, seen: dict[str, str], *, least_side: int
    ) -> Example | None:
        try:
            with Image.open(self._path) as file:
                frames, has_alpha = getattr(file, "n_frames", 1), _has_alpha(file)
            picture = open_picture(self._path)
        except (
            OSError,
            ValueError,
            SyntaxError,
            Image.DecompressionBombError,
            Image.DecompressionBombWarning,
        ) as error:
            self._leave_out(f"cannot be read as a picture ({error}); replace or delete it")
            return None
        caption = self._caption(captions)
        if caption is None:
            if common is None:
                txt = self._path.with_suffix(".txt").name
                self._leave_out(f"has no caption; write {txt} beside it, or give one caption for all")
                return None
            caption = common
        digest = hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()
        if digest in seen:
            self._note(f"shows the same pixels as {seen[digest]}, which therefore counts twice")
        seen.setdefault(digest, self._name)
        if frames > 1:
            self._note(f"is animated ({frames} frames); only the first is used")
        if has_alpha:
            self._note("is transparent in parts, which are taken as white")
        if min(picture.size) < least_side:
            self._note(f"is tiny: {picture.width}×{picture.height}, and will be enlarged to {least_side} pixels")
        return Example(self._path, caption, *picture.size)

    def _caption(self, captions: Mapping[str, str]) -> str | None:
        path = self._path.with_suffix(".txt")
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            return captions.get(self._name)
        except (OSError, UnicodeDecodeError) as error:
            self._note(f"its caption {path.name} cannot be read as UTF-8 text ({error})")
            return captions.get(self._name)
        return " ".join(text.split())

    def _note(self, text: str) -> None:
        self.findings.append(Finding(self._name, Severity.NOTE, text))

    def _leave_out(self, text: str) -> None:
        self.findings.append(Finding(self._name, Severity.LEFT_OUT, text))


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


def _has_alpha(picture: Image.Image) -> bool:
    return picture.has_transparency_data


def _is_visible(path: Path, folder: Path) -> bool:
    return not any(part.startswith(_DOT) for part in path.relative_to(folder).parts) and path.is_file()
