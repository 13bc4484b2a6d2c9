"""`studio serve`: the server and its workers, with every setting as an option."""

import typer

from studio.cli.options import add_options, field_schemas
from studio.settings import Settings


def install(app: typer.Typer) -> None:
    """Add the command."""
    schemas = field_schemas(Settings.model_json_schema(), Settings.model_fields)
    app.command()(add_options(serve, schemas, metavars={"devices": "NAME,NAME", "home": "FOLDER"}))


def serve(**settings: str) -> None:
    """Start the studio in the browser. Ctrl-C stops it; jobs that wait stay in the queue."""
    from studio.api.app import serve as serve_forever

    if "devices" in settings:
        settings = {**settings, "devices": tuple(settings["devices"].split(","))}  # type: ignore[dict-item]
    serve_forever(Settings.load(**settings), on_ready=_announce)


def _announce(url: str) -> None:
    typer.echo(f"Open Weights Studio is ready at {url}  (Ctrl-C stops it)", err=True)
