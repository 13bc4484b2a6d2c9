"""Progress bars of the Python API, on standard error or in a notebook; nothing where nobody watches."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm

from studio.jobs import Job, JobState

_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}"


@contextmanager
def job_bar(*, is_wanted: bool) -> Iterator[Callable[[Job], None]]:
    """Open the bar of one job; it is told the job as it stands."""
    with tqdm(total=100, unit="%", disable=not (is_wanted and _is_watched()), leave=False, bar_format=_BAR) as bar:

        def show(job: Job) -> None:
            bar.set_description_str(job.status, refresh=False)
            bar.set_postfix_str("" if job.eta is None else f"{job.eta:.0f} s left", refresh=False)
            bar.n = round(100 * job.progress)
            bar.refresh()

        yield show


@contextmanager
def requests_bar(total: int | None, *, is_wanted: bool) -> Iterator[Callable[[int, list[Job]], None]]:
    """Open the bar of many requests; it is told how many are over, and the jobs that are not."""
    with tqdm(total=total, unit="request", disable=not (is_wanted and _is_watched()), leave=False) as bar:

        def look(over: int, jobs: list[Job]) -> None:
            running = next((job.status for job in jobs if job.state is JobState.RUNNING), "")
            bar.set_postfix_str(running, refresh=False)
            bar.n = over
            bar.refresh()

        yield look


def _is_watched() -> bool:
    """Whether somebody sees the bar: a terminal or a notebook, whose output is no terminal, but no file."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules
