"""A job's progress on standard error: a bar where somebody watches, nothing where the output goes to a file."""

import sys
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

if TYPE_CHECKING:
    from studio.jobs import Job


class JobProgress:
    """Draws one job while it is waited for."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[eta]}"),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
            transient=True,
        )
        self._task = self._progress.add_task("queued", total=1.0, eta="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, job: "Job") -> None:
        """Draw the job as it stands."""
        self._progress.update(
            self._task,
            completed=job.progress,
            description=describe(job),
            eta="" if job.eta is None else f"{job.eta:.0f} s left",
        )


def describe(job: "Job") -> str:
    """Return where a job stands, in a few words."""
    if job.state != "running":
        return str(job.state)
    if not job.num_steps:
        return "loading the model"
    of_images = f"image {job.image_index + 1}/{job.request.num_images}, " if job.request.num_images > 1 else ""
    return f"{of_images}step {job.step}/{job.num_steps}"
