"""The guard before the app and the page: hosts, origins, sizes, and which of Gradio's routes are open."""

import asyncio
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from studio.api.guard import GRADIO_ROUTES, SECURITY_HEADERS, UploadedFilesOnly, is_known_route

OWN_HOSTS = ["127.0.0.1", "127.0.0.1:7860", "localhost", "LOCALHOST:80", "[::1]", "[::1]:7860"]
FOREIGN_HOSTS = [
    "evil.example",
    "127.0.0.1.evil.example",
    "localhost.evil.example:7860",
    "",
    "[::2]",
    "127.0.0.1:7860x",
]
FOREIGN_ORIGINS = [
    "https://evil.example",
    "null",
    "http://127.0.0.1:8188",
    "http://localhost:7860",
    "http://127.0.0.1.evil.example:7860",
    "file://",
]
READS = [("GET", "/healthz"), ("GET", "/"), ("GET", "/gradio_api/app_id"), ("HEAD", "/"), ("GET", "/api/v1/jobs")]
WRITES = [
    ("POST", "/api/v1/jobs"),
    ("DELETE", "/api/v1/images/a-0"),
    ("POST", "/gradio_api/queue/join"),
    ("POST", "/gradio_api/run/predict"),
    ("POST", "/gradio_api/upload"),
    ("OPTIONS", "/api/v1/jobs"),
    ("PUT", "/"),
]


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_foreign_host_is_refused_everywhere(page: TestClient, host: str) -> None:
    for method, path in READS + WRITES:
        assert page.request(method, path, headers={"Host": host}).status_code == 400


@pytest.mark.parametrize("host", OWN_HOSTS)
def test_own_host_is_answered(page: TestClient, host: str) -> None:
    assert page.get("/healthz", headers={"Host": host}).status_code == 200


def test_two_hosts_are_one_too_many(page: TestClient) -> None:
    answer = page.get("/healthz", headers=[("Host", "127.0.0.1:7860"), ("Host", "evil.example")])
    assert answer.status_code == 400


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_foreign_page_may_not_write_and_learns_nothing(page: TestClient, origin: str) -> None:
    for method, path in WRITES:
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        answer = page.request(method, path, headers=headers)
        assert answer.status_code == 403, (method, path)
        assert not [name for name in answer.headers if name.startswith("access-control-")]
    for method, path in READS:
        answer = page.request(method, path, headers={"Origin": origin})
        assert not [name for name in answer.headers if name.startswith("access-control-")], (method, path)


@pytest.mark.parametrize("site", ["cross-site", "same-site", "nonsense"])
def test_fetch_metadata_decides_even_without_an_origin(page: TestClient, site: str) -> None:
    for method, path in WRITES:
        assert page.request(method, path, headers={"Sec-Fetch-Site": site}).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "[::1]:7860"])
def test_own_page_and_programs_may_write(page: TestClient, host: str) -> None:
    own_page = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    for headers in (own_page, {"Host": host}):
        answer = page.post("/api/v1/jobs", json={"width": 63}, headers=headers)
        assert answer.status_code == 422


@pytest.mark.parametrize(
    ("path", "length", "status"),
    [
        ("/api/v1/jobs", 256 * 2**10 + 1, 413),
        ("/gradio_api/run/predict", 16 * 2**20 + 1, 413),
        ("/api/v1/inputs", 33 * 2**20, 413),
        ("/gradio_api/upload", 33 * 2**20, 400),  # let through: the pictures of a training come at once
        ("/api/v1/inputs", 300 * 2**10, 422),
    ],
)
def test_bodies_are_limited_by_what_they_announce(page: TestClient, path: str, length: int, status: int) -> None:
    assert page.post(path, content=b" " * length).status_code == status


def test_not_even_the_pictures_of_a_training_are_without_a_limit(page: TestClient) -> None:
    announced = {"Content-Length": str(2**30 + 1)}
    assert page.post("/gradio_api/upload", content=b"", headers=announced).status_code == 413


def test_bodies_of_unknown_size_are_refused(page: TestClient) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"{}"

    assert page.post("/api/v1/jobs", content=chunks()).status_code == 411


@pytest.mark.parametrize("length", ["-1", "1e3", "9" * 30, "٣"])
def test_nonsense_length_is_refused(page: TestClient, length: str) -> None:
    answer = page.post("/api/v1/jobs", content=b"", headers={"Content-Length": length.encode()})  # type: ignore[dict-item]
    assert answer.status_code == 413


DENIED = [
    *(f"/gradio_api/file{sep}{url}" for sep in "=/" for url in ("http://127.0.0.1:1/x", "https://evil.example/a.png")),
    "/gradio_api/file=%68ttp://127.0.0.1:1/x",
    "/gradio_api/file=%2568ttp://127.0.0.1:1/x",
    "/gradio_api/file=%252568ttp%3A//127.0.0.1:1/x",
    "/gradio_api/file=HTTP://127.0.0.1:1/x",
    "/gradio_api/file=hTtPs://evil.example",
    "/gradio_api/file=%20http://127.0.0.1:1/x",
    "/gradio_api/file=http%3A%2F%2F127.0.0.1:1",
    "/gradio_api/file=ftp://127.0.0.1/x",
    "/gradio_api/file=file:///etc/passwd",
    "/gradio_api/file=data:text/html,x",
    "/gradio_api/file=//evil.example/share",
    "/gradio_api/file=\\\\evil.example\\share",
    "/gradio_api/proxy=http://127.0.0.1:1/",
    "/proxy=http://127.0.0.1:1/",
    "/pwa_icon",
    "/pwa_icon/8000",
    "/gradio_api/run-history/connect",
    "/gradio_api/run-history/buckets",
    "/gradio_api/runs",
    "/monitoring",
    "/monitoring/summary",
    "/monitoring/x",
    "/gradio_api/vibe-edit/",
    "/gradio_api/vibe-code/",
    "/gradio_api/dev/reload",
    "/gradio_api/deep_link",
    "/gradio_api/token",
    "/gradio_api/token/",
    "/gradio_api/user",
    "/gradio_api/api/predict",
    "/gradio_api/call/submit",
    "/gradio_api/openapi.json",
    "/gradio_api/stream/x",
    "/gradio_api/process_recording",
    "/gradio_api/mcp/sse",
    "/login",
    "/docs",
    "/openapi.json",
    "//gradio_api/token",
    "/gradio_api//token",
    "/./gradio_api/token",
    "/gradio_api/%74oken",
    "/gradio_api/%2574oken",
    "/GRADIO_API/token",
    "/custom_component/x",
]


@pytest.mark.parametrize("path", DENIED)
def test_closed_route_does_not_exist(page: TestClient, path: str) -> None:
    for method in ("GET", "HEAD", "POST"):
        assert raw_status(page.app, method, path) == 404  # type: ignore[arg-type]


def raw_status(app: FastAPI, method: str, path: str) -> int:
    """Ask the app for exactly these bytes: an HTTP client would tidy the path up first."""
    sent: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1:7860")],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 7860),
    }
    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    return int(str(sent[0]["status"]))


OPEN_IN_GRADIO = {
    "/", "/config", "/config/", "/theme.css", "/robots.txt", "/favicon.ico", "/manifest.json", "/assets/{path:path}",
    "/static/{path:path}", "/svelte/{path:path}", "/gradio_api/app_id", "/gradio_api/app_id/", "/gradio_api/cancel",
    "/gradio_api/component_server", "/gradio_api/component_server/", "/gradio_api/file={path_or_url:path}",
    "/gradio_api/heartbeat/{session_hash}", "/gradio_api/info", "/gradio_api/info/", "/gradio_api/queue/data",
    "/gradio_api/queue/join", "/gradio_api/queue/status", "/gradio_api/reset", "/gradio_api/reset/",
    "/gradio_api/run/{api_name}", "/gradio_api/run/{api_name}/", "/gradio_api/startup-events", "/gradio_api/theme.css",
    "/gradio_api/upload", "/gradio_api/upload_progress",
}  # fmt: skip
"""A route that a new Gradio brings is closed until it is written here and in the guard."""


def test_every_route_is_either_known_or_closed(app_with_page: FastAPI) -> None:
    gradio = next(route.app for route in app_with_page.routes if isinstance(route, Mount) and route.path == "")
    for route in gradio.routes:  # type: ignore[attr-defined]
        if not isinstance(route, Route | APIRoute):
            continue
        example = route.path
        for variable in ("path:path", "path_or_url:path", "url_path:path"):
            example = example.replace(f"{{{variable}}}", "/tmp/x.png" if "file" in route.path else "x.js")
        example = example.replace("{api_name}", "predict").replace("{session_hash}", "abc123")
        example = example.replace("{", "").replace("}", "")
        expected = route.path in OPEN_IN_GRADIO and not example.endswith("app_id/")
        assert is_known_route(example) is expected, route.path
    own = {route.path for route in app_with_page.routes if isinstance(route, APIRoute)}
    assert all(is_known_route(path.replace("{", "").replace("}", "")) for path in own)


def test_every_answer_carries_the_security_headers(page: TestClient) -> None:
    refused = [
        page.get("/", headers={"Host": "evil.example"}),
        page.get("/nothing"),
        page.post("/", headers={"Origin": "null"}),
    ]
    answered = [page.get("/"), page.get("/healthz"), page.get("/theme.css"), page.get("/api/v1/jobs/x")]
    for answer, (name, value) in itertools.product(refused + answered, SECURITY_HEADERS.items()):
        assert answer.headers[name] == value


def test_page_names_no_other_server_as_a_source(page: TestClient) -> None:
    sources = re.findall(
        r"""<(?:script|link|img|iframe)[^>]+(?:src|href)=["'](https?:)?//([^/"']+)""", page.get("/").text
    )
    assert sources == []


def test_gradio_serves_no_file_of_the_machine(page: TestClient) -> None:
    for path in ("/etc/passwd", "/proc/self/environ", __file__, "pyproject.toml", "C:/x", "/tmp/../etc/passwd"):
        assert raw_status(page.app, "GET", f"/gradio_api/file={path}") in {403, 404}  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["/gradio_api/run/predict", "/gradio_api/queue/join", "/gradio_api/component_server/"])
@pytest.mark.parametrize(
    "name", ["../secret.png", "link.png", "/etc/hostname", "../tmp2/a.png", "https://evil.example/a.png"]
)
def test_a_page_may_name_only_what_was_uploaded(page: TestClient, uploads: Path, path: str, name: str) -> None:
    (uploads.parent / "secret.png").write_bytes(b"")
    if not (uploads / "link.png").is_symlink():
        (uploads / "link.png").symlink_to(uploads.parent / "secret.png")
    named = name if ":" in name or name.startswith("/") else str(uploads / name)

    for file in ({"path": named}, {"path": named, "meta": {"_type": "gradio.FileData"}}):
        answer = page.post(path, json={"data": [1, [{"deep": file}]], "fn_index": 0, "session_hash": "a"})
        assert (answer.status_code, answer.json()["detail"]) == (403, "that file was not uploaded; give it again")


def test_what_was_uploaded_may_be_named_and_arrives_whole(tmp_path: Path) -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(await Request(scope, receive).body())(scope, receive, send)

    body = {"data": [{"path": str(tmp_path / "1" / "a.png")}, {"path": None, "url": "data:,"}, "x" * 10**6]}
    client = TestClient(UploadedFilesOnly(echo, uploads=tmp_path.resolve()), base_url="http://127.0.0.1")

    assert client.post("/gradio_api/run/predict", json=body).json() == body


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b"\xff"])
def test_events_that_are_not_json_are_refused(page: TestClient, body: bytes) -> None:
    assert page.post("/gradio_api/run/predict", content=body).status_code == 400


def test_websockets_are_refused(page: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect), page.websocket_connect("/gradio_api/queue/join"):
        pass


def test_routes_pattern_is_anchored() -> None:
    assert GRADIO_ROUTES.fullmatch("/assets/index.js")
    assert not GRADIO_ROUTES.fullmatch("/x/assets/index.js")


@pytest.mark.parametrize("path", ["/", "/config"])
@pytest.mark.parametrize("encoding", ["identity", "gzip, deflate, br"])
def test_the_page_names_no_other_host(page: TestClient, path: str, encoding: str) -> None:
    text = page.get(path, headers={"Accept-Encoding": encoding}).text

    assert "Open Weights Studio" in text
    assert not re.findall(r"[a-z]+://(?!127\.0\.0\.1\b)[^\s\"'<>]+", text)
    assert "twitter" not in text
