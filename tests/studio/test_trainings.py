"""Trainings as jobs: what is refused before anything is stored, what a worker does with them, what is kept."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
from PIL import Image
from safetensors.numpy import save_file

from pipelines.spec.engine import Engine
from pipelines.spec.errors import Cancelled, GenerationFailed, InvalidRequest, NotANumber
from pipelines.spec.model import Model
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resuming import CHECKPOINT_NAME, IDENTITY, lasting
from pipelines.spec.safetensors_header import read_header
from pipelines.spec.trainer import LOSSES_NAME, Demand, TrainedLora, TrainingPlan, TrainingStep
from pipelines.spec.training import TrainingRequest
from studio import Studio
from studio.database import job_table
from studio.jobs import GenerationJob, Job, JobKind, JobState, TrainingJob
from studio.storage import Storage
from studio.worker import Machines, run_job


class PatientTrainer:
    """Keeps the promises of `Trainer` without torch: counts steps, keeps a checkpoint, writes a file."""

    def __init__(self, on_step: Callable[[int], object] = lambda _: None, *, note: str = "") -> None:
        self._on_step, self._note = on_step, note
        self.began: list[tuple[bool, int]] = []

    def plan(self, request: TrainingRequest, model: Model) -> TrainingPlan:
        return TrainingPlan(2, request.steps or 0, 2, [(128, 128, 2)], [], Demand(1, 1, 1))

    def train(
        self,
        request: TrainingRequest,
        model: Model,
        *,
        folder: Path,
        output: Path,
        resume: bool,
        on_step: Callable[[TrainingStep], bool],
    ) -> TrainedLora:
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint, picture = folder / CHECKPOINT_NAME, folder / "step-000001.png"
        done = int(read_header(checkpoint).metadata["step"]) if resume else 0
        self.began.append((resume, done))
        Image.new("RGB", (64, 32), "red").save(picture)
        num_steps = request.steps or 0
        while on_step(TrainingStep(done, num_steps, 0.5 / (done + 1), 1.5, picture, self._note)) and done < num_steps:
            done += 1
            save_file({}, checkpoint, metadata={IDENTITY: json.dumps(lasting(request)), "step": str(done)})
            (folder / LOSSES_NAME).write_text(f"step,loss,learning_rate,seconds\n{done},0.5,1e-4,1.5\n")
            self._on_step(done)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(f"{done} steps")
        return TrainedLora(output, done, num_steps, 0.25, folder, self._note)


class Dies(BaseException):
    """Stands for a power cut."""


def die(_: object) -> None:
    raise Dies


def no_engine() -> Engine:
    raise AssertionError("no picture is made here")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for colour in ("red", "green"):
        Image.new("RGB", (128, 128), colour).save(folder / f"{colour}.png")
        (folder / f"{colour}.txt").write_text(f"a {colour} house")
    return folder


@pytest.fixture
def storage(studio: Studio) -> Iterator[Storage]:
    storage = Storage.open(studio.settings)
    yield storage
    storage.database.close()


def submit(studio: Studio, data: Path, **fields: object) -> TrainingJob:
    return studio.submit_training(studio.training_request(data, **{"name": "my-style", "steps": 5, **fields}))


def run(storage: Storage, trainer: PatientTrainer, *, drain: threading.Event | None = None) -> Job:
    job = storage.jobs.claim("cpu")
    assert job is not None
    run_job(job, storage=storage, machines=Machines(no_engine, lambda: trainer), drain=drain or threading.Event())
    return storage.jobs.get(job.id)


def lora(studio: Studio) -> Path:
    return studio.settings.home / "loras" / "my-style.safetensors"


def test_a_training_waits_in_the_queue_under_names_that_any_process_understands(
    studio: Studio, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.parent)

    job = submit(studio, Path(data.name), rank=4)

    assert (job.kind, job.state, job.title) == (JobKind.TRAIN, JobState.QUEUED, "LoRA my-style")
    assert job.request == TrainingRequest(data=str(data), name="my-style", model="toy", steps=5, rank=4)
    assert studio.job(job.id) == job


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"data": "/nowhere"}, "data must be a folder of pictures"),
        ({"model": "gone"}, "gone"),
        ({"clip_skip": 12, "model": "tiny"}, "clip_skip must be at most 2"),
        ({"resolution": 64, "name": "../x"}, "name must begin"),
        ({"existing": "resume"}, "there is no checkpoint"),
        ({"validation_prompts": ("a <lora:x:1>",)}, "take the tag out"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_stored(
    studio: Studio, data: Path, fields: dict[str, object], sentence: str
) -> None:
    toy, tiny = (studio.settings.models_dir / name for name in ("toy", "tiny"))
    for path in toy.rglob("*.json"):
        copy = tiny / path.relative_to(toy)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text().replace('"num_hidden_layers": 12', '"num_hidden_layers": 2'))

    with pytest.raises(InvalidRequest, match=sentence):
        studio.submit_training(studio.training_request({"data": str(data), "name": "my-style", **fields}))

    assert studio.jobs() == []


def test_two_trainings_of_one_name_are_one_too_many(studio: Studio, data: Path) -> None:
    first = submit(studio, data)

    with pytest.raises(InvalidRequest, match=f"name: job {first.id} is queued and trains 'my-style'"):
        submit(studio, data)

    studio.cancel(first.id)
    assert submit(studio, data).state is JobState.QUEUED


def test_a_training_that_a_dead_process_left_is_resumed_under_its_name(
    studio: Studio, storage: Storage, data: Path
) -> None:
    left = submit(studio, data)
    with suppress(Dies):
        run(storage, PatientTrainer(die))

    with pytest.raises(InvalidRequest, match=f"job {left.id} is queued"):
        submit(studio, data)
    resumed, trainer = submit(studio, data, existing="resume"), PatientTrainer()

    assert studio.job(left.id).state is JobState.CANCELLED
    assert run(storage, trainer).id == resumed.id
    assert trainer.began == [(True, 1)]


def test_a_training_that_waits_for_its_first_turn_is_not_pushed_aside(
    studio: Studio, storage: Storage, data: Path
) -> None:
    submit(studio, data)
    run(storage, PatientTrainer())
    waiting = submit(studio, data, existing="resume")

    with pytest.raises(InvalidRequest, match=f"job {waiting.id} is queued"):
        submit(studio, data, existing="resume")


def test_a_worker_trains_and_tells(studio: Studio, storage: Storage, data: Path) -> None:
    submit(studio, data)
    seen: list[TrainingJob] = []

    def look(step: int) -> None:
        threading.Event().wait(0.3)  # so long, at most, until a note is written
        seen.extend(job for job in studio.jobs(states={JobState.RUNNING}) if isinstance(job, TrainingJob))

    job = run(storage, PatientTrainer(look))

    assert (job.state, job.step, job.num_steps, job.progress) == (JobState.DONE, 5, 5, 1.0)
    assert studio.trained(job) == TrainedLora(
        lora(studio), 5, 5, 0.25, studio.settings.outputs_dir / "training/my-style"
    )
    told = seen[-1]
    assert told.status == f"training my-style, step {told.step}/5, loss {0.5 / (told.step + 1):.4f}"
    assert (told.eta, told.progress) == (1.5, told.step / 5)


def test_what_could_not_be_painted_is_told_of_a_training_that_is_done(
    studio: Studio, storage: Storage, data: Path
) -> None:
    submit(studio, data)
    seen: list[str] = []

    def look(_: int) -> None:
        threading.Event().wait(0.3)
        seen.extend(job.status for job in studio.jobs(states={JobState.RUNNING}))

    job = run(storage, PatientTrainer(look, note="strengths.png could not be painted: out of memory"))

    assert seen[-1].endswith(", strengths.png could not be painted: out of memory")
    assert (job.state, job.error) == (JobState.DONE, None)
    assert job.status == "done, strengths.png could not be painted: out of memory"
    assert studio.trained(job).note == "strengths.png could not be painted: out of memory"


def test_the_preview_of_a_training_is_its_latest_picture(studio: Studio, storage: Storage, data: Path) -> None:
    job, previews = submit(studio, data), []

    def look(_: int) -> None:
        threading.Event().wait(0.3)
        previews.append(studio.preview(job.id))

    run(storage, PatientTrainer(look))

    assert (previews[-1] or b"")[:3] == b"\xff\xd8\xff"


def test_a_plan_says_how_long_if_the_model_was_trained_here_before(
    studio: Studio, storage: Storage, data: Path
) -> None:
    def planned(**fields: object) -> str:
        return studio.plan_training(studio.training_request(data, name="other", **fields)).sentence()

    assert planned(steps=40).endswith(
        "40 steps; memory is predicted when it starts; time is known after the first steps"
    )
    submit(studio, data)
    run(storage, PatientTrainer())

    assert planned(steps=40).endswith("; about 60 s")
    assert planned(steps=40, batch_size=2, gradient_accumulation_steps=2).endswith("; about 4 min")
    assert planned(steps=40, resolution=64).endswith("; about 15 s")


def test_cancelling_stops_within_a_step_and_keeps(studio: Studio, storage: Storage, data: Path) -> None:
    job = submit(studio, data, steps=1000)

    def cancel(step: int) -> None:
        if step == 3:
            studio.cancel(job.id)
        if step >= 3:
            threading.Event().wait(0.3)  # until the flag is read

    ended = run(storage, PatientTrainer(cancel))

    assert ended.state is JobState.CANCELLED
    assert 3 <= ended.step <= 5
    assert lora(studio).read_text() == f"{ended.step} steps"
    with pytest.raises(Cancelled, match=f"{ended.step} of 1000 steps are learnt and kept"):
        studio.trained(ended)


def test_cancelling_before_the_first_step_writes_nothing(studio: Studio, storage: Storage, data: Path) -> None:
    class Slow(PatientTrainer):
        def plan(self, request: TrainingRequest, model: Model) -> TrainingPlan:
            studio.cancel(job.id)
            return super().plan(request, model)

        def train(self, request: TrainingRequest, model: Model, **options: object) -> TrainedLora:
            threading.Event().wait(0.5)
            return super().train(request, model, **options)  # type: ignore[arg-type]

    job = submit(studio, data)

    assert run(storage, Slow()).state is JobState.CANCELLED
    assert not lora(studio).exists()


def test_a_stopping_worker_gives_the_training_back_and_the_next_goes_on(
    studio: Studio, storage: Storage, data: Path
) -> None:
    submit(studio, data)
    drain = threading.Event()
    first, second = PatientTrainer(lambda step: step == 2 and drain.set()), PatientTrainer()

    assert run(storage, first, drain=drain).state is JobState.QUEUED
    assert run(storage, second).state is JobState.DONE

    assert second.began == [(True, 2)]
    assert lora(studio).read_text() == "5 steps"


def test_a_training_that_breaks_says_why_and_can_go_on(studio: Studio, storage: Storage, data: Path) -> None:
    def break_at(step: int) -> None:
        if step == 2:
            raise NotANumber("the loss of step 2 is nan")

    job = submit(studio, data)
    broken = run(storage, PatientTrainer(break_at))
    with pytest.raises(GenerationFailed, match="the loss of step 2 is nan"):
        studio.trained(broken)

    again = PatientTrainer()
    assert studio.resume(job.id).state is JobState.QUEUED
    assert run(storage, again).state is JobState.DONE
    assert again.began == [(True, 2)]


def test_a_training_that_was_cut_off_goes_on_from_its_own_checkpoint_only(
    studio: Studio, storage: Storage, data: Path
) -> None:
    stale = submit(studio, data, steps=2)
    assert run(storage, PatientTrainer()).state is JobState.DONE
    anew = submit(studio, data, existing="overwrite")
    for trainer, begins_at in ((PatientTrainer(die), 0), (PatientTrainer(), 1)):
        with suppress(Dies):
            run(storage, trainer)
        storage.jobs.requeue_all("cpu")
        assert trainer.began == [(begins_at > 0, begins_at)]

    assert (studio.job(stale.id).step, studio.job(anew.id).step) == (2, 5)


def test_a_lora_that_appears_while_the_job_waits_is_not_overwritten(
    studio: Studio, storage: Storage, data: Path
) -> None:
    submit(studio, data)
    lora(studio).parent.mkdir(exist_ok=True)
    lora(studio).write_text("somebody's")

    job = run(storage, PatientTrainer())

    assert job.state is JobState.FAILED
    assert "exists; choose another name" in (job.error or "")
    studio.resume(job.id)
    assert run(storage, PatientTrainer()).state is JobState.FAILED
    assert lora(studio).read_text() == "somebody's"


def test_going_on_refuses_a_name_that_another_job_trains_or_has_trained(
    studio: Studio, storage: Storage, data: Path
) -> None:
    first = submit(studio, data)
    run(storage, PatientTrainer(lambda _: studio.cancel(first.id) and threading.Event().wait(0.4)))
    anew = submit(studio, data, existing="overwrite")
    with pytest.raises(InvalidRequest, match=f"job {anew.id} is queued"):
        studio.resume(first.id)
    run(storage, PatientTrainer())

    studio.resume(first.id)
    job = run(storage, PatientTrainer())

    assert (job.id, job.state) == (first.id, JobState.FAILED)
    assert "exists; choose another name" in (job.error or "")
    assert lora(studio).read_text() == "5 steps"


def test_a_worker_that_dies_before_it_begins_leaves_the_next_to_overwrite(
    studio: Studio, storage: Storage, data: Path
) -> None:
    class Sudden(PatientTrainer):
        def plan(self, request: TrainingRequest, model: Model) -> TrainingPlan:
            raise Dies

    submit(studio, data, steps=2)
    run(storage, PatientTrainer())
    submit(studio, data, existing="overwrite", rank=4)
    with suppress(Dies):
        run(storage, Sudden())
    storage.jobs.requeue_all("cpu")

    trainer = PatientTrainer()
    assert run(storage, trainer).state is JobState.DONE
    assert trainer.began == [(False, 0)]


def test_a_training_whose_workers_die_fails_and_says_how_to_go_on(studio: Studio, storage: Storage, data: Path) -> None:
    job = submit(studio, data)
    for _ in range(2):
        assert storage.jobs.claim("cpu") is not None
        storage.jobs.bury("cpu", max_worker_deaths=2)

    failed = studio.job(job.id)

    assert failed.state is JobState.FAILED
    assert "died 2 times" in (failed.error or "")
    assert "existing: resume goes on" in (failed.error or "")


def test_both_kinds_are_taken_in_the_order_they_came(studio: Studio, storage: Storage, data: Path) -> None:
    studio.submit(GenerationRequest(prompt="a boat"))
    submit(studio, data)
    studio.submit(GenerationRequest(prompt="a tree"))

    taken = [storage.jobs.claim("cpu") for _ in range(3)]

    assert [type(job) for job in taken] == [GenerationJob, TrainingJob, GenerationJob]
    assert [job.title for job in studio.jobs(kind=JobKind.GENERATE)] == ["a tree", "a boat"]
    assert isinstance(studio.current_job(kind=JobKind.TRAIN), TrainingJob)


def test_a_training_that_cannot_be_read_fails_and_the_next_job_runs(
    studio: Studio, storage: Storage, data: Path
) -> None:
    damaged, whole = submit(studio, data), studio.submit(GenerationRequest(prompt="a boat"))
    with storage.database.write() as connection:
        broken = sa.update(job_table).where(job_table.c.id == damaged.id)
        connection.execute(broken.values(request=json.loads('{"rank": 0}')))

    claimed = storage.jobs.claim("cpu")

    assert claimed is not None
    assert claimed.id == whole.id
    assert studio.job(damaged.id).state is JobState.FAILED
    assert "is damaged" in (studio.job(damaged.id).error or "")


def test_the_engine_lets_go_of_its_memory_while_something_is_trained() -> None:
    made: list[object] = []
    machines = Machines(lambda: made.append(object()) or made[-1], PatientTrainer)  # type: ignore[func-returns-value, return-value]

    first = machines.engine()
    assert machines.engine() is first
    machines.trainer()

    assert machines.engine() is not first


def test_a_job_of_pictures_has_trained_nothing(studio: Studio) -> None:
    job = studio.submit(GenerationRequest(prompt="a boat"))

    with pytest.raises(InvalidRequest, match="trains nothing"):
        studio.outcome(job)
