"""Keeps one worker process per device alive, and owns the outputs folder while it does."""

import logging
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from pipelines.spec.errors import AlreadyRunning, StorageError
from studio import environment
from studio.settings import Settings
from studio.storage import Storage, server_lock

MAX_RESTART_SECONDS = 30.0
KILL_SECONDS = 5.0
"""A worker that is still there so long after its time to drain is killed."""
LOG_BYTES = 4 * 2**20
"""A worker's log is begun anew when it is larger than this at a start."""

log = logging.getLogger(__name__)


class Supervisor:
    """Starts workers, restarts the dead with growing pauses, and drains them at the end.

    Args:
        settings: name the devices, the outputs folder and the pauses.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = server_lock(settings)
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Take the outputs folder and start the workers.

        Raises:
            AlreadyRunning: another server has the folder.
        """
        self.take_folder()
        self.start_workers()

    def take_folder(self) -> None:
        """Take the outputs folder, before there is anything to work with.

        Raises:
            AlreadyRunning: another server has the folder.
        """
        if not self._lock.acquire(url=self._settings.url):
            holder = self._lock.holder()
            raise AlreadyRunning(
                f"another studio (process {holder.get('pid', 'unknown')}) is serving {self._settings.outputs_dir} "
                f"at {holder.get('url', 'an unknown address')}; use that one, stop it, or choose other --outputs"
            )

    def start_workers(self) -> None:
        """Start a worker for each device. The folder must be taken."""
        for device in self._settings.devices:
            thread = threading.Thread(target=self._keep_alive, args=(device,), name=f"supervise-{device}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Let every worker finish or give back its job, then end it."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._lock.release()

    def _keep_alive(self, device: str) -> None:
        delay = self._settings.restart_delay
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                self._run_worker(device)
            except OSError as error:
                log.error("the worker for %s cannot be started: %s", device, error)
            if time.monotonic() - started > 10 * delay:
                delay = self._settings.restart_delay
            self._stopping.wait(delay)
            delay = min(2 * delay, MAX_RESTART_SECONDS)

    def _run_worker(self, device: str) -> None:
        with (
            self._open_log(device).open("ab") as log_file,
            subprocess.Popen(
                [sys.executable, "-P", "-m", "studio.worker", device],
                bufsize=0,
                env=environment.of_child(),
                stdin=subprocess.PIPE,
                stdout=log_file,
                stderr=subprocess.STDOUT,
            ) as worker,
        ):
            assert worker.stdin is not None
            with suppress(BrokenPipeError):  # a worker that died at once is told of below
                worker.stdin.write(f"{self._settings.model_dump_json()}\n".encode())
            self._watch(worker, device)
        if not self._stopping.is_set():
            code = worker.returncode
            log.error("the worker for %s ended with return code %s; see %s", device, code, log_file.name)

    def _watch(self, worker: subprocess.Popen[bytes], device: str) -> None:
        """Wait until the worker is dead; when stopping, ask it to drain first."""
        while worker.poll() is None:
            if self._stopping.wait(0.05):
                assert worker.stdin is not None
                worker.stdin.close()
                try:
                    worker.wait(timeout=self._settings.drain_seconds + KILL_SECONDS)
                except subprocess.TimeoutExpired:
                    self._give_back(device)
                    worker.kill()
                    worker.wait()

    def _give_back(self, device: str) -> None:
        """Take the job from a worker that must be killed, so that the death does not count against it."""
        try:
            storage = Storage.open(self._settings)
            try:
                storage.jobs.requeue_all(device)
            finally:
                storage.database.close()
        except StorageError as error:
            log.error("the job of the worker for %s cannot be given back: %s", device, error)

    def _open_log(self, device: str) -> Path:
        path = self._settings.outputs_dir / "logs" / f"worker-{device.replace(':', '-')}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > LOG_BYTES:
            path.unlink()
        return path
