"""Looks at an installation and says what it finds, one sentence each. Imports no torch: a child process does."""

import json
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pipelines.spec.errors import StudioError
from studio import __version__, environment
from studio.database import Database, wal_is_safe
from studio.settings import Settings
from studio.storage import server_lock, worker_lock
from studio.store import installed_models

PACKAGES = ("torch", "diffusers", "transformers", "gradio", "huggingface_hub", "safetensors", "pillow", "sqlalchemy")
MIN_FREE_BYTES = 2**30
DEVICE_SECONDS = 120
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")

_DEVICE_QUESTION = """
import json
from pipelines.runtime.device import available_devices, describe_device
devices = [(name, describe_device(name)) for name in available_devices()]
print(json.dumps([(name, device.name, device.free_bytes, device.total_bytes) for name, device in devices]))
"""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    text: str
    is_fine: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return the finding as plain data."""
        return asdict(self)


def examine(settings: Settings) -> list[Finding]:
    """Return every finding, the harmless ones too."""
    return [finding for look in _LOOKS for finding in look(settings)]


def _versions(_: Settings) -> Iterator[Finding]:
    yield Finding("studio", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    for package in PACKAGES:
        try:
            yield Finding(package, version(package))
        except PackageNotFoundError:
            yield Finding(package, "is not installed; run `python launch.py` again", is_fine=False)
    journal = "WAL" if wal_is_safe(sqlite3.sqlite_version_info) else "DELETE (this SQLite has the WAL-reset bug)"
    yield Finding("sqlite", f"{sqlite3.sqlite_version}, journal {journal}")


def _devices(_: Settings) -> Iterator[Finding]:
    try:
        answer = subprocess.run(
            [sys.executable, "-c", _DEVICE_QUESTION], capture_output=True, text=True, timeout=DEVICE_SECONDS, check=True
        )
        for name, label, free, total in json.loads(answer.stdout):
            yield Finding("device", f"{name} ({label}), {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")
    except (subprocess.SubprocessError, ValueError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        yield Finding("device", f"torch does not start: {reason[-1] if reason else error}", is_fine=False)


def _disk(settings: Settings) -> Iterator[Finding]:
    folder = next(path for path in (settings.outputs_dir, *settings.outputs_dir.parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    text = f"{settings.outputs_dir}, {free / 2**30:.1f} GiB free"
    if not os.access(folder, os.W_OK):
        yield Finding("outputs", f"{text}, but {folder} cannot be written; choose another with STUDIO_OUTPUTS", False)
    elif free < MIN_FREE_BYTES:
        yield Finding("outputs", f"{text}; make room, pictures and the database need it", is_fine=False)
    else:
        yield Finding("outputs", text)


def _database(settings: Settings) -> Iterator[Finding]:
    try:
        settings.outputs_dir.mkdir(parents=True, exist_ok=True)
        Database(settings.database_url).close()
        yield Finding("database", f"{settings.database_url}, whole")
    except (StudioError, OSError) as error:
        yield Finding("database", str(error), is_fine=False)


def _models(settings: Settings) -> Iterator[Finding]:
    names = [model.name for model in installed_models(settings.models_dir)]
    yield Finding(
        "models", ", ".join(names) or f"none; copy a diffusers folder into {settings.models_dir}", bool(names)
    )
    if names and settings.default_model not in names:
        yield Finding("models", f"the default model {settings.default_model!r} is not installed", is_fine=False)


def _server(settings: Settings) -> Iterator[Finding]:
    lock = server_lock(settings)
    running = f"runs at {lock.holder().get('url', 'an unknown address')}" if lock.is_held() else "does not run"
    workers = [device for device in settings.devices if worker_lock(settings, device).is_held()]
    yield Finding("server", f"{running}; workers alive: {', '.join(workers) or 'none'}")


def _exposure(settings: Settings) -> Iterator[Finding]:
    is_private = settings.host in LOOPBACK
    reach = "this machine only" if is_private else "everybody who can reach this machine, without a password"
    yield Finding("exposure", f"the server listens on {settings.host}:{settings.port}: {reach}", is_fine=is_private)
    loud = [name for name, value in environment.SILENT.items() if os.environ.get(name) != value]
    if loud:
        yield Finding("telemetry", f"you have switched on: {', '.join(loud)}; unset them", is_fine=False)
    else:
        yield Finding("telemetry", f"nothing is sent: {len(environment.SILENT)} switches are set")


_LOOKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _versions,
    _devices,
    _disk,
    _database,
    _models,
    _server,
    _exposure,
)
