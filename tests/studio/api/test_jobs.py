"""Routes of the queue over a real studio; the job runs in this process, as no worker is alive."""

import json
import threading
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from pipelines.spec.request import GenerationRequest, field_names
from studio import JobState, Studio
from studio.storage import Storage


def submit(client: TestClient, **request: object) -> dict[str, object]:
    answer = client.post("/api/v1/jobs", json={"prompt": "a boat", "seed": 7, **request})
    assert answer.status_code == 202, answer.text
    view: dict[str, object] = answer.json()
    return view


def test_submitted_job_waits_in_the_queue(client: TestClient, studio: Studio) -> None:
    view = submit(client, num_images=2)

    assert (view["state"], view["progress"]) == ("queued", 0.0)
    assert studio.job(str(view["id"])).request == GenerationRequest(prompt="a boat", model="toy", seed=7, num_images=2)
    assert client.get("/healthz").json()["queue_length"] == 1


def test_finished_job_is_told_with_its_pictures(client: TestClient, studio: Studio) -> None:
    job_id = str(submit(client, num_images=2)["id"])
    studio.wait(job_id)

    view = client.get(f"/api/v1/jobs/{job_id}").json()
    pictures = client.get("/api/v1/images", params={"job_id": job_id}).json()
    assert (view["state"], view["progress"]) == ("done", 1.0)
    assert [picture["request"]["seed"] for picture in pictures["images"]] == [7, 8]


def test_same_idempotency_key_gives_the_same_job(client: TestClient) -> None:
    answers = [
        client.post("/api/v1/jobs", json={"prompt": "a boat"}, headers={"Idempotency-Key": "k1"}) for _ in range(2)
    ]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    assert len(client.get("/api/v1/jobs").json()) == 1


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"width": 0}, "width"),
        ({"width": 63}, "width"),
        ({"height": 4097}, "height"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"seed": 2**64}, "seed"),
        ({"seed": "7"}, "seed"),
        ({"strength": 0.5}, "strength"),
        ({"init_image": "../../etc/passwd"}, "init_image"),
        ({"mask_image": "0" * 64}, "mask_image"),
        ({"scheduler": "warp"}, "scheduler"),
        ({"cfg_scale": 7}, None),
    ],
)
def test_bad_request_is_refused_with_field_and_value(
    client: TestClient, request_: dict[str, object], field: str | None
) -> None:
    answer = client.post("/api/v1/jobs", json={"prompt": "a boat", **request_})

    assert answer.status_code in {404, 422}
    if answer.status_code == 422:
        assert answer.json()["field"] == field
    assert next(iter(request_)) in answer.json()["detail"] or "input" in answer.json()["detail"]
    assert client.get("/api/v1/jobs").json() == []


@pytest.mark.parametrize("body", ["{", "[1]", "null", '"text"', '{"guidance_scale": NaN}', '{"guidance_scale": 1e999}'])
def test_what_is_no_request_is_refused_in_a_sentence(client: TestClient, body: str) -> None:
    answer = client.post("/api/v1/jobs", content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == 422
    assert len(answer.json()["detail"]) > 10


def test_a_body_that_is_not_sent_as_json_is_told_how(client: TestClient) -> None:
    form = client.post("/api/v1/jobs", content=b'{"prompt": "a boat"}')
    listed = client.post("/api/v1/jobs", json=["a boat"])

    assert (form.status_code, listed.status_code) == (422, 422)
    assert "Content-Type: application/json, got another type of content" in form.json()["detail"]
    assert "got list" in listed.json()["detail"]


def test_unknown_job_is_not_found(client: TestClient) -> None:
    for answer in (
        client.get("/api/v1/jobs/nope"),
        client.post("/api/v1/jobs/nope/cancel"),
        client.get("/api/v1/jobs/nope/events"),
        client.get("/api/v1/jobs/nope/preview"),
    ):
        assert answer.status_code == 404
        assert "nope" in answer.json()["detail"]


def test_cancelled_job_stays_cancelled(client: TestClient) -> None:
    job_id = submit(client)["id"]

    assert client.post(f"/api/v1/jobs/{job_id}/cancel").json()["state"] == "cancelled"
    assert client.post(f"/api/v1/jobs/{job_id}/cancel").json()["state"] == "cancelled"
    assert client.get("/api/v1/jobs", params={"state": "cancelled"}).json()[0]["id"] == job_id


def test_events_tell_every_change_and_end(client: TestClient, studio: Studio) -> None:
    job_id = str(submit(client)["id"])
    runner = threading.Timer(0.5, studio.wait, args=(job_id,))
    runner.start()

    answer = client.get(f"/api/v1/jobs/{job_id}/events", headers={"Last-Event-ID": "12"})
    runner.join()

    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert events[0]["state"] == "queued"
    assert events[-1]["state"] == "done"


@pytest.mark.parametrize("limit", [0, -1, 501, "many"])
def test_page_size_is_bounded(client: TestClient, limit: object) -> None:
    for path in ("/api/v1/jobs", "/api/v1/images"):
        answer = client.get(path, params={"limit": str(limit)})
        assert (answer.status_code, answer.json()["field"]) == (422, "limit")


def test_openapi_describes_every_field_in_the_words_of_the_request(client: TestClient) -> None:
    document = client.get("/api/v1/openapi.json").json()

    body = document["paths"]["/api/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    name = body["$ref"].rpartition("/")[2]
    described = document["components"]["schemas"][name]["properties"]
    assert set(described) == set(field_names())
    own = GenerationRequest.model_json_schema()["properties"]
    for field in field_names():
        assert described[field]["description"] == own[field]["description"]
    assert described["width"]["anyOf"][0] == own["width"]["anyOf"][0]


def test_a_training_is_a_job_among_others(client: TestClient, studio: Studio, tmp_path: Path) -> None:
    Image.new("RGB", (128, 128), "red").save(tmp_path / "red.png")
    asked = studio.training_request(tmp_path, name="my-style", caption="a house", steps=3)
    job = studio.submit_training(asked)
    jobs = Storage.open(studio.settings).jobs
    claimed = jobs.claim("cpu")
    assert claimed is not None
    jobs.report(claimed, step=1, num_steps=3, loss=0.25, seconds_left=2.0, preview=b"jpeg")

    told = client.get(f"/api/v1/jobs/{job.id}").json()
    preview = client.get(f"/api/v1/jobs/{job.id}/preview")
    client.post(f"/api/v1/jobs/{job.id}/cancel")
    jobs.finish(claimed, JobState.CANCELLED)
    events = client.get(f"/api/v1/jobs/{job.id}/events").text

    assert client.get("/api/v1/jobs").json()[0]["id"] == job.id
    assert (told["kind"], told["loss"], told["eta"]) == ("train", 0.25, 2.0)
    assert told["status"] == "training my-style, step 1/3, loss 0.2500"
    assert told["request"]["name"] == "my-style"
    assert preview.content == b"jpeg"
    assert '"state":"cancelled"' in events
    assert client.get("/api/v1/images", params={"job_id": job.id}).json() == {"images": [], "total": 0}
