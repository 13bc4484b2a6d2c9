"""`studio convert`: the path of the new file, what was left out and what it is good for; refusals in one sentence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.studio.cli.conftest import Run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    table = torch.ones(2, 768)
    torch.save({"string_to_param": {"*": table}, **{f"note {number}": 1 for number in range(12)}}, tmp_path / "zib.pt")
    return tmp_path / "zib.pt"


def test_the_path_is_all_of_standard_output(run: Run, file: Path) -> None:
    done = run("convert", str(file))

    assert (done.code, done.out) == (0, f"{file.with_suffix('.safetensors')}\n")
    assert "left out, since it is no tensor of the model: note 0, note 1, " in done.err
    assert "note 9 and 2 more\n" in done.err
    assert "1 tensor: an embedding for Stable Diffusion 1.x (768); in embeddings/ its name" in done.err


def test_a_program_reads_one_object(run: Run, file: Path) -> None:
    done = run("convert", str(file), str(file.with_name("x.safetensors")), "--json")

    made = json.loads(done.out)
    assert (made["path"], made["tensors"], len(made["left_out"])) == (str(file.with_name("x.safetensors")), 1, 12)
    assert done.err == ""


def test_exit_codes(run: Run, file: Path) -> None:
    assert run("convert", str(file)).code == 0
    again = run("convert", str(file))
    file.with_name("bad.pt").write_bytes(b"PK\x03\x04")

    assert (again.code, "exists already" in again.err) == (2, True)
    assert run("convert", str(file), "--overwrite").code == 0
    assert run("convert", str(file.with_name("none.pt"))).code == 2
    assert run("convert", str(file.with_name("bad.pt"))).code == 1


def test_torch_is_imported_for_nothing_but_a_pickle(file: Path) -> None:
    file.write_bytes(b"<html>")
    program = (
        f"import sys; from studio.cli import main; main(['convert', {str(file)!r}]); print('torch' in sys.modules)"
    )

    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"
    )
