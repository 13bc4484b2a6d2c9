"""Routes of the queue: submit, watch, cancel."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Header, Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from pipelines.spec.errors import NotFound
from studio.api.bodies import AskedPictures
from studio.api.views import JobView, StudioDep
from studio.core import Studio
from studio.jobs import JobState

WATCH_SECONDS = 0.25
"""How often an event stream looks at its job."""
KEEP_ALIVE_SECONDS = 15.0
"""A silent stream says so this often, so that proxies keep it open."""

router = APIRouter(prefix="/jobs", tags=["jobs"])


@router.post("", status_code=202)
def submit_job(
    request: AskedPictures, studio: StudioDep, *, idempotency_key: Annotated[str | None, Header(max_length=200)] = None
) -> JobView:
    """Put a request in the queue and return its job at once. The same Idempotency-Key gives the same job."""
    return JobView.of(studio.submit(request, idempotency_key=idempotency_key))


@router.get("")
def list_jobs(
    studio: StudioDep,
    *,
    state: Annotated[list[JobState] | None, Query(description="Only these states.")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> list[JobView]:
    """List jobs, newest first."""
    return [JobView.of(job) for job in studio.jobs(states=state, limit=limit)]


@router.get("/{job_id}")
def read_job(job_id: str, studio: StudioDep) -> JobView:
    """Return one job as it stands."""
    return JobView.of(studio.job(job_id))


@router.post("/{job_id}/cancel")
def cancel_job(job_id: str, studio: StudioDep) -> JobView:
    """Cancel a job: a queued one at once, a running one within a step; a finished one stays as it is."""
    return JobView.of(studio.cancel(job_id))


@router.post("/{job_id}/resume")
def resume_job(job_id: str, studio: StudioDep) -> JobView:
    """Queue a failed or cancelled job again; it goes on where it stopped. Any other job stays as it is."""
    return JobView.of(studio.resume(job_id))


@router.get("/{job_id}/preview", response_class=Response, responses={200: {"content": {"image/jpeg": {}}}})
def read_preview(job_id: str, studio: StudioDep) -> Response:
    """Return the running job's picture as it stands (JPEG)."""
    preview = studio.preview(job_id)
    if preview is None:
        raise NotFound(f"job {job_id!r} has no preview now; a running job has one after its first step")
    return Response(preview, media_type="image/jpeg", headers={"Cache-Control": "no-store"})


@router.get(
    "/{job_id}/events", response_class=StreamingResponse, responses={200: {"content": {"text/event-stream": {}}}}
)
def watch_job(job_id: str, studio: StudioDep) -> StreamingResponse:
    """Stream the job as server-sent events: its state now, then at every change, until it is finished.

    Every event is the whole job, so a reconnecting client misses nothing and Last-Event-ID needs no answer.
    """
    studio.job(job_id)
    headers = {"Cache-Control": "no-store"}
    return StreamingResponse(_events(studio, job_id), media_type="text/event-stream", headers=headers)


async def _events(studio: Studio, job_id: str) -> AsyncIterator[str]:
    sent: dict[str, Any] = {}
    silent_seconds = 0.0
    while True:
        job = await run_in_threadpool(studio.job, job_id)
        view = JobView.of(job)
        seen = view.model_dump(exclude={"eta"})
        if seen != sent:
            sent, silent_seconds = seen, 0.0
            yield f"event: job\ndata: {view.model_dump_json()}\n\n"
        elif silent_seconds >= KEEP_ALIVE_SECONDS:
            silent_seconds = 0.0
            yield ": waiting\n\n"
        if job.is_finished:
            return
        await anyio.sleep(WATCH_SECONDS)
        silent_seconds += WATCH_SECONDS
