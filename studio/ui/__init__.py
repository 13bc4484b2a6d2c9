"""The page. Turns widgets into requests and jobs into pictures; knows the studio only through its facade."""

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from fastapi import FastAPI

from studio.core import Studio
from studio.files import sweep_old

__all__ = ["UPLOAD_SECONDS", "mount"]

UPLOAD_SECONDS = 24 * 3600
"""An upload is kept so long: inputs of requests have their own store."""


def mount(app: FastAPI, studio: Studio) -> None:
    """Serve the page at `/`. Uploads wait in a private folder of the outputs, which Gradio must know before its import.

    Gradio deletes what it remembers; what a killed server left, and copies of inputs for the form, go here.

    The app must already have a CORSMiddleware of its own: Gradio then leaves CORS alone.
    """
    folder = studio.settings.uploads_dir
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    sweep_old(folder, seconds=UPLOAD_SECONDS)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    with _no_stub_files():
        import_module("gradio")
    import_module("studio.ui.app").mount(app, studio)


@contextmanager
def _no_stub_files() -> Iterator[None]:
    """Keep Gradio from parsing and rewriting its own `.pyi` files for each of its 80 components while it is imported.

    That is half of its import (1.9 of 3.7 s, measured) and writes into site-packages. Gradio skips a component whose
    source file cannot be told (`gradio/component_meta.py`), so for this one import none of theirs can.
    """
    told = inspect.getfile

    def getfile(thing: Any) -> str:
        if type(thing).__name__ == "ComponentMeta":
            raise OSError("not needed now")
        return told(thing)

    inspect.getfile = getfile  # type: ignore[assignment]
    try:
        yield
    finally:
        inspect.getfile = told
