"""Embeddings made of a model's own token vectors: their name must then mean just those tokens."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from pipelines.spec.model import Model
from pipelines.spec.prompt.tokenizing import read_tokenizer


def token_vectors(model: Model, text: str) -> list[torch.Tensor]:
    """The vectors of a text's tokens in each text encoder of a model: (tokens, width)."""
    ids = torch.tensor(read_tokenizer(model.path / "tokenizer")(text))
    vectors = []
    for part in ("text_encoder", "text_encoder_2")[: len(model.text_encoder_widths)]:
        weights = load_file(model.path / part / "model.safetensors")
        (table,) = (tensor for name, tensor in weights.items() if name.endswith("token_embedding.weight"))
        vectors.append(table[ids].clone())
    return vectors


def write_embedding(path: Path, vectors: list[torch.Tensor], *, key: str = "emb_params", **metadata: Any) -> Path:
    """Save it in the layout of one text encoder, or of two."""
    keys = [key] if len(vectors) == 1 else ["clip_l", "clip_g"]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(zip(keys, vectors, strict=True)), path, metadata=metadata or None)
    return path
