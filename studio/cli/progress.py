"""A job's progress on standard error: a bar where somebody watches, a line now and then where it goes to a file."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol

import typer

from pipelines.spec.errors import Cancelled
from studio.cli.interruption import noticed

if TYPE_CHECKING:
    from studio.core import Studio
    from studio.jobs import Job


class Progress(Protocol):
    """Shows one job while it is waited for."""

    def show(self, job: "Job") -> None:
        """Show the job as it stands."""

    def close(self) -> None:
        """Leave the screen in order."""


def progress() -> Progress:
    """Return what suits standard error."""
    return _Bar() if sys.stderr.isatty() else _Lines()


def follow(studio: "Studio", job: "Job", shown: Progress) -> "Job":
    """Wait for a job and show it. The first Ctrl-C cancels it, and the wait goes on until that has happened.

    Raises:
        Cancelled: at the second one.
    """
    with noticed() as asked:

        def watch(job: "Job") -> None:
            if asked.is_set() and not job.cancel_requested and not job.is_finished:
                job = studio.cancel(job.id)
            shown.show(job)

        try:
            return studio.wait(job.id, on_update=watch)
        except KeyboardInterrupt:  # the second one; `wait` has cancelled the job
            raise Cancelled(f"job {job.id} is being cancelled") from None
        finally:
            shown.close()


class BatchProgress(Protocol):
    """Shows many jobs while they are waited for."""

    def show(self, over: int, jobs: "list[Job]") -> None:
        """Show how many are over, and those that are not."""

    def aside(self) -> AbstractContextManager[object]:
        """Make room for a line on the terminal."""

    def close(self) -> None:
        """Leave the screen in order."""


def batch_progress(total: int) -> BatchProgress:
    """Return a bar where somebody watches; elsewhere the finished pictures say it all."""
    return _BatchBar(total) if sys.stderr.isatty() else _Silent()


class _Bar:
    """A bar with the time that is probably left; it goes when the job is over."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[eta]}"),
        )
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("", total=1.0, eta="")
        self._bar.start()

    def show(self, job: "Job") -> None:
        eta = "" if job.eta is None else f"{job.eta:.0f} s left"
        self._bar.update(self._task, completed=job.progress, description=job.status, eta=eta)

    def close(self) -> None:
        self._bar.stop()


class _Lines:
    """One line per stage of the job."""

    def __init__(self) -> None:
        self._shown = ""

    def show(self, job: "Job") -> None:
        if job.stage != self._shown:
            typer.echo(f"job {job.id}: {job.stage}", err=True)
            self._shown = job.stage

    def close(self) -> None:
        pass


class _BatchBar:
    """A bar over all jobs, with what the running one does."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
        self._task = self._bar.add_task("", total=total)
        self._bar.start()

    def show(self, over: int, jobs: "list[Job]") -> None:
        running = next((job.status for job in jobs if str(job.state) == "running"), "")
        self._bar.update(self._task, completed=over, description=running)

    @contextmanager
    def aside(self) -> Iterator[None]:
        self._bar.stop()
        yield
        self._bar.start()

    def close(self) -> None:
        self._bar.stop()


class _Silent:
    """Nothing."""

    def show(self, over: int, jobs: "list[Job]") -> None:
        pass

    def aside(self) -> AbstractContextManager[object]:
        return nullcontext()

    def close(self) -> None:
        pass
