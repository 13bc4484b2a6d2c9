"""Batch files: lines of JSON, CSV or text -> the fields of one request each. What they mean is not known here."""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePath
from typing import Any, NamedTuple

from pipelines.spec.errors import InvalidRequest
from pipelines.spec.request import bounds, field_names
from pipelines.spec.schedulers import parted_scheduler
from pipelines.spec.values import OTHER_NAMES


class Format(StrEnum):
    """How a batch file is written."""

    JSONL = "jsonl"
    CSV = "csv"
    TEXT = "text"


@dataclass(frozen=True)
class Line:
    """One line: what it asks, or why it cannot be read."""

    number: int
    """From 1, as editors count."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    error: InvalidRequest | None = None


FORMATS: Mapping[str, Format] = {
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".csv": Format.CSV,
    ".txt": Format.TEXT,
}
"""Ending of a file name -> format."""

_OPTION = re.compile(r"(?:^|(?<=\s))--([A-Za-z][\w-]*)(?:=|(?=\s)|$)")
_COUNTS = ("n_iter", "batch_size")
"""A1111 makes so many batches of so many pictures; image i has seed + i in either way of counting."""

_SEED_SIZES = frozenset({"seed_resize_from_w", "seed_resize_from_h"})
"""0 or -1 is no size."""


class _Other(NamedTuple):
    """An option of A1111's "Prompts from file" that means nothing here."""

    why: str
    asks_nothing: str = "\n"
    """The value with which it may stand all the same; by default none can."""


_NOT_HERE: Mapping[str, _Other] = {
    "restore_faces": _Other("faces are not restored here", "false"),
    "tiling": _Other("pictures that repeat without a seam cannot be made here", "false"),
    "do_not_save_samples": _Other("every picture is kept; delete it in the gallery", "false"),
    "do_not_save_grid": _Other("there are no grids here", "true"),
    "outpath_grids": _Other("there are no grids here"),
    "outpath_samples": _Other("pictures go to the gallery, and `studio batch --output FOLDER` copies them"),
    "prompt_for_display": _Other("the prompt itself is shown"),
    "sampler_index": _Other("it counts in another program's list; name the sampler, as in --sampler_name Euler"),
}

_READS: Mapping[str, Callable[[str], Any]] = {
    "integer": int,
    "number": float,
    "array": lambda text: json.loads(text) if text.startswith("[") else [text],
    "object": json.loads,
}
_WORDS: Mapping[str, str] = {"integer": "a whole number", "number": "a number"}


def guess_format(name: str, text: str) -> Format:
    """Return the format that a file's name promises, else JSON lines if it starts with one, else text."""
    if known := FORMATS.get(PurePath(name).suffix.lower()):
        return known
    try:
        first = json.loads(next(iter(text.strip().splitlines()), ""))
    except ValueError:
        return Format.TEXT
    return Format.JSONL if isinstance(first, dict) else Format.TEXT


def read(text: str, kind: Format) -> list[Line]:
    """Return the lines that ask something, in order. Those that cannot be read carry the error."""
    return list(_READERS[kind](text))


def _read_jsonl(text: str) -> Iterator[Line]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            way_out = 'write one JSON object a line, such as {"prompt": "a boat"}'
            yield Line(number, error=InvalidRequest(f"is not JSON: {error}; {way_out}"))
            continue
        if isinstance(fields, dict):
            yield Line(number, fields)
        else:
            yield Line(number, error=InvalidRequest(f"must be a JSON object with a request's fields, got {line:.60}"))


def _read_csv(text: str) -> Iterator[Line]:
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="")
    try:
        unknown = [name for name in reader.fieldnames or () if name not in field_names()]
        if unknown:
            yield Line(1, error=_unknown(unknown[0], "column"))
            return
        for row in reader:
            if "" in row:
                message = f"has more cells than the header's {len(reader.fieldnames or ())}; quote cells with commas"
                yield Line(reader.line_num, error=InvalidRequest(message))
            elif any(row.values()):
                yield _typed(reader.line_num, {name: cell for name, cell in row.items() if cell})
    except csv.Error as error:
        yield Line(reader.line_num, error=InvalidRequest(f"is not CSV: {error}"))


def _read_text(text: str) -> Iterator[Line]:
    """Read a prompt a line, then options: "a boat --seed 7". Lines that start with # are comments.

    Lines of A1111's "Prompts from file" are such lines too, so its names are understood.
    """
    for number, line in enumerate(re.split(r"\r\n?|\n", text), 1):
        if line.strip() and not line.startswith("#"):
            yield _with_options(number, line.strip())


def _with_options(number: int, line: str) -> Line:
    options = list(_OPTION.finditer(line))
    ends = [*(option.start() for option in options), len(line)]
    prompt = line[: ends[0]].strip()
    fields = {"prompt": prompt} if prompt else {}
    is_of_a1111 = any(_written(option[1]) == "sampler_name" for option in options)
    try:
        for option, end in zip(options, ends[1:], strict=True):
            name = option[1]
            value = _unquoted(name, line[option.end() : end].strip())
            match _written(name):
                case "sampler_name":
                    _add_sampler(fields, value)
                case "scheduler" if is_of_a1111:  # there it is the noise schedule
                    _add(fields, "noise_schedule", value)
                case _:
                    _add(fields, name, value)
    except InvalidRequest as error:
        return Line(number, error=error)
    counts = [fields.pop(count) for count in _COUNTS if count in fields]
    if counts and "num_images" in fields:
        return Line(number, error=_twice("num_images"))
    if counts:
        is_whole = all(count.isdecimal() for count in counts)
        fields["num_images"] = str(math.prod(map(int, counts))) if is_whole else " × ".join(counts)
    return _typed(number, fields)


def _add(fields: dict[str, str], option: str, value: str) -> None:
    """Put an option among the fields, unless it asks for nothing; A1111's two counts under their own names."""
    written = _written(option)
    name = written if written in _COUNTS else OTHER_NAMES.get(written, written)
    if (other := _NOT_HERE.get(written)) is not None:
        if value.lower() != other.asks_nothing:
            raise InvalidRequest(f"--{option} {value:.60}: {other.why}; leave it out")
        return
    if name not in field_names() and name not in _COUNTS:
        raise _unknown(option, "option")
    if name in fields:
        raise _twice(name)
    if not value:
        raise InvalidRequest(f"{name} has no value; write --{option} VALUE", field=name)
    if written not in _SEED_SIZES or value not in {"0", "-1"}:
        fields[name] = value


def _add_sampler(fields: dict[str, str], value: str) -> None:
    """Put A1111's sampler among the fields; before 1.9 a noise schedule stood at the end of its name."""
    try:
        scheduler, noise_schedule = parted_scheduler(value)
    except ValueError:  # told with the request's other fields
        noise_schedule = None
    if noise_schedule is None:
        _add(fields, "sampler_name", value)
    else:
        _add(fields, "scheduler", scheduler)
        _add(fields, "noise_schedule", noise_schedule)


def _written(option: str) -> str:
    return option.replace("-", "_")


def _twice(name: str) -> InvalidRequest:
    return InvalidRequest(f"{name} is given twice; leave one out", field=name)


def _unquoted(name: str, text: str) -> str:
    if text.startswith('"') and text.count('"') == 1:
        raise InvalidRequest(f"{name} opens a quote that is never closed: {text:.60}; close it or take it out")
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def _typed(number: int, fields: Mapping[str, str]) -> Line:
    """Read each text as what its field holds."""
    values: dict[str, Any] = {}
    for name, text in fields.items():
        kind = bounds(name).get("type", "")
        try:
            values[name] = _READS.get(kind, str)(text)
        except ValueError:
            message = f"{name} must be {_WORDS.get(kind, 'JSON')}, got {text!r:.60}"
            return Line(number, error=InvalidRequest(message, field=name))
    return Line(number, values)


def _unknown(name: str, what: str) -> InvalidRequest:
    ours = OTHER_NAMES.get(name)
    way_out = f"say {ours}" if ours else f"there are {', '.join(field_names())}"
    return InvalidRequest(f"{name!r:.60} is no {what} of a request; {way_out}")


_READERS: Mapping[Format, Callable[[str], Iterator[Line]]] = {
    Format.JSONL: _read_jsonl,
    Format.CSV: _read_csv,
    Format.TEXT: _read_text,
}
