"""Hashes of safetensors files, computed once for each state of a file and kept in the database."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from pipelines.spec.errors import ModelError
from studio.database import Database, file_hash_table

_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Hashes:
    """SHA-256 of one file, in hexadecimal digits."""

    file: str
    """Of the whole file (Civitai's SHA256; its first 10 digits are AutoV2)."""
    tensors: str
    """Of everything behind the header (A1111's Lora hash, kohya's sshs_model_hash; its first 12 digits are AutoV3)."""

    def match(self, digest: str) -> bool:
        """Whether a digest, whole or the first 8 digits or more of it, is one of these."""
        digest = digest.lower().removeprefix("0x")
        return len(digest) >= 8 and (self.file.startswith(digest) or self.tensors.startswith(digest))


class FileHashes:
    """Computes and remembers hashes.

    Args:
        database: where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: dict[tuple[str, int, int], Hashes] = {}
        """Those that were asked for: every picture asks for those of its model."""

    def known(self) -> dict[tuple[str, int, int], Hashes]:
        """Return what is known, by path, size and time of change: see `key`."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(file_hash_table)).all()
        return {(row.path, row.size, row.mtime_ns): Hashes(row.file_sha256, row.tensors_sha256) for row in rows}

    def of(self, path: Path) -> Hashes:
        """Return the hashes of a file; reads all of it unless it is known.

        Raises:
            ModelError: it cannot be read, or changes while it is read.
            StorageError: the database refuses.
        """
        try:
            state = key(path)
            hashes = self._seen.get(state) or self._kept(state)
            if hashes is None:
                hashes = _computed(path)
                if key(path) != state:
                    raise ModelError(f"{path} is being written; try again when that is done")
                self._keep(state, hashes)
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror}") from error
        self._seen[state] = hashes
        return hashes

    def _kept(self, state: tuple[str, int, int]) -> Hashes | None:
        table, (name, size, mtime_ns) = file_hash_table, state
        same = (table.c.path == name, table.c.size == size, table.c.mtime_ns == mtime_ns)
        with self._database.read() as connection:
            row = connection.execute(sa.select(table).where(*same)).first()
        return None if row is None else Hashes(row.file_sha256, row.tensors_sha256)

    def _keep(self, state: tuple[str, int, int], hashes: Hashes) -> None:
        table, (name, size, mtime_ns) = file_hash_table, state
        values = {"size": size, "mtime_ns": mtime_ns, "file_sha256": hashes.file, "tensors_sha256": hashes.tensors}
        with self._database.write() as connection:
            connection.execute(sa.delete(table).where(table.c.path == name))
            connection.execute(sa.insert(table).values(path=name, **values))


def key(path: Path, status: os.stat_result | None = None) -> tuple[str, int, int]:
    """Return what tells one state of a file from another: path, size in bytes, time of change in nanoseconds.

    Args:
        path: the file.
        status: what is known of it; looked at otherwise.

    Raises:
        OSError: it cannot be looked at.
    """
    status = status or path.stat()
    name = os.fsencode(path).decode("utf-8", "backslashreplace")  # what no database could hold
    return name, status.st_size, status.st_mtime_ns


def _computed(path: Path) -> Hashes:
    """Read a file once for both hashes."""
    with path.open("rb") as file:
        length = file.read(8)
        header = file.read(min(int.from_bytes(length, "little"), path.stat().st_size))
        whole, tensors = hashlib.sha256(length + header), hashlib.sha256()
        while chunk := file.read(_CHUNK_BYTES):
            whole.update(chunk)
            tensors.update(chunk)
    return Hashes(whole.hexdigest(), tensors.hexdigest())
