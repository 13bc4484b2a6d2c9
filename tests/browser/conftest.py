"""A real server process on a free port, its worker with the fake engine, and a headless Chromium that only knows it."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, sync_playwright

from studio import Settings, Studio

STEP_SECONDS = 0.1
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SERVE = """
import sys
from studio.api import serve
from studio.settings import Settings
serve(Settings.model_validate_json(sys.argv[1]), on_ready=lambda url: print(url, flush=True))
"""


@dataclass(frozen=True)
class Server:
    url: str
    studio: Studio


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start the server once for all browser tests."""
    home: Path = tmp_path_factory.mktemp("home")
    write_model(home / "models" / "toy")
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = Settings(
        home=home, engine="fake", default_model="toy", devices=("cpu",), port=port, fake_step_seconds=STEP_SECONDS
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", SERVE, settings.model_dump_json()]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process,
        Studio(settings) as studio,
    ):
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, "the server did not start; its reason stands above"
        yield Server(url, studio)
        process.terminate()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


def launch(playwright: Playwright) -> Browser:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.fail("no Chromium is installed; install the package `chromium` or name one in the variable CHROMIUM")
    return playwright.chromium.launch(executable_path=path, args=FLAGS)


@pytest.fixture
def context(chromium: Browser, server: Server) -> Iterator[BrowserContext]:
    """A fresh browser profile. Whatever it asks for must be on this machine, and must not fail."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.set_default_timeout(15_000)
    foreign: list[str] = []
    broken: list[str] = []

    def note_request(url: str) -> None:
        if not url.startswith((server.url, "data:", "blob:")):
            foreign.append(url)

    context.on("request", lambda request: note_request(request.url))
    context.on(
        "response", lambda answer: broken.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None
    )
    context.on("weberror", lambda error: broken.append(str(error.error)))
    yield context
    context.close()
    assert foreign == []
    assert broken == []


@pytest.fixture
def page(context: BrowserContext, server: Server) -> Iterator[Page]:
    """The page, opened, with no job in the queue."""
    page = context.new_page()
    page.goto(server.url)
    page.wait_for_selector("#generate")
    page.wait_for_selector("#stage .stage")
    yield page
    for job in server.studio.jobs():
        server.studio.cancel(job.id)
    page.wait_for_selector("#cancel:disabled", state="attached")


def write_model(folder: Path) -> None:
    """Write the configuration files of a model: all that the fake engine's studio reads of it."""
    files = {
        "model_index.json": {"_class_name": "StableDiffusionPipeline"},
        "unet/config.json": {"sample_size": 32, "in_channels": 4, "block_out_channels": [32, 64]},
        "text_encoder/config.json": {"num_hidden_layers": 12},
        "vae/config.json": {"block_out_channels": [16, 32, 64, 128]},
        "studio.json": {"defaults": {"num_inference_steps": 4}, "licence": "Apache-2.0"},
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
