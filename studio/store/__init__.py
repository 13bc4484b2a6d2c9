"""Models on disk, and upscale models. Reads their configuration files only; no torch."""

from studio.store.installed import POCKET, find_model, installed_models
from studio.store.upscalers import find_upscaler, installed_upscalers

__all__ = ["POCKET", "find_model", "find_upscaler", "installed_models", "installed_upscalers"]
