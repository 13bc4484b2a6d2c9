"""The tab that trains: its form, what it refuses, and what it shows of a job. Widgets are real; no browser."""

import asyncio
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from pipelines.spec.errors import InvalidRequest
from pipelines.spec.training import TrainingRequest
from studio import Settings, Studio
from studio.jobs import JobState, JobStore, TrainingJob
from studio.storage import Storage
from studio.ui.progress import observe
from studio.ui.tabs import train
from studio.ui.tabs.train import TrainingForm, TrainingObserver


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """Files as Gradio keeps uploads, each in a folder of its own."""
    files = []
    for name in ("red house", "green"):
        folder = tmp_path / "cache" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (128, 128), name.split()[0]).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a {name}")
        files += [str(folder / f"{name}.png"), str(folder / f"{name}.txt")]
    return files


@pytest.fixture
def jobs(studio: Studio) -> JobStore:
    return Storage.open(studio.settings).jobs


def make_form(studio: Studio) -> TrainingForm:
    async def make() -> TrainingForm:  # inside a running loop, as the server does
        with gr.Blocks(analytics_enabled=False):
            return TrainingForm(studio)

    return asyncio.run(make())


def make_observer(studio: Studio) -> TrainingObserver:
    async def make() -> TrainingObserver:
        with gr.Blocks(analytics_enabled=False) as demo:
            return train.build(studio, demo)

    return asyncio.run(make())


def values(form: TrainingForm, *, uploads: list[str] | None = None, folder: str = "", **fields: Any) -> list[Any]:
    return [
        uploads,
        folder,
        *({name: fields.get(name, widget.value) for name, widget in form.widgets.items()}.values()),
    ]


def test_every_field_has_a_widget_that_says_what_it_means(studio: Studio) -> None:
    form = make_form(studio)

    assert {"data", *form.widgets} == set(TrainingRequest.model_fields)
    assert all(TrainingRequest.model_fields[name].description in widget.info for name, widget in form.widgets.items())
    assert {name for row in train.MAIN_ROWS for name in row} <= set(form.widgets)


@pytest.mark.parametrize(
    ("field", "meaning"),
    [
        ("rank", "16"),
        ("steps", "1000, unless epochs are given"),
        ("resolution", "the model's own"),
        ("alpha", "as rank"),
        ("validation_prompts", "captions, with the trigger word"),
        ("trigger_word", ""),
    ],
)
def test_an_empty_widget_says_what_that_means(studio: Studio, field: str, meaning: str) -> None:
    widget = make_form(studio).widgets[field]
    assert isinstance(widget, gr.Textbox)
    assert widget.placeholder == meaning


def test_what_a_page_kept_comes_back_and_the_rest_stays(studio: Studio) -> None:
    form = make_form(studio)
    kept = {"name": "my-style", "rank": "4", "flip": True, "data": "/pictures", "kind": "dora", "model": "gone", "x": 1}

    updates = form.restore({**kept, "steps": ["not", "text"]})

    shown = {name: updates[widget]["value"] for name, widget in form.kept.items() if "value" in updates[widget]}
    assert shown == {name: kept[name] for name in ("data", "name", "kind", "rank", "flip")}
    assert not any("value" in update for update in form.restore(None).values())


def test_an_untouched_form_asks_for_the_defaults(studio: Studio, pictures: list[str]) -> None:
    form = make_form(studio)

    asked = form.read(values(form, uploads=pictures, name="my-style"))

    assert asked == TrainingRequest(data=asked.data, name="my-style", model="toy", validation_every=250)


def test_what_is_typed_becomes_a_request(studio: Studio, pictures: list[str]) -> None:
    form = make_form(studio)
    typed = {"rank": "8", "learning_rate": "1e-3", "flip": True, "validation_prompts": "a boat\n\na tree"}

    asked = form.read(values(form, uploads=pictures, name="my-style", **typed))

    assert (asked.rank, asked.learning_rate, asked.flip) == (8, 1e-3, True)
    assert asked.validation_prompts == ("a boat", "a tree")


def test_uploads_become_a_folder_and_the_same_files_the_same_one(studio: Studio, pictures: list[str]) -> None:
    first, second = studio.store_pictures([*map(Path, pictures)]), studio.store_pictures([*map(Path, pictures[::-1])])

    assert first == second
    assert sorted(path.name for path in Path(first).iterdir()) == [
        *("green.png", "green.txt", "red_house.png", "red_house.txt")
    ]
    assert (Path(first) / "red_house.txt").read_text() == "a red house"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("page.html", b"<script>", "'page.html' is none of .png .jpg .jpeg .webp .avif .txt"),
        ("metadata.jsonl", b"{}", "is none of"),
        ("broken.png", b"\x89PNG", r"data is not a PNG, JPEG, WebP or AVIF image \(broken.png\)"),
        ("a.txt", b"\xff", "a.txt is not UTF-8"),
        ("a.txt", b"a" * 70_000, "a.txt has more than 64 KiB"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(
    studio: Studio, tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(InvalidRequest, match=sentence):
        studio.store_pictures([tmp_path / name])


def test_two_files_of_one_name_are_refused(studio: Studio, pictures: list[str]) -> None:
    with pytest.raises(InvalidRequest, match=f"same name, {Path(pictures[0]).name}; rename one"):
        studio.store_pictures([Path(pictures[0]), Path(pictures[0])])


def test_two_files_that_would_be_called_alike_are_both_named(studio: Studio, tmp_path: Path) -> None:
    for name in ("a b.txt", "a_b.txt"):
        (tmp_path / name).write_text("a boat")

    with pytest.raises(InvalidRequest, match=r"same name, a b\.txt and a_b\.txt; rename one"):
        studio.store_pictures([tmp_path / "a b.txt", tmp_path / "a_b.txt"])


def test_a_folder_of_this_machine_is_for_who_sits_at_it(settings: Settings, pictures: list[str]) -> None:
    folder = str(Path(pictures[0]).parent)
    with Studio(settings) as private:
        form = make_form(private)
        assert form.folder.visible
        assert form.read(values(form, folder=folder, name="my-style")).data == folder
        with pytest.raises(InvalidRequest, match="give only one"):
            form.read(values(form, folder=folder, uploads=pictures, name="my-style"))

    with Studio(settings.model_copy(update={"host": "0.0.0.0"})) as shared:
        form = make_form(shared)
        assert not form.folder.visible
        with pytest.raises(InvalidRequest, match="open to other machines; upload the pictures"):
            form.read(values(form, folder=folder, name="my-style"))


def test_without_pictures_or_name_nothing_is_looked_at(studio: Studio) -> None:
    form = make_form(studio)

    with pytest.raises(InvalidRequest, match="there are no pictures yet"):
        form.read(values(form, name="my-style"))
    with pytest.raises(InvalidRequest, match="name"):
        form.read(values(form, uploads=["/nowhere.png"]))


def submit(studio: Studio, pictures: list[str]) -> TrainingJob:
    folder = studio.store_pictures([*map(Path, pictures)])
    return studio.submit_training(studio.training_request(folder, name="my-style", steps=100))


def test_an_empty_studio_tells_what_is_needed(studio: Studio) -> None:
    observer = make_observer(studio)

    updates = observer.look_anew()

    assert "Ten to thirty pictures" in updates[observer.stage]
    assert updates[observer.cancel]["interactive"] is False


def test_a_running_training_shows_curve_picture_and_time(studio: Studio, jobs: JobStore, pictures: list[str]) -> None:
    observer, job = make_observer(studio), submit(studio, pictures)
    assert "Waiting for the worker to start" in observer.look(None)[observer.stage]
    assert jobs.claim("cpu") is not None
    folder = studio.training(job).folder
    folder.mkdir(parents=True)
    (folder / "loss.csv").write_text("step,loss,learning_rate,seconds\n1,0.5,1e-4,1\n2,0.3,1e-4,1\n3,0.1,1e-4,1\n4,0.")
    Image.new("RGB", (64, 32)).save(folder / "step-000003.png")
    jobs.report(jobs.get(job.id), step=3, num_steps=100, loss=0.3, seconds_left=97.0, preview=None)

    updates = observer.look(None)
    stage = updates[observer.stage]

    assert "Training my-style, step 3/100, loss 0.3000, 97 s left" in stage
    assert "Loss 0.3000 after step 3" in stage
    assert "After step 3" in updates[observer.picture]
    assert 'src="data:image/png;base64,' in updates[observer.picture]
    assert set(observer.look(updates[observer.shown])) == {observer.shown}


def test_a_training_that_paints_says_so(studio: Studio, jobs: JobStore, pictures: list[str]) -> None:
    observer, _ = make_observer(studio), submit(studio, pictures)
    claimed = jobs.claim("cpu")
    assert claimed is not None

    jobs.report(claimed, step=50, num_steps=100, loss=0.3, note="painting pictures (2 of 6)", preview=None)
    painting = observer.look(None)[observer.stage]
    jobs.finish(claimed, JobState.DONE, note="strengths.png could not be painted: out of memory")

    assert "step 50/100, loss 0.3000, painting pictures (2 of 6)<" in painting
    assert "choose it under LoRAs; strengths.png could not be painted" in observer.look(None)[observer.stage]


def test_stop_keeps_and_go_on_queues_again(studio: Studio, jobs: JobStore, pictures: list[str]) -> None:
    observer, job = make_observer(studio), submit(studio, pictures)
    claimed = jobs.claim("cpu")
    assert claimed is not None
    jobs.report(claimed, step=3, num_steps=100, loss=0.3, preview=None)
    shown = observer.look(None)[observer.shown]

    observer.stop(shown)
    assert studio.job(job.id).cancel_requested
    jobs.finish(claimed, JobState.CANCELLED)
    stopped = observer.look(shown)
    assert "Stopped; 3 of 100 steps are learnt and kept" in stopped[observer.stage]
    assert stopped[observer.resume]["visible"]
    observer.go_on(stopped[observer.shown])

    assert studio.job(job.id).state is JobState.QUEUED


def test_a_failed_training_complains(studio: Studio, jobs: JobStore, pictures: list[str]) -> None:
    observer, job = make_observer(studio), submit(studio, pictures)
    claimed = jobs.claim("cpu")
    assert claimed is not None
    jobs.finish(claimed, JobState.FAILED, error="the loss is <nan>")

    stage = observer.look(None)[observer.stage]

    assert job.id in stage
    assert 'role="alert">the loss is &lt;nan&gt;' in stage


def test_the_first_tab_shows_pictures_only_and_says_that_they_wait(
    studio: Studio, jobs: JobStore, pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    training = submit(studio, pictures)
    assert "Your picture appears here" in observe(studio).stage
    picture = studio.submit(studio.request("a boat"))
    claimed = jobs.claim("cpu")
    assert claimed is not None
    assert claimed.id == training.id
    jobs.report(claimed, step=3, num_steps=100, loss=0.3, seconds_left=60.0, preview=None)
    monkeypatch.setattr(studio, "live_workers", lambda: ["cpu"])

    view = observe(studio)

    assert view.job_id == picture.id
    assert "behind a training: training my-style, step 3/100, loss 0.3000, 60 s left" in view.stage
