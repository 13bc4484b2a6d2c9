"""Vectors of embeddings (textual inversion), and how they stand in a text encoder for one call of it."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load

from pipelines.spec.embeddings import EmbeddingFile, layout_of
from pipelines.spec.errors import ModelError
from pipelines.spec.prompt import Placement
from pipelines.spec.safetensors_header import read_header

Vectors = Mapping[str, torch.Tensor]
"""Name -> the vectors for one text encoder: (vectors, width), as in the file."""


@dataclass(frozen=True, eq=False)
class BundledEmbedding:
    """An embedding that came with a LoRA and is in memory with it."""

    sha256: str
    """The LoRA's."""
    vectors: tuple[torch.Tensor, ...]
    """For each text encoder: (vectors, width), on the CPU."""


def load_vectors(file: EmbeddingFile | BundledEmbedding, *, sha256: str) -> tuple[torch.Tensor, ...]:
    """Return the vectors for each text encoder: (vectors, width), on the CPU.

    Raises:
        ModelError: the file is gone, is another than was asked for, is no embedding, or holds NaN or infinity.
    """
    if isinstance(file, BundledEmbedding):
        if file.sha256 != sha256:
            raise ModelError("an embedding has moved into a LoRA since the picture was asked for; ask again")
        return file.vectors
    layout = layout_of(read_header(file.path), file.path)
    try:
        data = file.path.read_bytes()
    except OSError as error:
        raise ModelError(f"embedding {file.name!r} cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ModelError(f"embedding {file.name!r} has changed since the picture was asked for; ask again")
    tensors = load(data)
    vectors = tuple(tensors[key].reshape(layout.vectors, -1) for key in layout.keys)
    if not all(bool(torch.isfinite(each).all()) for each in vectors):
        raise ModelError(f"embedding {file.name!r} holds NaN or infinity: its training failed; take another")
    return vectors


@contextmanager
def inserted(encoder: Any, vectors: Vectors, placements: Sequence[Placement]) -> Iterator[None]:
    """Put vectors in the place of tokens while the encoder reads one chunk. Afterwards the encoder is as it was.

    Args:
        encoder: a CLIP text model; reads (1, 77) token ids, the first of which is the beginning.
        vectors: of the embeddings.
        placements: where in the chunk they stand; without any, nothing is touched.
    """
    if not placements:
        yield
        return

    def insert(_module: torch.nn.Module, _ids: tuple[torch.Tensor, ...], embedded: torch.Tensor) -> torch.Tensor:
        embedded = embedded.clone()
        for placement in placements:
            start = 1 + placement.start
            embedded[0, start : start + placement.vectors] = vectors[placement.name].to(embedded)
        return embedded

    hook = encoder.get_input_embeddings().register_forward_hook(insert)
    try:
        yield
    finally:
        hook.remove()
