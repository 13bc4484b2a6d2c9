"""Hashes of models: one for a whole folder, made of those of its weight files."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipelines.spec.model import Model
from studio.store.hashes import FileHashes, key
from studio.store.installed import installed_models, model_named
from studio.store.loras import MAX_SEARCH_BYTES

PARTS = ("text_encoder", "text_encoder_2", "unet", "vae")
"""Folders whose weights paint."""
MIN_DIGITS = 8
"""Of a hash that is to tell one model from another."""


class ModelHashes:
    """Tells models by their weights, whatever their folders are called.

    Args:
        models_dir: where they lie.
        hashes: computes the hash of a file once, and keeps it.
    """

    def __init__(self, models_dir: Path, hashes: FileHashes) -> None:
        self._models_dir = models_dir
        self._hashes = hashes

    def of(self, model: Model) -> str:
        """Return a model's hash; empty if it has no weights. Reads all of them unless they are known.

        It is the SHA-256 of the SHA-256 of each of its safetensors files, in hexadecimal digits and the order of their
        relative names. Configuration and names are no part of it. A1111's hash of a model is that of its one file, and
        never the same.

        Raises:
            ModelError: a file cannot be read, or changes while it is read.
            StorageError: the database refuses.
        """
        digests = [self._hashes.of(path).file for path in _weights(model)]
        return _of_files(digests) if digests else ""

    def known(self) -> dict[str, str]:
        """Return the hashes of the installed models by name; only those for which nothing must be read."""
        known = self._hashes.known()
        found = {}
        for model in installed_models(self._models_dir):
            states = [key(path) for path in _weights(model)]
            if states and known.keys() >= set(states):
                found[model.name] = _of_files(known[state].file for state in states)
        return found

    def find(self, name: str, digest: str) -> str | None:
        """Return the name of the model of a hash, of which the first 8 digits are enough; without one, of a name.

        Args:
            name: in any letter case; beside a hash, where to look first.
            digest: empty if there is none.
        """
        if not digest:
            return model_named(name, self._models_dir)
        if len(digest) < MIN_DIGITS:
            return None
        likely = self._worth_hashing(installed_models(self._models_dir), name.lower())
        return next((model.name for model in likely if self.of(model).startswith(digest.lower())), None)

    def _worth_hashing(self, models: list[Model], name: str) -> Iterator[Model]:
        """Yield those whose files are known, then the one of that name, then as many small ones as take a moment."""
        known = self._hashes.known()
        unknown = {
            model.name: sum(state[1] for state in map(key, _weights(model)) if state not in known) for model in models
        }

        def order(model: Model) -> tuple[bool, bool, int]:
            return unknown[model.name] > 0, model.name.lower() != name, unknown[model.name]

        left = MAX_SEARCH_BYTES
        for model in sorted(models, key=order):
            is_named = model.name.lower() == name
            left -= 0 if is_named else unknown[model.name]
            if is_named or left >= 0:
                yield model


def _of_files(digests: Iterable[str]) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _weights(model: Model) -> list[Path]:
    return [path for part in PARTS for path in sorted((model.path / part).glob("*.safetensors"))]
