"""Looks at an installation and says what it finds, one sentence each. Imports no torch: a child process does.

It makes nothing: neither a folder nor a database that was not there.
"""

import http.client
import json
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from urllib.parse import urlsplit

import psutil
import sqlalchemy as sa

from pipelines.spec.errors import StudioError
from studio import __version__, environment
from studio.database import HEAD, Database, image_table, job_table, wal_is_safe
from studio.settings import Settings
from studio.storage import server_lock, worker_lock
from studio.store import find_model, installed_models

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "huggingface_hub",
    "gradio",
    "fastapi",
    "sqlalchemy",
    "pydantic",
    "pillow",
    "numpy",
)
MIN_FREE_BYTES = 2**30
DEVICE_SECONDS = 120
ANSWER_SECONDS = 3

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
    journal = (
        "the journal is WAL"
        if wal_is_safe(sqlite3.sqlite_version_info)
        else "the journal is DELETE and not the quicker WAL, because WAL can damage a database in SQLite before 3.51.3 "
        "(3.50.7 and 3.44.6 apart)"
    )
    yield Finding("sqlite", f"{sqlite3.sqlite_version}; {journal}")


def _devices(settings: Settings) -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    yield Finding("memory", f"{_gib(memory.available)} of {_gib(memory.total)} free")
    if settings.engine == "fake":
        yield Finding("device", "not looked at: the fake engine needs none")
        return
    try:
        answer = subprocess.run(
            [sys.executable, "-P", "-c", _DEVICE_QUESTION],
            env=environment.of_child(),
            capture_output=True,
            text=True,
            timeout=DEVICE_SECONDS,
            check=True,
        )
        devices: list[tuple[str, str, int, int]] = json.loads(answer.stdout)
    except subprocess.TimeoutExpired:
        yield Finding("device", f"torch did not start within {DEVICE_SECONDS} seconds; look at the drivers", False)
        return
    except (subprocess.CalledProcessError, ValueError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        yield Finding("device", f"torch does not start: {reason}; run `python launch.py` again", is_fine=False)
        return
    for name, label, free, total in devices:
        yield Finding("device", f"{name} ({label}), {_gib(free)} of {_gib(total)} free")
    known = {"auto", *(name for name, *_ in devices), *(name.partition(":")[0] for name, *_ in devices)}
    for name in set(settings.devices) - known:
        there = ", ".join(name for name, *_ in devices)
        yield Finding("device", f"{name} is set as a device but is not there; there are auto, {there}", is_fine=False)


def _disk(settings: Settings) -> Iterator[Finding]:
    outputs = settings.outputs_dir.absolute()
    folder = next(path for path in (outputs, *outputs.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    text = f"{outputs}, {_gib(free)} free" + ("" if folder == outputs else ", will be made when first needed")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        yield Finding("outputs", f"{folder} is not a folder that can be written; choose other --outputs", False)
    elif free < MIN_FREE_BYTES:
        yield Finding("outputs", f"{text}; make room, pictures and the database need it", is_fine=False)
    else:
        yield Finding("outputs", text)


def _database(settings: Settings) -> Iterator[Finding]:
    try:
        with closing(Database(settings.database_url, is_only_read=True)) as database:
            yield Finding("database", f"{database.place}, {_contents(database)}")
    except StudioError as error:
        yield Finding("database", str(error), is_fine=False)


def _contents(database: Database) -> str:
    match database.revision() if database.exists() else None:
        case None:
            return "will be made when first needed"
        case str(older) if older != HEAD:
            return f"whole; its tables are of an older version ({older}) and will be changed when first needed ({HEAD})"
    with database.read() as connection:
        jobs, images = (
            connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
            for table in (job_table, image_table)
        )
    return f"whole: {jobs} jobs, {images} pictures"


def _models(settings: Settings) -> Iterator[Finding]:
    names = [model.name for model in installed_models(settings.models_dir)]
    yield Finding(
        "models", ", ".join(names) or f"none; copy a diffusers folder into {settings.models_dir}", bool(names)
    )
    for folder in sorted(path.parent.name for path in settings.models_dir.glob("*/model_index.json")):
        if folder not in names:
            yield Finding("models", f"{folder} cannot be used: {_why_unusable(folder, settings)}", is_fine=False)
    if names and settings.default_model not in names:
        yield Finding("models", f"the default model {settings.default_model!r} is not among them", is_fine=False)


def _why_unusable(name: str, settings: Settings) -> str:
    try:
        return f"{find_model(name, settings.models_dir).name} is hidden by another model of that name"
    except StudioError as error:
        return str(error)


def _server(settings: Settings) -> Iterator[Finding]:
    locks = settings.outputs_dir / "run"
    lock = server_lock(settings)
    if not locks.is_dir() or not lock.is_held():
        yield Finding("server", "does not run; `studio serve` starts it")
        return
    holder = lock.holder()
    url = str(holder.get("url", settings.url))
    workers = [device for device in settings.devices if worker_lock(settings, device).is_held()]
    text = f"runs at {url} (process {holder.get('pid', 'unknown')}); workers alive: {', '.join(workers) or 'none'}"
    if _answers(url):
        yield Finding("server", text)
    else:
        yield Finding("server", f"{text}; but it does not answer: stop that process and start it again", False)


def _answers(url: str) -> bool:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _exposure(settings: Settings) -> Iterator[Finding]:
    is_private = settings.is_private
    reach = (
        "this machine only"
        if is_private
        else "everybody who can reach this machine, without a password; the server refuses, choose --host 127.0.0.1"
    )
    yield Finding("exposure", f"with these settings a server listens on {settings.address}: {reach}", is_private)
    loud = [f"{name}={os.environ.get(name)}" for name, value in environment.SILENT.items() if _differs(name, value)]
    if loud:
        yield Finding("leaves", f"what is sent is not known, for you have set {', '.join(loud)}; unset them", False)
    else:
        switches = ", ".join(f"{name}={value}" for name, value in environment.SILENT.items())
        yield Finding("leaves", f"nothing leaves this machine; set are {switches}")
    for name in _given_unsafe():
        yield Finding("variables", f"{name} is set and opens a door; the studio ignores it, unset it", is_fine=False)


def _differs(name: str, value: str) -> bool:
    """Whether a switch means something else than it should; Gradio itself writes "True" where "1" stood."""
    return _meaning(os.environ.get(name, "")) != _meaning(value)


def _meaning(value: str) -> str:
    return {"true": "1", "yes": "1", "on": "1"}.get(value.lower(), value.lower())


def _given_unsafe() -> list[str]:
    """Return the unsafe variables this process was started with; `environment.silence` has removed them since."""
    try:
        given = psutil.Process().environ()
    except (psutil.Error, OSError):
        return []
    return [name for name in environment.UNSAFE if name in given]


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


_LOOKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _versions,
    _devices,
    _disk,
    _database,
    _models,
    _server,
    _exposure,
)
