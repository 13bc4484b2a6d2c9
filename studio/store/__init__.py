"""Models on disk. Reads their configuration files only; no torch."""

from studio.store.installed import POCKET, find_model, installed_models, model_finder

__all__ = ["POCKET", "find_model", "installed_models", "model_finder"]
