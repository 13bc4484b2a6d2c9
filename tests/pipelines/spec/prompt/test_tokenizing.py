"""The tokenizer without transformers says what transformers' own says, of any text."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from pipelines.spec.errors import ModelError
from pipelines.spec.prompt.tokenizing import Tokenize, chunk_rules, read_tokenizer
from studio.store import POCKET

CLASSIC = ("vocab.json", "merges.txt", "tokenizer_config.json")
"""The files of Stable Diffusion's own tokenizer folders."""
TEXTS = st.text() | st.lists(
    st.sampled_from(
        ["red", "House", " ", ",", "'s", "é", "e\u0301", "İ", "ß", "中", "🙂", "<|endoftext|>", "\n", "7", "!"]
    )
).map("".join)


@pytest.fixture(scope="module", params=["tokenizer.json", "vocab.json"])
def both(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[CLIPTokenizer, Tokenize]:
    """The pocket model's tokenizer in either layout; trained BPE over bytes, as Stable Diffusion's."""
    folder = POCKET / "tokenizer"
    if request.param == "vocab.json":
        folder = tmp_path_factory.mktemp("classic")
        for name in CLASSIC:
            shutil.copy(POCKET / "tokenizer" / name, folder)
    return CLIPTokenizer.from_pretrained(folder), read_tokenizer(folder)


@given(text=TEXTS)
def test_the_ids_are_those_of_transformers(both: tuple[CLIPTokenizer, Tokenize], text: str) -> None:
    reference, tokenize = both

    assert tokenize(text) == reference(text, add_special_tokens=False, verbose=False).input_ids


@given(text=TEXTS)
def test_what_a_vocabulary_lacks_is_unknown_to_both(letters: tuple[CLIPTokenizer, Tokenize], text: str) -> None:
    reference, tokenize = letters

    assert tokenize(text) == reference(text, add_special_tokens=False, verbose=False).input_ids


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> tuple[CLIPTokenizer, Tokenize]:
    from tests.pipelines.tiny_models import build_tokenizer

    folder = tmp_path_factory.mktemp("letters")
    return build_tokenizer(folder), read_tokenizer(folder)


def test_a_changed_tokenizer_is_read_again(tmp_path: Path) -> None:
    for name in CLASSIC[:2]:
        shutil.copy(POCKET / "tokenizer" / name, tmp_path)
    before = read_tokenizer(tmp_path)("red house")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")

    assert len(before) == 2
    assert len(read_tokenizer(tmp_path)("red house")) == 8


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("none", ""),
        ("tokenizer.json", "{"),
        ("tokenizer.json", "[]"),
        ("tokenizer.json", json.dumps({"model": {"vocab": {"a": 0}, "merges": ["a b"]}})),
    ],
)
def test_a_tokenizer_that_cannot_be_read_is_refused(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)

    with pytest.raises(ModelError, match="tokenizer"):
        chunk_rules(tmp_path)


def test_it_needs_no_transformers() -> None:
    program = "import sys, pipelines.spec.prompt.tokenizing\nprint(*sys.modules)"

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()

    assert {"torch", "transformers", "diffusers"}.isdisjoint(loaded)
