"""Routes of trainings: check, submit, go on. A training is a job: `/jobs` watches and cancels it, `/loras` shows it."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from pipelines.spec.values import MAX_PROMPT_CHARACTERS, InputId
from studio.api.bodies import AskedTraining
from studio.api.views import JobView, StudioDep
from studio.datasets import MAX_FILES

router = APIRouter(tags=["trainings"])

Caption = Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS)]


class DataSet(BaseModel):
    """Pictures to train on."""

    captions: dict[InputId, Caption] = Field(
        min_length=1, max_length=MAX_FILES, description="Id of a stored input -> what it shows; may be empty."
    )


class StoredDataSet(BaseModel):
    """A data set that trainings can name."""

    data: str = Field(description="For `data` of a training.")


class PlanView(BaseModel):
    """What a training will be."""

    num_pictures: int
    num_steps: int
    num_parameters: int | None = Field(description="Numbers that are trained; null, as what follows, if not predicted.")
    predicted_bytes: int | None = Field(description="Of the device's memory, at the hungriest moment.")
    free_bytes: int | None = Field(description="Of the device's memory, at the moment.")
    seconds: tuple[float, float] | None = Field(description="How long it takes, at least and at most.")
    sentence: str = Field(description="The same in words, with the sizes that pictures are trained in.")
    findings: list[str] = Field(description="What is wrong with which picture, or worth a look.")


@router.post("/datasets", status_code=201)
def store_data_set(data_set: DataSet, studio: StudioDep) -> StoredDataSet:
    """Make a data set of pictures that were stored by `/inputs`. The same pictures and captions give the same set."""
    return StoredDataSet(data=studio.store_inputs(data_set.captions))


@router.post("/trainings/check")
def check_training(request: AskedTraining, studio: StudioDep) -> PlanView:
    """Read the pictures and say what a training of them would be and take, without starting it. Takes some seconds."""
    studio.check_folder(request.data)
    plan = studio.foresee_training(request)
    demand = plan.demand
    return PlanView(
        num_pictures=plan.num_pictures,
        num_steps=plan.num_steps,
        num_parameters=None if demand is None else demand.num_parameters,
        predicted_bytes=None if demand is None else demand.predicted_bytes,
        free_bytes=None if demand is None else demand.free_bytes,
        seconds=plan.seconds_range(),
        sentence=plan.sentence(),
        findings=[str(finding) for finding in plan.findings],
    )


@router.post("/trainings", status_code=202)
def submit_training(request: AskedTraining, studio: StudioDep) -> JobView:
    """Put a training in the queue and return its job at once. Cancelling it keeps what is learnt."""
    studio.check_folder(request.data)
    return JobView.of(studio.submit_training(request))
