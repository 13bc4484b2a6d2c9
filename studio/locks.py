"""Kernel locks: held means that the holder is alive, for they are freed the moment a process dies."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pipelines.spec.errors import StorageError
from studio.files import disk_sentence

_WAIT_SECONDS = 0.01


class ProcessLock:
    """A lock that the kernel frees the moment its process dies, however it dies.

    Args:
        path: the lock file. A note of the holder stands beside it, for people.
    """

    def __init__(self, path: Path) -> None:
        self._note = path.with_suffix(".json")
        self._lock = FileLock(path, thread_local=False)

    def acquire(self, **note: str | int) -> bool:
        """Take the lock if it is free; return whether it is now ours. The note says who holds it."""
        if not self._try():
            return False
        with suppress(OSError):  # on a full disk the lock still counts; only people miss the note
            self._note.write_text(json.dumps({"pid": os.getpid(), **note}))
        return True

    def release(self) -> None:
        """Free the lock."""
        self._lock.release()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait for the lock, and hold it for the block."""
        while not self._try():
            time.sleep(_WAIT_SECONDS)
        try:
            yield
        finally:
            self.release()

    def is_held(self) -> bool:
        """Whether a living process (this one included) holds the lock."""
        if self._lock.is_locked:
            return True
        if not Path(self._lock.lock_file).exists():  # trying would make it
            return False
        if not self._try():
            return True
        self.release()
        return False

    def _try(self) -> bool:
        path = Path(self._lock.lock_file)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(blocking=False)
        except Timeout:
            return False
        except OSError as error:
            raise StorageError(disk_sentence(error, path)) from error
        return True

    def holder(self) -> dict[str, str | int]:
        """Return the holder's note; empty when it cannot be read."""
        try:
            note: dict[str, str | int] = json.loads(self._note.read_text())
        except (OSError, ValueError):
            return {}
        return note
