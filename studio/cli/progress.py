"""A job's progress on standard error: a bar where somebody watches, a line now and then where it goes to a file."""

import sys
from typing import TYPE_CHECKING, Protocol

import typer

if TYPE_CHECKING:
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
