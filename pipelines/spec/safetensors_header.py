"""What a safetensors file says of itself: which tensors, where, and metadata. Reads the header and nothing behind it.

The file may be anyone's: nothing that it says is believed before it is checked. Pickles are refused, whatever a file
is called: reading one runs the code inside it.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.spec.errors import InvalidRequest, ModelError, NotFound
from pipelines.spec.pickles import WAY_OUT

MAX_HEADER_BYTES = 32 * 2**20
MAX_TENSORS = 50_000
"""Twenty times what Stable Diffusion XL has."""
MAX_DIMENSIONS = 16

DTYPE_BITS: Mapping[str, int] = {
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}

_METADATA = "__metadata__"
_SAFETENSORS = "a safetensors file"
_PICKLE = "a pickle (a .pt, .pth, .bin or .ckpt file)"
_ARCHIVE = f"a zip archive, and most likely {_PICKLE}"
_OTHER_KINDS: Mapping[bytes, str] = {
    rb"PK\x03\x04": _ARCHIVE,
    rb"\x80[\x02-\x05][\x8a\x95(KJMNX\]c}]": _PICKLE,  # its protocol, and an opcode that one begins with
    rb"GGUF": "a GGUF file",
    rb"version https://git-lfs": "a pointer of Git LFS, which stands for a file that was not downloaded",
    rb"<": "a web page",
}
"""How files begin that are often given a wrong name, as patterns."""
_CONVERT = f"; reading a pickle can run code, so only safetensors are read: {WAY_OUT}"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What the header says of one tensor."""

    dtype: str
    """A key of DTYPE_BITS."""
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]
    """Its first byte and the one behind its last, counted from `Header.data_start`."""


@dataclass(frozen=True, slots=True)
class Header:
    """A header that fits its file: the tensors lie side by side and fill it."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    data_start: int
    """Where in the file the tensors' bytes begin."""


def read_header(path: Path) -> Header:
    """Return the header of a safetensors file, after checking that the file holds what it announces.

    Raises:
        ModelError: the file is missing, no safetensors file, a pickle, cut short, or its header contradicts itself.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            start = file.read(32)
            length = int.from_bytes(start[:8], "little")
            if start[8:9] != b"{" or not 2 <= length <= size - 8:
                raise ModelError(f"{path} is no safetensors file: {_other_kind(start)}")
            if length > MAX_HEADER_BYTES:
                raise ModelError(
                    f"{path} has a header of {length} bytes; at most {MAX_HEADER_BYTES} are read: no model needs more"
                )
            file.seek(8)
            text = file.read(length)
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing; download it again") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    try:
        entries = _parsed(text)
        metadata = _metadata(entries.pop(_METADATA, {}))
        tensors = {name: _tensor(name, entry) for name, entry in entries.items()}
        _check_extents(tensors, data_bytes=size - 8 - length)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is damaged: {error}; download it again") from error
    return Header(tensors, metadata, data_start=8 + length)


def check_is_pickle(path: Path) -> None:
    """Refuse what is no pickle by its content, whatever it is called.

    Raises:
        NotFound: there is no such file.
        InvalidRequest: it is a folder, or a safetensors file already.
        ModelError: it is another kind of file.
    """
    if path.is_dir():
        raise InvalidRequest(f"{path} is a folder; name one file in it")
    try:
        with path.open("rb") as file:
            start = file.read(32)
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    kind = _kind(start)
    if kind == _SAFETENSORS:
        raise InvalidRequest(f"{path} is a safetensors file already; call it {path.with_suffix('.safetensors').name}")
    if kind not in {_PICKLE, _ARCHIVE}:
        known = f"it is {kind}" if kind else "it is something else, or damaged; download it again"
        raise ModelError(f"{path} is no pickle: {known if start else 'it is empty; download it again'}")


def _other_kind(start: bytes) -> str:
    kind = _kind(start)
    if kind in {None, _SAFETENSORS}:
        return "its header is cut short or missing; download it again"
    return f"it is {kind}" + (_CONVERT if kind in {_PICKLE, _ARCHIVE} else "")


def _kind(start: bytes) -> str | None:
    """Return what a file is by its first bytes; None: unknown."""
    if start[4:9] == b"\0\0\0\0{":  # whatever the length before it looks like
        return _SAFETENSORS
    return next((kind for signature, kind in _OTHER_KINDS.items() if re.match(signature, start)), None)


def _parsed(text: bytes) -> dict[str, Any]:
    entries = json.loads(text, object_pairs_hook=_each_once)
    if not isinstance(entries, dict):
        raise ValueError("its header is no JSON object")
    if len(entries) > MAX_TENSORS:
        raise ValueError(f"its header announces {len(entries)} tensors, and {MAX_TENSORS} is the most")
    return entries


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("its header says something twice")
    return entries


def _metadata(entries: Any) -> dict[str, str]:
    if not isinstance(entries, dict) or not all(isinstance(value, str) for value in entries.values()):
        raise ValueError("its metadata is not text")
    _check_encodable([*entries, *entries.values()])
    return entries


def _check_encodable(texts: Iterable[str]) -> None:
    r"""Raise ValueError for half a pair of surrogates, which JSON can write as \ud800 and no file or page can hold."""
    for text in texts:
        text.encode()


def _tensor(name: str, entry: Any) -> TensorInfo:
    _check_encodable([name])
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [start, end], **others} if not others:
            numbers = [*shape, start, end]
            if dtype in DTYPE_BITS and len(shape) <= MAX_DIMENSIONS and all(map(_is_size, numbers)):
                return TensorInfo(dtype, tuple(shape), (start, end))
    raise ValueError(f"its header misstates tensor {name[:80]!r}")


def _is_size(number: Any) -> bool:
    return type(number) is int and 0 <= number < 2**63


def _check_extents(tensors: Mapping[str, TensorInfo], *, data_bytes: int) -> None:
    """Check that each tensor has the bytes of its shape, and that they lie side by side and fill the file."""
    expected = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        start, end = tensor.data_offsets
        if start != expected:
            raise ValueError(f"tensor {name[:80]!r} begins at byte {start}, where {expected} is expected")
        if (end - start) * 8 != math.prod(tensor.shape) * DTYPE_BITS[tensor.dtype]:
            raise ValueError(f"tensor {name[:80]!r} does not have the bytes that its shape needs")
        expected = end
    if expected != data_bytes:
        raise ValueError(f"it is cut short or padded: its tensors need {expected} bytes, it holds {data_bytes}")
