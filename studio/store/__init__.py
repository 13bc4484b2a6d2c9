"""Models on disk. Reads their configuration files only; no torch."""

from studio.store.embeddings import EmbeddingCatalogue, InstalledEmbedding
from studio.store.installed import POCKET, find_model, installed_models

__all__ = ["POCKET", "EmbeddingCatalogue", "InstalledEmbedding", "find_model", "installed_models"]
