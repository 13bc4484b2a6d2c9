"""Routes of pictures and inputs over a real studio with real files."""

import hashlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from studio import GalleryImage, Studio
from studio.metadata import read_texts

MakeImages = Callable[..., list[GalleryImage]]


def png(size: tuple[int, int] = (16, 16)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "teal").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp", "avif"])
def test_file_comes_byte_for_byte_and_as_nothing_but_an_image(
    client: TestClient, make_images: MakeImages, output_format: str
) -> None:
    image = make_images(output_format=output_format)[0]

    answer = client.get(f"/api/v1/images/{image.id}/file")

    assert answer.content == image.path.read_bytes()
    assert answer.headers["content-type"] == f"image/{output_format}"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"].startswith("private")
    assert hashlib.sha256(answer.content).hexdigest() in answer.headers["etag"]


def test_download_names_the_file(client: TestClient, make_images: MakeImages) -> None:
    image = make_images()[0]

    answer = client.get(f"/api/v1/images/{image.id}/file", params={"download": "true"})

    assert answer.headers["content-disposition"] == f'attachment; filename="{image.path.name}"'


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp", "avif"])
def test_a_copy_without_metadata_says_nothing(
    client: TestClient, make_images: MakeImages, tmp_path: Path, output_format: str
) -> None:
    image = make_images(output_format=output_format)[0]

    answer = client.get(f"/api/v1/images/{image.id}/file", params={"download": "true", "metadata": "false"})

    (tmp_path / "bare").write_bytes(answer.content)
    assert read_texts(tmp_path / "bare") == {}
    assert answer.headers["content-type"] == f"image/{output_format}"
    assert answer.headers["content-disposition"] == f'attachment; filename="{image.id}{image.path.suffix}"'
    assert "sandbox" in answer.headers["content-security-policy"]
    image.path.unlink()
    gone = client.get(f"/api/v1/images/{image.id}/file", params={"metadata": "false"})
    assert gone.status_code == 404


def test_thumbnail_is_small_and_known_files_are_not_sent_again(client: TestClient, make_images: MakeImages) -> None:
    image = make_images(width=512, height=256)[0]

    first = client.get(f"/api/v1/images/{image.id}/thumbnail")
    again = client.get(f"/api/v1/images/{image.id}/thumbnail", headers={"If-None-Match": first.headers["etag"]})

    assert Image.open(io.BytesIO(first.content)).size == (256, 128)
    assert (again.status_code, again.content) == (304, b"")


def test_list_is_paged_newest_first(client: TestClient, make_images: MakeImages) -> None:
    made = [image.id for image in make_images(num_images=3)]

    page = client.get("/api/v1/images", params={"limit": 2, "offset": 1}).json()

    assert page["total"] == 3
    assert [image["id"] for image in page["images"]] == made[1::-1]


def test_posting_a_pictures_request_again_is_accepted(client: TestClient, make_images: MakeImages) -> None:
    image = make_images()[0]

    told = client.get(f"/api/v1/images/{image.id}").json()

    assert client.post("/api/v1/jobs", json=told["request"]).status_code == 202
    assert (told["width"], told["name"], told["provenance"]) == (128, image.path.name, dict(image.provenance))


def test_deleted_picture_is_gone(client: TestClient, make_images: MakeImages) -> None:
    image = make_images()[0]

    assert client.delete(f"/api/v1/images/{image.id}").status_code == 204
    assert not image.path.exists()
    for path in ("", "/file", "/thumbnail"):
        assert client.get(f"/api/v1/images/{image.id}{path}").status_code == 404
    assert client.delete(f"/api/v1/images/{image.id}").status_code == 404


def test_file_missing_from_the_folder_is_told(client: TestClient, make_images: MakeImages) -> None:
    image = make_images()[0]
    image.path.unlink()

    answer = client.get(f"/api/v1/images/{image.id}/file")

    assert answer.status_code == 404
    assert image.path.name in answer.json()["detail"]


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../../studio.db",
        "%2e%2e%2f",
        "/etc/passwd",
        "C:\\x",
        "a-0",
        "-0",
        "0" * 64,
        "x\0",
        "..\\..",
        "é-1",
        "a-99999",
    ],
)
@pytest.mark.parametrize("route", ["/api/v1/images/{}/file", "/api/v1/images/{}/thumbnail", "/api/v1/inputs/{}/file"])
def test_no_route_takes_a_path(client: TestClient, route: str, name: str) -> None:
    for written in (quote(name, safe=""), quote(quote(name, safe=""), safe="")):
        assert client.get(route.format(written)).status_code == 404


def test_input_is_stored_once_raw_or_as_a_form(client: TestClient, studio: Studio) -> None:
    data = png()

    raw = client.post("/api/v1/inputs", content=data, headers={"Content-Type": "image/png"})
    form = client.post("/api/v1/inputs", files={"file": ("../../x.html", data, "text/html")})

    assert raw.status_code == form.status_code == 201
    assert raw.json()["id"] == form.json()["id"] == hashlib.sha256(data).hexdigest()
    back = client.get(f"/api/v1/inputs/{raw.json()['id']}/file")
    assert (back.content, back.headers["content-type"]) == (data, "image/png")


@pytest.mark.parametrize(
    "data", [b"", b"<html><script>1</script>", b"<svg xmlns='http://www.w3.org/2000/svg'/>", png()[:60]]
)
def test_input_that_is_no_image_is_refused(client: TestClient, data: bytes) -> None:
    answer = client.post("/api/v1/inputs", content=data)

    assert answer.status_code == 422
    assert "init_image" in answer.json()["detail"]


def test_form_without_a_file_is_refused(client: TestClient) -> None:
    answer = client.post("/api/v1/inputs", files={"picture": ("x.png", png(), "image/png")})

    assert (answer.status_code, answer.json()["field"]) == (422, "file")


def test_request_from_a_stored_input_is_accepted(client: TestClient) -> None:
    init_image = client.post("/api/v1/inputs", content=png((64, 64))).json()["id"]

    answer = client.post("/api/v1/jobs", json={"prompt": "a boat", "init_image": init_image, "strength": 0.6})

    assert answer.status_code == 202


def test_models_tell_what_empty_fields_mean(client: TestClient) -> None:
    models = {model["name"]: model for model in client.get("/api/v1/models").json()}

    assert models["toy"]["native_width"] == 128
    assert models["toy"]["defaults"]["num_inference_steps"] == 4
    assert models["toy"]["defaults"]["scheduler"] == "dpmpp_2m"
    assert models["toy"]["sha256"] is None


def test_embeddings_are_listed(client: TestClient, studio: Studio) -> None:
    studio.settings.embeddings_dir.mkdir()
    (studio.settings.embeddings_dir / "old.pt").write_bytes(pickle.dumps({}))

    answer = client.get("/api/v1/embeddings")

    (embedding,) = answer.json()
    assert str(studio.settings.home) not in answer.text

    assert (embedding["name"], embedding["vectors"]) == ("old", 0)
    assert "is a pickle" in embedding["problem"]
