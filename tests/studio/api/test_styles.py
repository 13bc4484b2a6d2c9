"""Styles over REST: listed, applied by name, refused by name."""

import pytest
from fastapi.testclient import TestClient

from studio import Settings, Studio


@pytest.fixture(autouse=True)
def file(settings: Settings) -> None:
    (settings.home / "styles.csv").write_text(
        'name,prompt,negative_prompt\nInk,"ink, {prompt}",fog\n', encoding="utf-8"
    )


def test_styles_are_listed(client: TestClient) -> None:
    (style,) = client.get("/api/v1/styles").json()

    assert style == {"name": "Ink", "prompt": "ink, {prompt}", "negative_prompt": "fog"}


def test_a_picture_names_its_styles_and_posting_it_again_does_not_apply_them_twice(
    client: TestClient, studio: Studio
) -> None:
    request = {"prompt": "a boat", "styles": ["Ink"], "seed": 1}
    for _ in range(2):
        studio.wait(client.post("/api/v1/jobs", json=request).json()["id"])
        newest = client.get("/api/v1/images").json()["images"][0]
        request = newest["request"]

    assert (request["prompt"], request["styles"], request["template"]) == ("ink, a boat", ["Ink"], "a boat")
    assert (request["negative_prompt"], request["negative_template"]) == ("fog", "")


@pytest.mark.parametrize("styles", [["Inc"], [""], ["Ink", "Ink"], "Ink", ["a\nb"]])
def test_what_is_no_style_is_refused(client: TestClient, styles: object) -> None:
    answer = client.post("/api/v1/jobs", json={"prompt": "a boat", "styles": styles})

    assert (answer.status_code, answer.json()["field"]) == (422, "styles")
