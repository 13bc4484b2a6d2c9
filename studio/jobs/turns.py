"""Whose turn it is: jobs in the order of their coming, but for a few that save a change of model or LoRAs."""

import json
from typing import Any

import sqlalchemy as sa

from pipelines.spec.prompt import parse
from studio.database import job_table
from studio.jobs.job import UNFINISHED, JobState
from studio.jobs.rows import REQUEST

SIDE_BY_SIDE = 8
"""Among so many jobs submitted one after the other the order may change, so that models and LoRAs change less often."""


# Asked by idle workers again and again, and therefore built once.
_JOBS = sa.select(
    job_table.c.sequence,
    job_table.c.id,
    job_table.c.started_at,
    REQUEST,
).limit(SIDE_BY_SIDE)
_QUEUED = _JOBS.where(job_table.c.state == JobState.QUEUED).order_by(job_table.c.sequence)
_LATELY = _JOBS.where(job_table.c.device == sa.bindparam("on_device"), job_table.c.state.not_in(UNFINISHED)).order_by(
    job_table.c.sequence.desc()
)
_other = job_table.alias()
_OLDEST = sa.select(sa.func.min(_other.c.sequence)).where(
    (_other.c.state == JobState.QUEUED) | (_other.c.id == sa.bindparam("claimed"))
)
IS_NEAR = (job_table.c.state == JobState.QUEUED) & (job_table.c.sequence < _OLDEST.scalar_subquery() + SIDE_BY_SIDE)
"""Matches the queued jobs that may go together with the `claimed` one: they overtake none more than is allowed."""


def next_job(connection: sa.Connection, device: str) -> str | None:
    """Return the id of the queued job that a device runs next; None if there is none."""
    waiting = connection.execute(_QUEUED).all()
    if not waiting:
        return None
    oldest = waiting[0]
    near = [row for row in waiting if row.sequence < oldest.sequence + SIDE_BY_SIDE]
    if len(near) == 1:
        return str(oldest.id)
    lately = connection.execute(_LATELY, {"on_device": device}).all()
    if not lately:
        return str(oldest.id)
    model, loras = _wanted(max(lately, key=lambda row: row.started_at or 0.0).request)

    def changes(row: sa.Row[Any]) -> tuple[bool, bool]:
        wanted = _wanted(row.request)
        return wanted[0] != model, wanted[1] != loras

    return str(min(near, key=changes).id)  # the oldest of equal ones


def _wanted(request: str) -> tuple[object, object]:
    """Return the model and the LoRAs, by field and by tag, that a stored request names."""
    try:
        values = json.loads(request)
    except ValueError:
        return None, None
    if not isinstance(values, dict):
        return None, None
    tags = parse(str(values.get("prompt", "")), comments=values.get("prompt_comments") is not False).extra_networks
    return values.get("model"), (values.get("loras"), tags)
