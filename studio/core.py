"""Studio: the one facade that every front door uses, and the place where the parts are put together."""

import sys
import threading
from collections.abc import Callable, Collection
from functools import cache, partial
from pathlib import Path
from typing import Any, Self

from PIL import Image
from tqdm.auto import tqdm

from pipelines.spec.engine import Engine
from pipelines.spec.errors import Cancelled, GenerationFailed
from pipelines.spec.model import Model
from pipelines.spec.request import GenerationRequest
from studio.files import InputStore, is_input_id
from studio.gallery import Gallery, GalleryImage
from studio.jobs import Job, JobState
from studio.settings import Settings
from studio.storage import Storage, worker_lock
from studio.store import installed_models
from studio.worker import load_engine, run_job, take_over

_WATCH_SECONDS = 0.1
_IMAGE_FIELDS = ("init_image", "mask_image")


class Studio:
    """Makes pictures and keeps them.

    A request becomes a job in the database. If a worker is alive (a server runs), it does the job; otherwise this
    process does. Either way the picture lands in the same gallery.

    Args:
        settings: read from studio.toml and STUDIO_* variables when not given.

    Raises:
        StorageError: the outputs folder cannot be written, or the database is damaged.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.load()
        self._storage = Storage.open(self.settings)
        self._engines: dict[str, Callable[[], Engine]] = {
            device: cache(partial(load_engine, self.settings, device)) for device in self.settings.devices
        }

    @property
    def inputs(self) -> InputStore:
        """The images that users start from."""
        return self._storage.inputs

    @property
    def gallery(self) -> Gallery:
        """The finished pictures."""
        return self._storage.gallery

    def generate(
        self, request: GenerationRequest | str = "", *, progress: bool = True, **fields: Any
    ) -> list[GalleryImage]:
        """Make pictures and wait for them.

        Args:
            request: a prompt, or a whole request.
            progress: show a progress bar on standard error, if that is a terminal, or in the notebook.
            fields: fields of GenerationRequest. `init_image` and `mask_image` may be Pillow images or files, and paths
                may be strings.

        Raises:
            InvalidRequest: naming the field, before anything runs.
            GenerationFailed: with the reason in words; pictures made before the failure are in the gallery.
            Cancelled: somebody cancelled the job.
        """
        job = self.submit(self.request(request, **fields))
        is_hidden = not (progress and _is_watched())
        with tqdm(total=100, unit="%", disable=is_hidden, leave=False, bar_format=_BAR) as bar:
            job = self.wait(job.id, on_update=lambda job: _show(bar, job))
        return self.result(job)

    def result(self, job: Job) -> list[GalleryImage]:
        """Return the pictures of a finished job.

        Raises:
            GenerationFailed: with the reason in words, and how many pictures were made before it.
            Cancelled: likewise.
        """
        images = self.gallery.of_job(job.id)
        kept = f"; {len(images)} of {job.request.num_images} images were made and are kept" if images else ""
        match job.state:
            case JobState.CANCELLED:
                raise Cancelled(f"job {job.id} was cancelled{kept}")
            case JobState.FAILED:
                raise GenerationFailed(f"{job.error or 'the job failed'}{kept}")
        return images

    def request(self, request: GenerationRequest | str = "", **fields: Any) -> GenerationRequest:
        """Build a request from a prompt (or another request) and fields; images given as such are stored first.

        Raises:
            InvalidRequest: naming the field.
        """
        for name in _IMAGE_FIELDS:
            given = fields.get(name)
            if isinstance(given, str) and not is_input_id(given):
                given = Path(given)
            if isinstance(given, Image.Image | Path | bytes):
                fields[name] = self.inputs.put(given, field=name)
        base = {"prompt": request} if isinstance(request, str) else request.model_dump()
        return GenerationRequest.parse({**base, **fields})

    def submit(self, request: GenerationRequest, *, idempotency_key: str | None = None) -> Job:
        """Check a request against its model and put it in the queue; returns at once.

        Raises:
            InvalidRequest: naming the field.
        """
        request = request.with_seed()  # a template is checked with the seed it will run with
        self._storage.expand(request)
        return self._storage.jobs.submit(request, idempotency_key=idempotency_key)

    def wait(self, job_id: str, *, on_update: Callable[[Job], object] | None = None) -> Job:
        """Return the job once it is finished. Runs it in this process while no worker is alive.

        Interrupting the wait (Ctrl-C) cancels the job.

        Args:
            job_id: the job.
            on_update: called about ten times a second with the job as it stands.

        Raises:
            NotFound: no such job.
        """
        pause = threading.Event()
        local: threading.Thread | None = None
        try:
            while not (job := self.job(job_id)).is_finished:
                if local is None or not local.is_alive():
                    local = self._run_here(job)
                if on_update is not None:
                    on_update(job)
                pause.wait(_WATCH_SECONDS)
        except KeyboardInterrupt:
            self.cancel(job_id)
            raise
        finally:
            if local is not None:
                local.join()
        if on_update is not None:
            on_update(job)
        return job

    def cancel(self, job_id: str) -> Job:
        """Cancel a job: a queued one at once, a running one within a step.

        Raises:
            NotFound: no such job.
        """
        return self._storage.jobs.cancel(job_id)

    def job(self, job_id: str) -> Job:
        """Return one job.

        Raises:
            NotFound: no such job.
        """
        return self._storage.jobs.get(job_id)

    def jobs(self, *, states: Collection[JobState] | None = None, limit: int = 50) -> list[Job]:
        """Return the newest jobs, of some states only if asked."""
        return self._storage.jobs.newest(states=states, limit=limit)

    def queue_length(self) -> int:
        """Return how many jobs wait."""
        return self._storage.jobs.count({JobState.QUEUED})

    def preview(self, job_id: str) -> bytes | None:
        """Return a running job's picture as it stands (JPEG), or None."""
        return self._storage.jobs.preview(job_id)

    def models(self) -> list[Model]:
        """Return the installed models."""
        return installed_models(self.settings.models_dir)

    def live_workers(self) -> list[str]:
        """Return the devices that have a living worker."""
        return [device for device in self.settings.devices if worker_lock(self.settings, device).is_held()]

    def close(self) -> None:
        """Close the database."""
        self._storage.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run_here(self, job: Job) -> threading.Thread | None:
        """Start running a job in this process if a device is free and the job is still to be had."""
        for device in self.settings.devices:
            lock = worker_lock(self.settings, device)
            is_possible = job.state is JobState.QUEUED or job.device == device
            if is_possible and lock.acquire(device=device):
                break
        else:
            return None

        def run() -> None:
            try:
                take_over(self._storage, device)
                claimed = self._storage.jobs.claim(device, job_id=job.id)
                if claimed is not None:
                    engine = self._engines[device]
                    run_job(claimed, storage=self._storage, engine=engine, drain=threading.Event())
            finally:
                lock.release()

        thread = threading.Thread(target=run, name=f"run-{job.id}", daemon=True)
        thread.start()
        return thread


_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}"


def _show(bar: "tqdm[Any]", job: Job) -> None:
    bar.set_description_str(job.status, refresh=False)
    bar.set_postfix_str("" if job.eta is None else f"{job.eta:.0f} s left", refresh=False)
    bar.n = round(100 * job.progress)
    bar.refresh()


def _is_watched() -> bool:
    """Whether somebody sees the bar: a terminal or a notebook, whose output is no terminal, but no file."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules
