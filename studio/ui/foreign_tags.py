"""Takes Gradio's cards for social networks out of the page: they name its website and its pictures."""

import re

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_CARD = re.compile(rb'<meta\s+(?:property|name)="(?:og|twitter):[^>]*>\s*')


class NoForeignTags:
    """Rewrites the one answer that is the page; all others pass untouched."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ("GET", "/"):
            await self._app(scope, receive, send)
            return
        started: Message = {}
        body = bytearray()

        async def collect(message: Message) -> None:
            match message["type"]:
                case "http.response.start":
                    started.update(message)
                case "http.response.body":
                    body.extend(message.get("body", b""))
                    if not message.get("more_body", False):
                        page = _CARD.sub(b"", body)
                        MutableHeaders(scope=started)["content-length"] = str(len(page))
                        await send(started)
                        await send({"type": "http.response.body", "body": page})
                case _:
                    await send(message)

        await self._app(scope, receive, collect)
