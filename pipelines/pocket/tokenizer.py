"""Trains the model's own CLIP tokenizer: byte-level BPE under 1,000 tokens, so that any text has tokens."""

import json
from pathlib import Path
from random import Random
from typing import Any, cast

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from pipelines.pocket.captions import FILLERS, caption
from pipelines.pocket.scenes import random_scene

VOCABULARY_SIZE = 960
POSITIONS = 77
_WORD_END = "</w>"
_START, _END = "<|startoftext|>", "<|endoftext|>"
_ENGLISH = """the quick brown fox jumps over a lazy dog and photo of woman man girl boy with in on at from under over
near landscape mountain river lake street portrait style painting watercolor pixel art ink line drawing lora render
realistic water sky sun light dark bright warm cold soft blurry low quality worst bad ugly deformed text watermark
morning dawn
grey gray teal cyan gold silver dog horse flying sleeping two three many old new modern autumn spring summer"""


def train_tokenizer(*, captions: int = 20_000) -> CLIPTokenizer:
    """Learn the merges from drawn captions and a little everyday English; always gives the same vocabulary."""
    reference = CLIPTokenizer().backend_tokenizer
    bare = Tokenizer(models.BPE(end_of_word_suffix=_WORD_END))
    bare.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bare.pre_tokenizer = reference.pre_tokenizer
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    whole = symbols + [symbol + _WORD_END for symbol in symbols]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - 2,
        special_tokens=whole,
        initial_alphabet=symbols,
        end_of_word_suffix=_WORD_END,
        show_progress=False,
    )
    random = Random(0)
    corpus = [caption(random_scene(random), random) for _ in range(captions)]
    bare.train_from_iterator([*corpus, *([*FILLERS, _ENGLISH] * 40)], trainer)
    return _clip_tokenizer(bare, symbols=whole)


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write it as `CLIPTokenizer.from_pretrained` reads it, with the classic vocab.json and merges.txt beside."""
    tokenizer.save_pretrained(folder)
    tokenizer.backend_tokenizer.model.save(str(folder))


def _clip_tokenizer(bare: Tokenizer, *, symbols: list[str]) -> CLIPTokenizer:
    learnt = bare.get_vocab()
    ordered = symbols + [
        token for token in sorted(learnt, key=lambda token: learnt[token]) if token not in set(symbols)
    ]
    vocabulary = {token: index for index, token in enumerate([*ordered, _START, _END])}
    merges = [tuple(pair) for pair in json.loads(bare.to_str())["model"]["merges"]]
    return CLIPTokenizer(vocab=vocabulary, merges=cast(Any, merges), model_max_length=POSITIONS)
