"""`studio jobs` and `studio cancel`: the queue, seen and changed."""

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.spec.errors import InvalidRequest, NotFound
from studio.cli.options import SETTINGS_EPILOG, with_settings
from studio.cli.output import print_json, print_table, printable, shown_prompt, table
from studio.settings import Settings

if TYPE_CHECKING:
    from studio.jobs import Job, JobState

WATCH_SECONDS = 0.5
_COLUMNS = ("id", "state", "done", "left", "images", "prompt, or what went wrong")


def install(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog=SETTINGS_EPILOG)(with_settings(jobs))
    app.command(epilog=SETTINGS_EPILOG)(with_settings(cancel))


def jobs(
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing them until Ctrl-C.")] = False,
    state: Annotated[
        list[str] | None, typer.Option(help="Only the queued, running, done, failed or cancelled. May be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per job.")] = False,
    settings: Settings,
) -> None:
    """List jobs, the newest first.

    Watched into a pipe or with --json, a job is printed whenever it has changed.
    """
    from studio.core import Studio

    states = {_state(name) for name in state} if state else None
    with Studio(settings) as studio:

        def look() -> "list[Job]":
            return studio.jobs(states=states, limit=limit)

        if not watch:
            _print(look(), as_json=as_json)
            return
        try:
            if as_json or not sys.stdout.isatty():
                _watch_lines(look, as_json=as_json)
            else:
                _watch_table(look)
        except KeyboardInterrupt:
            return


def cancel(
    job_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of jobs, as `studio jobs` shows them.")],
    *,
    settings: Settings,
) -> None:
    """Cancel jobs: a waiting one at once, a running one within a step. What cannot be is told at the end."""
    from studio.core import Studio

    refused: list[str] = []
    with Studio(settings) as studio:
        for job_id in job_ids:
            try:
                job = studio.cancel(job_id)
            except NotFound as error:
                refused.append(str(error))
                continue
            if job.state in {"done", "failed"}:
                refused.append(f"job {job.id} is {job.state} already; there is nothing to cancel")
            else:
                typer.echo(f"job {job.id} is {'being cancelled' if job.state == 'running' else job.state}")
    if refused:
        raise InvalidRequest("; ".join(refused))


def _state(name: str) -> "JobState":
    from studio.jobs import JobState

    try:
        return JobState(name)
    except ValueError as error:
        known = ", ".join(JobState)
        raise InvalidRequest(f"state must be one of {known}, got {name!r}", field="state") from error


def _print(jobs: "list[Job]", *, as_json: bool) -> None:
    if as_json:
        for job in jobs:
            print_json(_described(job))
    else:
        print_table(_COLUMNS, map(_row, jobs))


def _watch_table(look: "Callable[[], list[Job]]") -> None:
    from rich.live import Live

    with Live(auto_refresh=False) as live:
        while True:
            live.update(table(_COLUMNS, map(_row, look())), refresh=True)
            time.sleep(WATCH_SECONDS)


def _watch_lines(look: "Callable[[], list[Job]]", *, as_json: bool) -> None:
    """Print each job that has changed since the last look, the oldest first."""
    seen: dict[str, tuple[str, ...]] = {}
    while True:
        for job in reversed(look()):
            row = _row(job)
            if seen.get(job.id) != row:
                seen[job.id] = row
                if as_json:
                    print_json(_described(job))
                else:
                    typer.echo(printable(f"{job.id}  {job.status}  {' '.join(row[-1].split())}"))
        sys.stdout.flush()
        time.sleep(WATCH_SECONDS)


def _row(job: "Job") -> tuple[str, ...]:
    left = "" if job.eta is None else f"{job.eta:.0f} s"
    images = f"{job.images_made}/{job.num_images}" if job.num_images else ""
    return job.id, str(job.state), f"{job.progress:.0%}", left, images, job.error or shown_prompt(job.title)


def _described(job: "Job") -> dict[str, Any]:
    return {
        "id": job.id,
        "kind": job.kind,
        "state": job.state,
        "progress": job.progress,
        "eta": job.eta,
        "status": job.status,
        "note": job.note,
        "error": job.error,
        "device": job.device,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "request": job.request.model_dump(mode="json"),
    }
