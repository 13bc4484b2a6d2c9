"""Models, LoRAs, embeddings and upscale models on disk. Reads configuration files and headers only; no torch."""

from studio.store.beside import small_picture
from studio.store.embeddings import EmbeddingCatalogue, InstalledEmbedding, brought_by
from studio.store.hashes import FileHashes, Hashes
from studio.store.headers import FileHeaders
from studio.store.installed import POCKET, find_model, installed_models, model_named
from studio.store.lora_header import LoraHeader, read_lora_header
from studio.store.loras import InstalledLora, LoraCatalogue, described_lora
from studio.store.model_hashes import ModelHashes
from studio.store.upscalers import find_upscaler, installed_upscalers, upscaler_finder

__all__ = [
    "POCKET",
    "EmbeddingCatalogue",
    "FileHashes",
    "FileHeaders",
    "Hashes",
    "InstalledEmbedding",
    "InstalledLora",
    "LoraCatalogue",
    "LoraHeader",
    "ModelHashes",
    "brought_by",
    "described_lora",
    "find_model",
    "find_upscaler",
    "installed_models",
    "installed_upscalers",
    "model_named",
    "read_lora_header",
    "small_picture",
    "upscaler_finder",
]
