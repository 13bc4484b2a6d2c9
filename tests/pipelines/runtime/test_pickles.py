"""Pickles: their tensors come out bit for bit, whatever nest they lie in, and nothing in them runs."""

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from pipelines.runtime.pickles import unpickle
from pipelines.runtime.tensor_files import DTYPE_NAMES
from pipelines.spec.errors import ModelError

ONES, TWOS = torch.ones(2, 3), torch.full((3,), 2.0)
ZIP = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])


def saved(path: Path, content: Any, *, is_zip: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    return path


def written(path: Path) -> dict[str, torch.Tensor]:
    file = io.BytesIO()
    unpickle(path).write(file)
    return load(file.getvalue())


@ZIP
@pytest.mark.parametrize(
    ("content", "names", "left_out"),
    [
        ({"a": ONES}, {"a"}, ()),
        ({"a": ONES, "epoch": 3, "note": "x", 7: TWOS}, {"a"}, ("epoch", "note", "7")),
        ({"params_ema": {"a": ONES}, "params": {"a": TWOS}}, {"a"}, ("params",)),
        ({"params": {"a": ONES}, "params_ema": None}, {"a"}, ("params_ema",)),
        ({"state_dict": {"a": ONES, "step": 1}, "optimizer": [TWOS]}, {"a"}, ("optimizer", "step")),
        ({"model": {"params": {"a": ONES}}}, {"a"}, ()),
        ({"anything": {"a": ONES}}, {"a"}, ()),
        ({"string_to_param": {"*": ONES}, "string_to_token": {"*": 265}, "name": "x"}, {"emb_params"}, ...),
        ({"<cat>": TWOS}, {"<cat>"}, ()),
        ({"clip_l": ONES, "clip_g": ONES}, {"clip_l", "clip_g"}, ()),
        ({"a": ONES, "__metadata__": TWOS, "\ud800": TWOS}, {"a"}, ("__metadata__", "\ud800")),
    ],
    ids=lambda value: str(value)[:40],
)
def test_tensors_are_found_where_programs_put_them(
    content: Any, names: set[str], left_out: Any, is_zip: bool, tmp_path: Path
) -> None:
    path = saved(tmp_path / "x.pth", content, is_zip=is_zip)

    tensors = written(path)

    assert tensors.keys() == names
    assert left_out in {unpickle(path).left_out, ...}
    assert all(torch.equal(tensor, ONES if tensor.ndim == 2 else TWOS) for tensor in tensors.values())


@pytest.mark.parametrize(
    ("dtype", "is_zip"), [*((dtype, True) for dtype in DTYPE_NAMES), (torch.float16, False), (torch.bfloat16, False)]
)
def test_every_type_stays_as_it_is(dtype: torch.dtype, is_zip: bool, tmp_path: Path) -> None:
    tensor = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(dtype)

    tensors = written(saved(tmp_path / "x.pt", {"b": tensor, "a": torch.tensor(True), "0": ONES}, is_zip=is_zip))

    assert tensors["b"].dtype == dtype
    assert torch.equal(tensors["b"].view(torch.uint8), tensor.view(torch.uint8))


@ZIP
def test_views_and_what_shares_memory_are_whole(is_zip: bool, tmp_path: Path) -> None:
    table = torch.arange(12.0).reshape(3, 4)
    content = {"whole": table, "same": table, "turned": table.t(), "part": table[1:, ::2], "none": table[:0]}
    content["learnt"] = torch.nn.Parameter(table)

    tensors = written(saved(tmp_path / "x.pt", content, is_zip=is_zip))

    assert tensors.keys() == content.keys()
    assert all(torch.equal(tensors[name], content[name]) for name in content)


@pytest.mark.parametrize("name", ["x.safetensors", "x.PTH", "x"])
def test_content_decides_not_the_name(name: str, tmp_path: Path) -> None:
    assert torch.equal(written(saved(tmp_path / name, {"a": ONES}))["a"], ONES)


def test_a_zip_that_was_packed_again_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(saved(tmp_path / "x.pt", {"a": ONES})) as old:
        parts = {part.filename: old.read(part) for part in old.infolist()}
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for part, data in parts.items():
            new.writestr(part, data)

    assert torch.equal(written(tmp_path / "x.pt")["a"], ONES)


class Evil:
    """Runs a command when it is unpickled, as `torch.load(path, weights_only=False)` would."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"echo ran > {Evil.mark}",)

    mark: Path


@pytest.mark.parametrize("way", ["zip", "legacy", "plain"])
def test_code_in_a_pickle_does_not_run(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    Evil.mark = tmp_path / "ran"
    path = tmp_path / "x.pth"
    if way == "plain":
        path.write_bytes(pickle.dumps({"a": Evil()}, protocol=2))
    else:
        saved(path, {"a": ONES, "b": Evil()}, is_zip=way == "zip")

    with pytest.raises(
        ModelError, match=r"x\.pth (is not converted: it asks for \w+\.system, |cannot be read)"
    ) as error:
        unpickle(path)

    assert not Evil.mark.exists()
    assert "weights_only" not in str(error.value)
    pickle.loads(pickle.dumps(Evil()))
    assert Evil.mark.exists()  # it would have run


def _itself() -> dict[str, Any]:
    content: dict[str, Any] = {}
    content["model"] = content
    return content


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({}, "holds no tensors by names, nothing"),
        ({"epoch": 1, "b": [ONES]}, "holds no tensors by names, only epoch, b"),
        ({"unet": {"a": ONES}, "vae": {"b": ONES}}, "holds no tensors by names, only unet, vae"),
        ({768: ({"a": ONES}, {"a": ONES})}, "holds no tensors by names, only 768"),
        (ONES, "but one Tensor"),
        ([ONES], "but one list"),
        (_itself(), "holds no tensors by names, only model"),
        (torch.nn.Linear(2, 2), r"it asks for torch\.nn\.modules\.linear\.Linear, and only tensors"),
        ({"a": ONES.to_sparse()}, "a is sparse_coo of float32 on cpu, which safetensors cannot hold"),
        ({"a": ONES.to(torch.complex128)}, "a is strided of complex128 on cpu"),
        ({"a": ONES.to("meta")}, "on meta"),
        ({"a": torch.zeros(1).expand(10**6, 10**6)}, "claims tensors of 4000000000000"),
        ({"a": ONES, "b": ONES * float("nan")}, "b holds NaN or infinity"),
        ({"a": (ONES * float("inf")).to(torch.float16)}, "a holds NaN or infinity"),
        ({"a": (ONES * float("nan")).to(torch.float8_e4m3fn)}, "a holds NaN or infinity"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_holds_no_model_is_refused(content: Any, sentence: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", content)

    with pytest.raises(ModelError, match=rf"x\.pth:? .*{sentence}"):
        unpickle(path)


@ZIP
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_file_cut_short_says_so(share: float, is_zip: bool, tmp_path: Path) -> None:
    data = saved(tmp_path / "x.pth", {"a": torch.ones(10_000)}, is_zip=is_zip).read_bytes()
    (tmp_path / "x.pth").write_bytes(data[: int(len(data) * share)])

    with pytest.raises(ModelError, match=r"x\.pth cannot be read: it is cut short"):
        unpickle(tmp_path / "x.pth")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_program_is_no_model(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "x.pt")  # type: ignore[no-untyped-call]

    with pytest.raises(ModelError, match="TorchScript"):
        unpickle(tmp_path / "x.pt")
