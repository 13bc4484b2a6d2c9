"""LoRAs over HTTP."""

import base64
import io
import json
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx import Response
from PIL import ExifTags, Image

from studio import Settings, Studio
from studio.ui import markup
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


def test_a_tag_that_no_page_can_hold_hides_no_lora(client: TestClient, settings: Settings) -> None:
    tags = {"ss_tag_frequency": r'{"a": {"sea \ud800": 3}}'}
    write_lora_file(settings.home / "loras" / "odd.safetensors", metadata=tags)

    listed = {lora["name"]: lora for lora in client.get("/api/v1/loras").json()}

    assert listed["odd"]["trigger_words"] == ["sea �"]


def test_notes_that_no_page_can_hold_hide_no_lora(client: TestClient, settings: Settings, studio: Studio) -> None:
    notes = r'{"activation text": "sea \ud800 side", "description": "\udfff"}'
    (settings.home / "loras" / "sea.json").write_text(notes)

    listed = {lora["name"]: lora for lora in client.get("/api/v1/loras").json()}

    assert listed["sea"]["trigger_words"] == ["sea � side"]
    assert "sea � side" in markup.lora_cards([studio.lora("sea")])


def data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def picture(image_format: str, size: tuple[int, int] = (600, 300), **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "teal").save(buffer, format=image_format, **options)
    return buffer.getvalue()


def shown(answer: Response) -> Image.Image:
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")
    assert answer.headers["x-content-type-options"] == "nosniff"
    return Image.open(io.BytesIO(answer.content))


def test_a_preview_is_served_small_upright_and_without_metadata(client: TestClient, settings: Settings) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "secret"
    write_lora_file(settings.home / "loras" / "deep" / "sea.safetensors")
    (settings.home / "loras" / "deep" / "sea.preview.jpg").write_bytes(picture("JPEG", exif=exif.tobytes()))

    answer = client.get("/api/v1/loras/deep/sea/preview")
    again = client.get("/api/v1/loras/deep%2Fsea/preview", headers={"If-None-Match": answer.headers["etag"]})

    assert shown(answer).size == (128, 256)
    assert b"secret" not in answer.content
    assert again.status_code == 304
    assert {lora["name"]: lora["has_preview"] for lora in client.get("/api/v1/loras").json()}["deep/sea"] is True


@pytest.mark.parametrize(
    ("thumbnail", "status"),
    [
        (data_uri("png", picture("PNG")), 200),
        (data_uri("webp", picture("WEBP")), 200),
        (data_uri("jpeg", picture("PNG")), 200),  # what it is counts, not what it is called
        (data_uri("svg+xml", b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>"), 404),
        (data_uri("png", b"<html><script></script>"), 404),
        (data_uri("png", picture("GIF")), 404),
        ("data:image/png;base64,A", 404),
        ("data:text/html,<script>", 404),
        ("https://example.com/x.png", 404),
        ("", 404),
        (data_uri("png", picture("PNG", (9000, 9000))), 404),
    ],
)
def test_a_picture_in_the_header_is_decoded_or_refused(
    thumbnail: str, status: int, client: TestClient, settings: Settings
) -> None:
    write_lora_file(settings.home / "loras" / "in.safetensors", metadata={"modelspec.thumbnail": thumbnail})

    answer = client.get("/api/v1/loras/in/preview")

    assert answer.status_code == status
    if status == 200:
        assert shown(answer).size == (256, 128)


@pytest.mark.parametrize("name", ["gone", "..%2F..%2Fetc%2Fpasswd", "/etc/passwd"])
def test_only_what_the_catalogue_knows_has_a_preview(name: str, client: TestClient) -> None:
    assert client.get(f"/api/v1/loras/{name}/preview").status_code == 404


def test_notes_beside_a_file_tell_trigger_words_weight_and_description(client: TestClient, settings: Settings) -> None:
    folder = settings.home / "loras"
    a1111 = {"activation text": "by the sea, ", "preferred weight": 0.7, "description": "waves", "notes": "n"}
    (folder / "sea.json").write_text(json.dumps(a1111))
    (folder / "sea.civitai.info").write_text(
        json.dumps({"trainedWords": ["surf", "by the sea", 5], "description": "x"})
    )
    write_lora_file(folder / "odd.safetensors")
    (folder / "odd.json").write_text('{"preferred weight": "much", "activation text": 3}')
    (folder / "odd.civitai.info").write_text("[")

    told = {lora["name"]: lora for lora in client.get("/api/v1/loras").json()}

    assert told["sea"]["trigger_words"] == ["by the sea", "surf"]
    assert (told["sea"]["preferred_weight"], told["sea"]["description"]) == (0.7, "waves")
    assert (told["odd"]["trigger_words"], told["odd"]["preferred_weight"]) == ([], None)


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
        (["see"], "LoRA 'see' is not installed; did you mean sea?"),
        (["broken"], "LoRA broken cannot be used: broken.safetensors is no safetensors file"),
        ([{"name": "sea", "weight": 11}], "loras[0].weight must be at least -10 and at most 10, got 11"),
        ("sea", "loras must be a list, got 'sea'; give a list: [\"sea\"]"),
        ([{"name": "../../x"}], "LoRA '../../x' is not installed"),
    ],
)
def test_what_cannot_be_applied_is_refused(loras: object, detail: str, client: TestClient) -> None:
    answer = client.post("/api/v1/jobs", json={"prompt": "a boat", "loras": loras})

    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(detail)
    assert answer.json()["field"] == "loras"
