import json
import pickle
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.spec.errors import ModelError
from pipelines.spec.safetensors_header import MAX_HEADER_BYTES, MAX_TENSORS, Header, TensorInfo, read_header

ONE = {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}


def _file(folder: Path, header: Any, *, data: bytes = bytes(12), length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "file.safetensors"
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def test_a_header_is_read(tmp_path: Path) -> None:
    header = read_header(_file(tmp_path, {"__metadata__": {"title": "A boat"}, "a": ONE}))

    assert header == Header({"a": TensorInfo("F16", (2, 3), (0, 12))}, {"title": "A boat"}, header.data_start)
    assert (tmp_path / "file.safetensors").stat().st_size - header.data_start == 12


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    arrays = {"b": np.zeros((), np.float32), "a": np.ones((4, 1), np.float16), "none": np.ones((0, 3), np.int64)}
    save_file(arrays, tmp_path / "file.safetensors", metadata={"ü": "\N{SAILBOAT}"})

    header = read_header(tmp_path / "file.safetensors")

    assert {name: tensor.shape for name, tensor in header.tensors.items()} == {"b": (), "a": (4, 1), "none": (0, 3)}
    assert header.metadata == {"ü": "\N{SAILBOAT}"}


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ([ONE], "no safetensors file"),
        (b"{not json}", "damaged"),
        (b'{"a":' + b"[" * 100_000, "damaged"),
        (b'{"a": {"dtype": "F16", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 12]}}', "damaged"),
        (b'{"\xff": 1}', "damaged"),
        (b'{"\\ud800": ' + json.dumps(ONE).encode() + b"}", "damaged"),
        ({"a": 1}, "misstates tensor 'a'"),
        ({"a": ONE | {"shape": [2, 3.0]}}, "misstates tensor 'a'"),
        ({"a": ONE | {"shape": [2, True]}}, "misstates tensor 'a'"),
        ({"a": ONE | {"shape": [-2, -3]}}, "misstates tensor 'a'"),
        ({"a": ONE | {"shape": [1] * 17}}, "misstates tensor 'a'"),
        ({"a": ONE | {"dtype": "F17"}}, "misstates tensor 'a'"),
        ({"a": ONE | {"more": 1}}, "misstates tensor 'a'"),
        ({"a": ONE | {"data_offsets": [0, 12, 24]}}, "misstates tensor 'a'"),
        ({"a": ONE | {"shape": [2, 2]}}, "does not have the bytes"),
        ({"a": ONE | {"data_offsets": [4, 16]}}, "begins at byte 4"),
        ({"a": ONE, "b": ONE}, "begins at byte 0, where 12"),
        ({"a": ONE, "b": ONE | {"data_offsets": [12, 24]}}, "need 24 bytes, it holds 12"),
        ({}, "need 0 bytes, it holds 12"),
        ({"a": ONE, "__metadata__": {"title": 1}}, "metadata is not text"),
        ({"a": ONE, "__metadata__": []}, "metadata is not text"),
        (b'{"a": ' + json.dumps(ONE).encode() + b', "a": ' + json.dumps(ONE).encode() + b"}", "twice"),
        ({str(number): ONE for number in range(MAX_TENSORS + 1)}, f"{MAX_TENSORS} is the most"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_header_that_lies_is_refused(header: Any, sentence: str, tmp_path: Path) -> None:
    path = _file(tmp_path, header)

    with pytest.raises(ModelError, match=sentence):
        read_header(path)


@pytest.mark.parametrize("length", [0, 1, 10**6, 2**40, 2**64 - 1])
def test_a_header_longer_than_the_file_is_refused(length: int, tmp_path: Path) -> None:
    path = _file(tmp_path, {"a": ONE}, length=length)

    with pytest.raises(ModelError, match="no safetensors file"):
        read_header(path)


def test_a_huge_header_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{")
        file.truncate(2 * MAX_HEADER_BYTES)

    with pytest.raises(ModelError, match="no model needs more"):
        read_header(path)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (pickle.dumps({"string_to_param": {}}), "pickle.*studio convert"),
        (b"PK\x03\x04" + bytes(40), "zip archive.*pickle.*studio convert"),
        (b"GGUF" + bytes(40), "GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        (b"<!DOCTYPE html>", "web page"),
        (b"", "cut short or missing"),
        (b"\x00", "cut short or missing"),
        (b"\x80\x02\x00", "cut short or missing"),
        (pickle.dumps(1, protocol=2), "pickle.*studio convert"),
        (pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2), "pickle.*studio convert"),  # how torch.save began
    ],
)
def test_other_kinds_of_files_are_called_by_name(data: bytes, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "disguised.safetensors"
    path.write_bytes(data)

    with pytest.raises(ModelError, match=sentence):
        read_header(path)


def test_a_header_whose_length_begins_like_a_pickle_is_read(tmp_path: Path) -> None:
    padding = 0x0280 - len(json.dumps({"a": ONE}))
    path = _file(tmp_path, json.dumps({"a": ONE}).encode() + b" " * padding)

    assert path.read_bytes().startswith(b"\x80\x02")
    assert read_header(path).tensors.keys() == {"a"}


@pytest.mark.parametrize("length", [0x80, 0x0280, 0x3C3C])
def test_a_file_cut_short_in_its_header_is_called_so(length: int, tmp_path: Path) -> None:
    """Whatever its length looks like: the first sign of pickles, or of web pages."""
    path = _file(tmp_path, json.dumps({"a": ONE}).encode() + b" " * (length - len(json.dumps({"a": ONE}))))
    path.write_bytes(path.read_bytes()[:100])

    with pytest.raises(ModelError, match="its header is cut short or missing; download it again"):
        read_header(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent\.safetensors is missing"):
        read_header(tmp_path / "absent.safetensors")


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(struct.pack("<Q", len(data) + 1) + b"{" + data)

    with suppress(ModelError):  # any other exception is a failure
        assert read_header(path).tensors == {}
