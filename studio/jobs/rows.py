"""What a row of the table says about its job, and which columns tell it."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from pipelines.spec.errors import InvalidRequest
from pipelines.spec.request import GenerationRequest
from pipelines.spec.training import TrainingRequest
from studio.database import image_table, job_table
from studio.jobs.job import GenerationJob, Job, JobKind, JobState, TrainingJob

REQUEST = sa.cast(job_table.c.request, sa.Text).label("request")
"""Read by us and not by the driver, so that one damaged row hurts no other."""
OWN_COLUMNS = [
    *(column for column in job_table.columns if column.name in {"kind", *Job.__dataclass_fields__} - {"request"}),
    REQUEST,
]
COLUMNS = [
    *OWN_COLUMNS,
    sa.select(sa.func.count())
    .select_from(image_table)
    .where(image_table.c.job_id == job_table.c.id)
    .correlate(job_table)
    .scalar_subquery()
    .label("images_made"),
]


def job_of(row: sa.Row[Any]) -> Job:
    """Read a row. If it cannot be read, the job says so as its error: the others must go on."""
    values = dict(row._mapping)
    made: type[Job]
    asked: GenerationRequest | TrainingRequest
    made, parse, asked = _KINDS.get(values.pop("kind"), _KINDS[JobKind.GENERATE])
    try:
        state, asked = JobState(values["state"]), parse(json.loads(values["request"]))
    except (ValueError, TypeError, InvalidRequest) as error:
        state = JobState(values["state"]) if values["state"] in set(JobState) else JobState.FAILED
        reason = " ".join(str(error).split())[:300]
        values["error"] = f"job {values['id']} in the database is damaged: {reason}"
    return made(**{**values, "state": state, "request": asked})


_KINDS: Mapping[str, tuple[type[Job], Callable[..., Any], GenerationRequest | TrainingRequest]] = {
    JobKind.GENERATE: (GenerationJob, GenerationRequest.parse, GenerationRequest()),
    JobKind.TRAIN: (TrainingJob, TrainingRequest.parse, TrainingRequest(data="unknown", name="unknown")),
}
"""Kind -> its class, what reads its request, and what stands for one that cannot be read."""
