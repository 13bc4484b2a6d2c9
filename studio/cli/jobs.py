"""`studio jobs` and `studio cancel`: the queue, seen and changed."""

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.spec.errors import InvalidRequest
from studio.cli.progress import describe

if TYPE_CHECKING:
    from rich.table import Table

    from studio.jobs import Job, JobState

WATCH_SECONDS = 0.5


def install(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(jobs)
    app.command()(cancel)


def jobs(
    *,
    watch: Annotated[bool, typer.Option(help="Keep the list on the screen until Ctrl-C.")] = False,
    state: Annotated[
        list[str] | None, typer.Option(help="Only jobs that are queued, running, done, failed or cancelled.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per job.")] = False,
) -> None:
    """List the newest jobs first."""
    from rich.console import Console
    from rich.live import Live

    from studio.core import Studio

    states = None if not state else {_state(name) for name in state}
    with Studio() as studio:
        if as_json:
            for job in studio.jobs(states=states, limit=limit):
                typer.echo(json.dumps(_described(job)))
            return
        console = Console()
        if not watch:
            console.print(_table(studio.jobs(states=states, limit=limit)))
            return
        try:
            with Live(console=console, auto_refresh=False) as live:
                while True:
                    live.update(_table(studio.jobs(states=states, limit=limit)), refresh=True)
                    time.sleep(WATCH_SECONDS)
        except KeyboardInterrupt:
            return


def cancel(job_id: Annotated[str, typer.Argument(help="The job's id, as `studio jobs` shows it.")]) -> None:
    """Cancel a job: a waiting one at once, a running one within a step."""
    from studio.core import Studio

    with Studio() as studio:
        job = studio.cancel(job_id)
    typer.echo(f"job {job.id} is {'being cancelled' if job.state == 'running' else job.state}")


def _state(name: str) -> "JobState":
    from studio.jobs import JobState

    try:
        return JobState(name)
    except ValueError as error:
        known = ", ".join(JobState)
        raise InvalidRequest(f"state must be one of {known}, got {name!r}", field="state") from error


def _table(jobs: "list[Job]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table("id", "state", "progress", "left", "images", "prompt", box=None, header_style="bold")
    for job in jobs:
        table.add_row(
            job.id,
            job.state,
            f"{job.progress:.0%}",
            "" if job.eta is None else f"{job.eta:.0f} s",
            str(job.request.num_images),
            Text(job.error or job.request.prompt, no_wrap=True, overflow="ellipsis"),
        )
    return table


def _described(job: "Job") -> dict[str, Any]:
    return {
        "id": job.id,
        "state": job.state,
        "progress": job.progress,
        "status": describe(job),
        "error": job.error,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "request": job.request.model_dump(mode="json"),
    }
