"""LoRAs over HTTP."""

import pytest
from fastapi.testclient import TestClient

from studio import Settings, Studio
from tests.studio.lora_files import write_lora_file


@pytest.fixture(autouse=True)
def folder(settings: Settings) -> None:
    metadata = {"ss_output_name": "sea side", "modelspec.thumbnail": "data:image/png;base64,AAAA"}
    write_lora_file(settings.home / "loras" / "sea.safetensors", metadata=metadata)
    (settings.home / "loras" / "broken.safetensors").write_bytes(b"")


def test_loras_are_listed_without_paths_and_pictures(client: TestClient, settings: Settings) -> None:
    answer = client.get("/api/v1/loras")
    listed = {lora["name"]: lora for lora in answer.json()}

    assert listed["sea"]["family"] == "Stable Diffusion 1.x"
    assert listed["sea"]["metadata"] == {"ss_output_name": "sea side"}
    assert listed["broken"]["problem"].startswith("broken.safetensors is no safetensors file")
    assert str(settings.home) not in answer.text


def test_a_job_takes_loras_in_words_and_by_their_parts(client: TestClient, studio: Studio) -> None:
    for lora in ("sea:0.5", {"name": "sea", "weight": 0.5}):
        job = client.post("/api/v1/jobs", json={"prompt": "a boat", "loras": [lora]}).json()
        assert job["request"]["loras"][0]["weight"] == 0.5
        studio.wait(job["id"])
    (image, other) = client.get("/api/v1/images").json()["images"]
    assert image["request"]["loras"] == other["request"]["loras"]
    assert len(image["loras"][0]["sha256"]) == 64


@pytest.mark.parametrize(
    ("loras", "detail"),
    [
        (["see"], "LoRA 'see' is not installed; there are sea"),
        (["broken"], "LoRA broken cannot be used: broken.safetensors is no safetensors file"),
        ([{"name": "sea", "weight": 11}], "loras[0].weight: input should be less than or equal to 10, got 11"),
        ("sea", "loras: input should be a valid tuple, got 'sea'"),
        ([{"name": "../../x"}], "LoRA '../../x' is not installed"),
    ],
)
def test_what_cannot_be_applied_is_refused(loras: object, detail: str, client: TestClient) -> None:
    answer = client.post("/api/v1/jobs", json={"prompt": "a boat", "loras": loras})

    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(detail)
    assert answer.json()["field"] == "loras"
