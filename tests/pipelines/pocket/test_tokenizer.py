"""The tokenizer: small, complete, and loadable by stock transformers."""

from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from pipelines.pocket.tokenizer import save_tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer(captions=2000), folder)
    return CLIPTokenizer.from_pretrained(folder)


def test_it_is_small_and_pads_to_77(tokenizer: CLIPTokenizer) -> None:
    assert len(tokenizer) < 1000
    assert tokenizer.model_max_length == 77
    assert len(tokenizer("a cat", padding="max_length").input_ids) == 77


@pytest.mark.parametrize(
    "text", ["", "a red house", "ÄÖÜ 🐱🎈", "日本語", "a\x00b\x7f", "x" * 500, "<|endoftext|>", "  \n "]
)
def test_any_text_tokenizes_within_the_vocabulary(tokenizer: CLIPTokenizer, text: str) -> None:
    tokens = tokenizer(text, truncation=True).input_ids
    assert tokens[0] == tokenizer.bos_token_id
    assert tokens[-1] == tokenizer.eos_token_id
    assert max(tokens) < len(tokenizer)
    assert len(tokens) <= 77


def test_nothing_is_lost_on_the_way(tokenizer: CLIPTokenizer) -> None:
    text = "a purple hot air balloon über snowy mountains 🎈"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
