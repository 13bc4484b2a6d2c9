"""What the studio is doing, as HTML. Only observes: every open page shows the same, whoever asked for the picture."""

import base64
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from studio.core import Studio
from studio.gallery import GalleryImage
from studio.jobs import Job, JobKind, JobState
from studio.ui import markup

STRIP_LENGTH = 12
"""Pictures in the strip of the latest."""
CANCELLED_SECONDS = 10.0
"""So long it is told that a job was cancelled while the next one is made."""

_WELCOME = (
    '<div class="stage" data-state="idle"><div class="frame"><p class="welcome">'
    "<strong>Your picture appears here</strong>"
    "Describe it above and press Generate."
    '<span class="keys"><br><kbd>Ctrl</kbd> + <kbd>Enter</kbd> does the same.</span></p></div></div>'
)


@dataclass(frozen=True)
class View:
    """What a page shows at one moment."""

    job_id: str | None
    """The job on the stage."""
    is_active: bool
    """Whether something will change soon."""
    waiting: int
    """How many pictures' jobs wait behind it."""
    stage: str
    strip: str


def observe(studio: Studio) -> View:
    """Return what to show now: the pictures being made, else the next ones, else how the last ended.

    Trainings have a tab of their own; here it is only told that pictures wait for one.
    """
    latest = studio.gallery.page(limit=STRIP_LENGTH)
    strip = markup.grid(latest, label="Latest pictures") if latest else ""
    kind = JobKind.GENERATE
    job = studio.current_job(kind=kind) or next(iter(studio.jobs(kind=kind, limit=1)), None)
    if job is None:
        return View(None, is_active=False, waiting=0, stage=_WELCOME, strip=strip)
    images = studio.gallery.of_job(job.id)
    if job.is_finished:
        return View(job.id, is_active=False, waiting=0, stage=_ended(job, images), strip=strip)
    preview = studio.preview(job.id)
    waiting = studio.queue_length(kind=kind) - (job.state is JobState.QUEUED)
    stage = _working(job, images, preview=preview, status=_status(studio, job, waiting=waiting))
    return View(job.id, is_active=True, waiting=max(0, waiting), stage=stage, strip=strip)


def _status(studio: Studio, job: Job, *, waiting: int) -> str:
    parts = []
    if job.cancel_requested:
        parts.append("Cancelling")
    elif job.state is JobState.QUEUED:
        parts.append(_waits_for(studio))
    elif job.num_steps == 0:
        parts.append("Loading the model")
    else:
        if job.num_images > 1:
            parts.append(job.work.replace("/", " of "))
        parts.append(f"step {job.step} of {job.num_steps}")
        if job.eta is not None:
            parts.append(f"{duration(job.eta)} left")
    if waiting:
        parts.append(f"{waiting} more in the queue")
    parts += _cancelled(studio)
    text = " · ".join(parts)
    return text[:1].upper() + text[1:]


def _cancelled(studio: Studio) -> list[str]:
    """Tell of what was cancelled just now: the next job has taken the stage from it."""
    return [
        f"cancelled: {job.title:.40}" if job.title else "another one cancelled"
        for job in studio.jobs(states={JobState.CANCELLED}, kind=JobKind.GENERATE, limit=1)
        if job.finished_at is not None and time.time() - job.finished_at < CANCELLED_SECONDS
    ]


def _waits_for(studio: Studio) -> str:
    if not studio.live_workers():
        return "Waiting for the worker to start"
    training = studio.current_job(kind=JobKind.TRAIN)
    if training is None or training.state is not JobState.RUNNING:
        return "In the queue"
    left = "" if training.eta is None else f", {duration(training.eta)} left"
    return f"In the queue behind a training: {training.status}{left}"


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    whole = max(1, round(seconds))
    return f"{whole} s" if whole < 100 else f"{whole // 60} min {whole % 60:02d} s"


def _working(job: Job, images: Sequence[GalleryImage], *, preview: bytes | None, status: str) -> str:
    percent = round(100 * job.progress)
    seen = (
        f'<img class="preview" alt="Preview" decoding="sync" '
        f'src="data:image/jpeg;base64,{base64.b64encode(preview).decode()}">'
        if preview
        else '<p class="welcome waiting" aria-hidden="true"><span></span><span></span><span></span></p>'
    )
    return (
        f'<div class="stage" data-state="{job.state}" data-job="{job.id}"><div class="frame">{seen}</div>'
        f'<div class="bar" role="progressbar" aria-label="Progress" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent}"><span style="width: {percent}%"></span></div>'
        f'<p class="status" role="status">{escape(status)}</p>{_prompt(job)}{_so_far(images)}</div>'
    )


def _so_far(images: Sequence[GalleryImage]) -> str:
    return markup.grid(images, label="Finished so far") if images else ""


def _ended(job: Job, images: Sequence[GalleryImage]) -> str:
    shown = "".join(map(markup.picture, images))
    columns = math.ceil(math.sqrt(len(images)))
    many = f' many" style="--columns: {columns}' if len(images) > 1 else ""
    match job.state:
        case JobState.FAILED:
            words = f'<p class="complaint" role="alert">{escape(job.error or "The job failed.")}</p>'
        case JobState.CANCELLED:
            kept = f" after {len(images)} of {job.num_images} pictures" if images else ""
            words = f'<p class="status" role="status">Cancelled{kept}</p>'
        case _ if not images:
            words = '<p class="status" role="status">Done; the pictures have been deleted since</p>'
        case _:
            words = f'<p class="status" role="status">{_summary(job, images)}</p>'
    frame = f'<div class="frame{many}">{shown}</div>' if images else f'<div class="frame empty">{words}</div>'
    after = f"{words}{_prompt(job)}" if images else _prompt(job)
    return f'<div class="stage" data-state="{job.state}" data-job="{job.id}">{frame}{after}</div>'


def _summary(job: Job, images: Sequence[GalleryImage]) -> str:
    parts = [
        markup.caption(images[0]) if len(images) == 1 else f"{len(images)} pictures, seed {images[0].request.seed} on"
    ]
    if job.started_at is not None and job.finished_at is not None:
        parts.append(f"{job.finished_at - job.started_at:.1f} s")
    if len(images) == 1:
        parts.append(markup.download_link(images[0]))
    return " · ".join(parts)


def _prompt(job: Job) -> str:
    return f'<p class="prompt">{escape(job.title)}</p>' if job.title else ""
