"""What must be in the environment before gradio, huggingface_hub, transformers or diffusers are first imported, and
what a Python that the studio starts gets.

They read these variables at import. With them set, nothing leaves the machine; `HF_HUB_OFFLINE=0` is how a download
command opts out for its own process.
"""

import os
from pathlib import Path

SILENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_MCP_SERVER": "False",
    "GRADIO_RUN_HISTORY": "False",
    "GRADIO_SHARE": "False",
    "GRADIO_SSR_MODE": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "DIFFUSERS_DISABLE_REMOTE_CODE": "1",
    "DISABLE_SAFETENSORS_CONVERSION": "1",
    "DO_NOT_TRACK": "1",
    "PYDANTIC_DISABLE_PLUGINS": "__all__",
}
"""Set unless the user has set them."""

UNSAFE = ("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "GRADIO_VIBE_MODE", "GRADIO_ALLOWED_PATHS", "GRADIO_LOCAL_DEV_MODE")
"""Removed: each opens a door (pickle execution, code editing, foreign files)."""


def of_child() -> dict[str, str]:
    """Return the environment of a child started with `python -P`.

    -P keeps the current folder, where anybody's pydantic.py may lie, off its import path; PYTHONPATH leads it to this
    very studio, installed or not.
    """
    folders = [str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))}


def silence() -> None:
    """Set SILENT and remove UNSAFE in this process and its children."""
    for name, value in SILENT.items():
        os.environ.setdefault(name, value)
    for name in UNSAFE:
        os.environ.pop(name, None)
