"""A thread that works in this process while no worker is alive."""

import threading
from collections.abc import Callable
from contextlib import suppress

from pipelines.spec.errors import StorageError
from studio.locks import ProcessLock
from studio.storage import Storage
from studio.worker import take_over


class LocalWork(threading.Thread):
    """Work in a thread of this process.

    Args:
        storage: where everything is kept.
        device: whose dead workers are cleaned up after, first of all.
        lock: the device's, held; freed at the end.
        work: what to do then, given the device.
        name: the thread's.
    """

    def __init__(
        self, storage: Storage, device: str, *, lock: ProcessLock, work: Callable[[str], None], name: str
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._storage = storage
        self._device = device
        self._device_lock = lock
        self._work = work
        self._refusal: StorageError | None = None

    def run(self) -> None:
        """Do the work."""
        try:
            take_over(self._storage, self._device)
            self._work(self._device)
        except StorageError as error:
            self._refusal = error
            with suppress(StorageError):  # the next to come would think that a worker died
                self._storage.jobs.requeue_all(self._device)
        finally:
            self._device_lock.release()

    def is_going_on(self) -> bool:
        """Return whether there is more to come.

        Raises:
            StorageError: it ended because the disk or the database refused.
        """
        if self.is_alive():
            return True
        if self._refusal is not None:
            raise self._refusal
        return False
