"""The page. Turns widgets into requests and jobs into pictures; knows the studio only through its facade."""

import os
from importlib import import_module

from fastapi import FastAPI

from studio.core import Studio

__all__ = ["mount"]


def mount(app: FastAPI, studio: Studio) -> None:
    """Serve the page at `/`. Uploads wait in a private folder of the outputs, which Gradio must know before its import.

    The app must already have a CORSMiddleware of its own: Gradio then leaves CORS alone.
    """
    folder = studio.settings.outputs_dir / "tmp"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    import_module("studio.ui.app").mount(app, studio)
