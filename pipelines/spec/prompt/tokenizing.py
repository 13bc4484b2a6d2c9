"""The CLIP tokenizer of a model's folder, without transformers: the same token ids as its CLIPTokenizer."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from pipelines.spec.errors import ModelError
from pipelines.spec.prompt.chunking import ChunkRules

Tokenize = Callable[[str], Sequence[int]]
"""Text -> token ids, without those for the beginning and the end."""

_FILES = ("tokenizer.json", "vocab.json", "merges.txt")
_START, _END = "<|startoftext|>", "<|endoftext|>"
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""How CLIP cuts text into words (arXiv:2103.00020; OpenAI's simple_tokenizer.py, MIT)."""


def chunk_rules(folder: Path, *, embeddings: Mapping[str, int] | None = None) -> ChunkRules:
    """Return the rules of the text encoder whose tokenizer is in a folder.

    Args:
        folder: it holds tokenizer.json, or vocab.json and merges.txt.
        embeddings: see `ChunkRules`.

    Raises:
        ModelError: the tokenizer cannot be read.
    """
    tokenize = read_tokenizer(folder)
    return ChunkRules(tokenize, comma_tokens=frozenset(tokenize(",")), embeddings=embeddings or {})


def read_tokenizer(folder: Path) -> Tokenize:
    """Return the tokenizer of a folder; the latest few are remembered, and read again when a file has changed.

    Raises:
        ModelError: there is none, or it is damaged.
    """
    files = [folder / name for name in _FILES if (folder / name).is_file()]
    stamp = tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in map(Path.stat, files))
    return _built(folder, stamp)


@lru_cache(maxsize=4)
def _built(folder: Path, _stamp: tuple[tuple[int, int, int], ...]) -> Tokenize:
    try:
        vocabulary, merges = _read(folder)
        tokenizer = Tokenizer(
            models.BPE(
                vocab=vocabulary,
                merges=merges,
                continuing_subword_prefix="",
                end_of_word_suffix="</w>",
                fuse_unk=False,
                unk_token=_END,
            )
        )
    except FileNotFoundError as error:
        raise ModelError(
            f"{folder} holds no tokenizer.json, nor vocab.json with merges.txt; download it again"
        ) from error
    except Exception as error:  # the library raises Exception itself
        raise ModelError(f"{folder} holds no CLIP tokenizer that can be read: {error}; download it again") from error
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.add_special_tokens([_START, _END])

    def tokenize(text: str) -> Sequence[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    return tokenize


def _read(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return vocabulary and merges."""
    whole = folder / "tokenizer.json"
    if whole.is_file():
        model = json.loads(whole.read_text(encoding="utf-8"))["model"]
        return model["vocab"], [_pair(merge) for merge in model["merges"]]
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    return vocabulary, [_pair(line) for line in lines if line and not line.startswith("#version")]


def _pair(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right
