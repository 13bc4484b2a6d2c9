"""The app over a real studio, without the page; and with it, built once per module."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from studio import GalleryImage, Settings, Studio
from studio.api import create_app

ADDRESS = "http://127.0.0.1:7860"


@pytest.fixture
def client(studio: Studio) -> Iterator[TestClient]:
    with TestClient(create_app(studio, ui=False), base_url=ADDRESS) as client:
        yield client


@pytest.fixture(scope="module")
def app_with_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    home: Path = tmp_path_factory.mktemp("home")
    with Studio(Settings(home=home, engine="fake", devices=("cpu",))) as studio:

        async def make() -> FastAPI:  # inside a running loop, as the server does
            return create_app(studio)

        yield asyncio.run(make())


@pytest.fixture(scope="module")
def page(app_with_page: FastAPI) -> Iterator[TestClient]:
    with TestClient(app_with_page, base_url=ADDRESS, follow_redirects=False) as client:
        yield client


@pytest.fixture
def uploads(app_with_page: FastAPI) -> Path:
    """Where the page's uploads wait."""
    folder: Path = app_with_page.state.studio.settings.uploads_dir
    return folder


@pytest.fixture
def make_images(studio: Studio) -> Callable[..., list[GalleryImage]]:
    def make(prompt: str = "a boat", **fields: object) -> list[GalleryImage]:
        return studio.generate(prompt, progress=False, **fields)

    return make
