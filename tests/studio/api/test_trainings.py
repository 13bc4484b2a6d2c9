"""Routes of trainings over a real studio: pictures are stored, a data set is made of them, a job is queued."""

import io
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from studio import JobState, Settings, Studio
from studio.api import create_app
from studio.jobs import TrainingJob
from tests.studio.api.conftest import ADDRESS

COLOURS = ("red", "green")


def store(client: TestClient, colour: str) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (128, 128), colour).save(buffer, "WEBP")
    return str(client.post("/api/v1/inputs", content=buffer.getvalue()).json()["id"])


@pytest.fixture
def data(client: TestClient) -> str:
    captions = {store(client, colour): f"a {colour} house" for colour in COLOURS}
    answer = client.post("/api/v1/datasets", json={"captions": captions})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["data"])


def test_stored_pictures_and_captions_are_what_is_trained_on(client: TestClient, data: str) -> None:
    plan = client.post("/api/v1/trainings/check", json={"data": data, "name": "houses", "steps": 3}).json()

    assert (plan["num_pictures"], plan["num_steps"]) == (2, 3)
    assert (plan["predicted_bytes"], plan["seconds"]) == (None, None), "with the fake engine no device is looked at"
    assert {path.read_text() for path in Path(data).glob("*.txt")} == {"a red house", "a green house"}
    assert {path.suffix for path in Path(data).iterdir()} == {".webp", ".txt"}
    assert client.get("/healthz").json()["queue_length"] == 0, "a check starts nothing"


def test_a_submitted_training_waits_in_the_queue_and_can_be_cancelled_and_resumed(
    client: TestClient, data: str, studio: Studio
) -> None:
    answer = client.post("/api/v1/trainings", json={"data": data, "name": "houses", "steps": 3})
    job_id = answer.json()["id"]

    assert (answer.status_code, answer.json()["kind"], answer.json()["state"]) == (202, "train", "queued")
    job = studio.job(job_id)
    assert isinstance(job, TrainingJob)
    assert (job.request.name, job.request.steps) == ("houses", 3)
    assert client.post(f"/api/v1/jobs/{job_id}/cancel").json()["state"] == JobState.CANCELLED
    assert client.post(f"/api/v1/jobs/{job_id}/resume").json()["state"] == JobState.QUEUED


@pytest.mark.parametrize("route", ["/api/v1/trainings", "/api/v1/trainings/check"])
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "../x"}, "name"),
        ({"rank": 0}, "rank"),
        ({"steps": "3"}, "steps"),
        ({"network_dim": 8}, None),
        ({"data": "/nowhere"}, "data"),
        ({"model": "nothing"}, "model"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_its_field(
    route: str, change: dict[str, object], field: str | None, client: TestClient, data: str
) -> None:
    answer = client.post(route, json={"data": data, "name": "houses", **change})

    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert client.get("/api/v1/jobs").json() == []


def test_a_data_set_of_unknown_pictures_is_refused(client: TestClient) -> None:
    assert client.post("/api/v1/datasets", json={"captions": {"0" * 64: "a house"}}).status_code == 404
    assert client.post("/api/v1/datasets", json={"captions": {"../x": "a house"}}).status_code == 422
    assert client.post("/api/v1/datasets", json={"captions": {}}).status_code == 422


def test_others_train_on_what_was_uploaded_and_on_no_folder_of_this_machine(settings: Settings, tmp_path: Path) -> None:
    Image.new("RGB", (128, 128), "red").save(tmp_path / "red.png")
    with Studio(settings.model_copy(update={"host": "0.0.0.0"})) as studio:
        client = TestClient(create_app(studio, ui=False), base_url=ADDRESS)
        uploaded = client.post("/api/v1/datasets", json={"captions": {store(client, "red"): ""}}).json()["data"]

        own, foreign, beyond = (
            client.post("/api/v1/trainings/check", json={"data": data, "name": "houses"})
            for data in (uploaded, str(tmp_path), f"{uploaded}/../..")
        )

    assert (foreign.status_code, foreign.json()["field"]) == (422, "data")
    assert "open to other machines" in foreign.json()["detail"]
    assert "open to other machines" in beyond.json()["detail"]
    assert "open to other machines" not in own.text
