"""What stands before every route: pure ASGI middlewares that refuse by default. They know no route of ours by name.

Any website can make a browser send requests to a server on this machine. So the Host must be ours (DNS rebinding),
and whatever is not a plain read must come from our own page or from a program that is no browser (CSRF). Of Gradio's
many routes only those are open that the page needs.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 256 * 2**10
UPLOADS: Mapping[str, int] = {
    "/api/v1/inputs": 32 * 2**20 + 2**16,
    "/api/v1/datasets": 8 * 2**20,
    "/gradio_api/upload": 2**30,
    "/gradio_api/run/predict": 16 * 2**20,
}
"""Path -> bytes: the largest input image and its multipart envelope; the captions of a training; its pictures, all at
once, which Gradio writes to the disk as they come and limits one by one; the page's form with a painted mask."""
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")
SAFE_METHODS = frozenset({"GET", "HEAD"})

SECURITY_HEADERS: Mapping[str, str] = {
    # Gradio writes its configuration into inline scripts and builds templates with Function(): both must be allowed.
    # What remains: nothing is loaded from, sent to or framed by anybody else.
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' blob:; "
        "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Set on every answer that does not set its own."""

GRADIO_ROUTES = re.compile(
    r"""
      / | /config/? | /theme\.css | /robots\.txt | /favicon\.ico | /manifest\.json
    | /(assets|static|svelte)/.+
    | /gradio_api/(
          queue/(join|data|status) | run/predict/? | upload | upload_progress | startup-events | app_id | info/?
        | theme\.css | reset/? | cancel | component_server/? | heartbeat/\w+ | file=.+
      )
    """,
    re.VERBOSE,
)
"""What of Gradio's routes the page needs; everything else of Gradio answers 404."""
GRADIO_EVENTS = re.compile(r"/gradio_api/(queue/join|run/predict|component_server)/?")
"""Those of them that carry the values of widgets."""
OWN_ROUTES = re.compile(r"/healthz|/api/v1/.+")
_NOT_A_LOCAL_FILE = re.compile(r"^/gradio_api/file=\s*(?![a-z]:[\\/])([a-z][a-z0-9+.-]*:|[\\/]{2})", re.IGNORECASE)


def install(app: FastAPI, *, hosts: Iterable[str], uploads: Path) -> None:
    """Put the guard before an app. Must run before Gradio is mounted: it then leaves CORS to us.

    Args:
        app: the app; the last middleware added is the first to see a request.
        hosts: host names that requests may name, besides loopback's; an IPv6 address in brackets or bare.
        uploads: the only folder whose files the page may name.
    """
    app.add_middleware(CORSMiddleware, allow_origins=())
    app.add_middleware(UploadedFilesOnly, uploads=uploads.resolve())
    app.add_middleware(KnownRoutesOnly)
    app.add_middleware(OwnPagesOnly)
    app.add_middleware(LimitedBodies)
    app.add_middleware(KnownHosts, hosts=frozenset(LOOPBACK_HOSTS) | {_bracketed(host) for host in hosts})
    app.add_middleware(SecurityHeaders)


class SecurityHeaders:
    """Adds SECURITY_HEADERS to every answer, refusals included; refuses websockets, which nothing here speaks."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


class KnownHosts:
    """Answers only to its own names, with or without a port, so that no website can rebind its name to this server."""

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            named = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
            if len(named) != 1 or _without_port(named[0]).lower() not in self._hosts:
                given = named[0][:80] if named else ""
                await _refuse(send, 400, f"this server does not answer to the name {given!r}; it is {self._names()}")
                return
        await self._app(scope, receive, send)

    def _names(self) -> str:
        return " or ".join(sorted(self._hosts))


class LimitedBodies:
    """Refuses bodies that are too large, or that do not say how large they are, before a byte of them is read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            limit = UPLOADS.get(scope["path"], MAX_BODY_BYTES)
            length = headers.get("content-length", "0")
            if "transfer-encoding" in headers:
                await _refuse(send, 411, "send a Content-Length: bodies of unknown size are not accepted")
                return
            if not length.isdecimal() or len(length) > 15 or int(length) > limit:
                await _refuse(send, 413, f"the body may be at most {limit // 2**10} KiB here, got {length[:20]} bytes")
                return
        await self._app(scope, receive, send)


class OwnPagesOnly:
    """Refuses whatever is not a plain read and comes from a page of another origin (OWASP: Fetch Metadata)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in SAFE_METHODS:
            headers = Headers(scope=scope)
            if headers.get("sec-fetch-site", "none") not in {"same-origin", "none"} or not _is_own(headers):
                await _refuse(send, 403, "this request comes from another website; only the studio's page may do that")
                return
        await self._app(scope, receive, send)


class KnownRoutesOnly:
    """Opens our own routes and those of Gradio's that the page needs; the rest of Gradio does not exist."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not is_known_route(scope["path"]):
            await _refuse(send, 404, "Not Found")
            return
        await self._app(scope, receive, send)


class UploadedFilesOnly:
    """Refuses events of the page that name a file which nobody uploaded: Gradio believes whatever path it is told."""

    def __init__(self, app: ASGIApp, *, uploads: Path) -> None:
        self._app = app
        self._uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in SAFE_METHODS or not GRADIO_EVENTS.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return
        body, is_whole = b"", False
        while not is_whole:  # `LimitedBodies` has seen how long it is
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            is_whole = not message.get("more_body", False)
        try:
            named = list(_named_files(json.loads(body.decode())))
        except (ValueError, RecursionError):
            await _refuse(send, 400, "the body is not JSON")
            return
        if not all(self._is_uploaded(path) for path in named):
            await _refuse(send, 403, "that file was not uploaded; give it again")
            return
        again = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive_again() -> Message:
            return next(again, None) or await receive()

        await self._app(scope, receive_again, send)

    def _is_uploaded(self, path: str) -> bool:
        try:
            return Path(path).resolve().is_relative_to(self._uploads)
        except (OSError, ValueError, RuntimeError):  # too long, a zero byte, links in a circle
            return False


def _named_files(values: Any) -> Iterator[str]:
    """Yield the path of everything in some JSON that may mean a file."""
    left = [values]
    while left:
        match left.pop():
            case dict() as one:
                left += one.values()
                if isinstance(path := one.get("path"), str):
                    yield path
            case list() as several:
                left += several


def is_known_route(path: str) -> bool:
    """Whether a path (decoded once) is open. A path that means something else when decoded again is not."""
    if unquote(path) != path and not path.startswith("/gradio_api/file="):
        return False
    if OWN_ROUTES.fullmatch(path):
        return True
    return bool(GRADIO_ROUTES.fullmatch(path)) and not _names_another_server(path)


def _names_another_server(path: str) -> bool:
    """Whether Gradio's file route is asked to fetch a URL or a network share, in any encoding."""
    while True:
        if _NOT_A_LOCAL_FILE.match(path):
            return True
        decoded = unquote(path)
        if decoded == path:
            return False
        path = decoded


def _is_own(headers: Headers) -> bool:
    origin = headers.get("origin")
    if origin is None:
        return True
    parts = urlsplit(origin)
    return parts.scheme in {"http", "https"} and parts.netloc.lower() == headers.get("host", "").lower()


def _without_port(host: str) -> str:
    return re.sub(r":\d{1,5}$", "", host)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host.lower()


async def _refuse(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail, "field": None}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
