"""`studio serve`: the server and its workers, with every setting as an option."""

import typer

from studio.cli.options import with_settings
from studio.settings import Settings


def install(app: typer.Typer) -> None:
    """Add the command."""
    epilog = "Settings stand in studio.toml, in variables like STUDIO_PORT, or here; the last of these wins."
    app.command(epilog=epilog)(with_settings(serve, hidden=False))


def serve(settings: Settings) -> None:
    """Start the studio in the browser. Ctrl-C stops it; jobs that wait stay in the queue."""
    from studio.api.app import serve as serve_forever

    serve_forever(settings, on_ready=_announce, on_stopping=_say_goodbye)


def _announce(url: str) -> None:
    typer.echo(f"Open Weights Studio is ready at {url}  (Ctrl-C stops it)", err=True)


def _say_goodbye() -> None:
    typer.echo("Stopping; a picture in the making is finished first.", err=True)
