"""Puts the web server together: guard, REST routes, the page. This process never imports torch."""

import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module

import uvicorn
from fastapi import APIRouter, FastAPI

from pipelines.spec.errors import AlreadyRunning, InvalidRequest
from studio import __version__
from studio.api import errors, guard, images, jobs, loras, trainings
from studio.api.views import EmbeddingView, Health, ModelView, StudioDep, StyleView
from studio.core import Studio
from studio.settings import Settings
from studio.supervisor import Supervisor

GRACE_SECONDS = 2
"""How long open connections may finish at the end; event streams and open pages never would by themselves."""

_DESCRIPTION = """Ask for pictures, watch them being made, fetch them. What you ask for is a job in a queue:
it goes on when you leave."""

_router = APIRouter()


def create_app(studio: Studio, *, ui: bool = True) -> FastAPI:
    """Return the app that serves a studio.

    Args:
        studio: does the work; the caller closes it.
        ui: also serve the page at `/`.
    """
    app = FastAPI(
        title="Open Weights Studio",
        version=__version__,
        description=_DESCRIPTION,
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # Swagger's and ReDoc's pages load scripts from elsewhere
        redoc_url=None,
        responses={422: {"model": errors.Problem}, 404: {"model": errors.Problem}},
    )
    app.state.studio = studio
    errors.install(app)
    guard.install(app, hosts=[studio.settings.host], uploads=studio.settings.uploads_dir)
    app.include_router(_router)
    for router in (jobs.router, images.router, loras.router, trainings.router):
        app.include_router(router, prefix="/api/v1")
    if ui:
        import_module("studio.ui").mount(app, studio)
    return app


@_router.get("/healthz")
def read_health(studio: StudioDep) -> Health:
    """Say that the server answers, whether somebody works, and how many jobs wait."""
    workers = studio.live_workers()
    return Health(status="ok", version=__version__, workers=workers, queue_length=studio.queue_length())


@_router.get("/api/v1/models", tags=["models"])
def list_models(studio: StudioDep) -> list[ModelView]:
    """List the installed models and what an empty field means with each."""
    hashes = studio.model_hashes()
    return [ModelView.of(model, sha256=hashes.get(model.name)) for model in studio.models()]


@_router.get("/api/v1/embeddings", tags=["models"])
def list_embeddings(studio: StudioDep) -> list[EmbeddingView]:
    """List the embeddings (textual inversion): words that prompts may use."""
    return [EmbeddingView(**embedding.described()) for embedding in studio.embeddings()]


@_router.get("/api/v1/styles", tags=["models"])
def list_styles(studio: StudioDep) -> list[StyleView]:
    """List the styles of styles.csv: named pieces of prompt that a request's `styles` may name."""
    return [StyleView(**asdict(style)) for style in studio.styles()]


def serve(
    settings: Settings,
    *,
    on_ready: Callable[[str], object] = lambda url: None,
    on_stopping: Callable[[], object] = lambda: None,
) -> None:
    """Serve until SIGINT or SIGTERM, with workers that drain at the end.

    Args:
        settings: host, port, folders and devices.
        on_ready: called with the address once the page can be opened.
        on_stopping: called when the end begins; it takes as long as the picture in the making.

    Raises:
        InvalidRequest: the host can be reached from other machines; there are no accounts yet.
        AlreadyRunning: another server owns the outputs folder, or another program the port.
        StorageError: the outputs folder cannot be written, or the database is damaged.
    """
    if not settings.is_private:
        raise InvalidRequest(
            f"host must be an address of this machine only (127.0.0.1, localhost or ::1), got {settings.host}: there "
            "are no accounts yet, so everybody could use the studio; from another machine, make a tunnel: "
            f"ssh -L {settings.port}:127.0.0.1:{settings.port} THIS_MACHINE",
            field="host",
        )
    supervisor = Supervisor(settings)
    try:
        listener = _listen(settings.host, settings.port)
    except AlreadyRunning:
        if settings.outputs_dir.exists():  # if it is a studio with this folder, that is the better thing to say
            supervisor.take_folder()
            supervisor.stop()
        raise
    with listener, Studio(settings) as studio:
        supervisor.take_folder()

        def ready(url: str) -> None:
            supervisor.start_workers()  # not sooner: importing torch beside Gradio delays the page by two seconds
            on_ready(url)

        try:
            config = uvicorn.Config(
                lambda: create_app(studio),
                factory=True,  # made inside the running event loop: Gradio would open loops of its own and leave them
                access_log=False,
                log_level="warning",
                server_header=False,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
            _Server(config, on_ready=ready, on_stopping=on_stopping).serve_on(listener)
        finally:
            supervisor.stop()


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, *, on_ready: Callable[[str], object], on_stopping: Callable[[], object]
    ) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._on_stopping = on_stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            self._on_ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_stopping()
        await super().shutdown(sockets)

    def serve_on(self, listener: socket.socket) -> None:
        """Run until a signal. Uvicorn raises the signal once more when it is done; by then it has had its effect."""
        signal.signal(signal.SIGTERM, lambda *_: None)
        with suppress(KeyboardInterrupt):
            self.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """Take the port before anything is started."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name != "nt":  # there it would share the port instead of reusing one that is closing
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise AlreadyRunning(
            f"cannot listen on {host}:{port}: {error.strerror}; stop the program that uses it or choose other --port"
        ) from error
    return listener
