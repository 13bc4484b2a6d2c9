"""Durable writes: a file appears whole or not at all; and what dead processes left half-written is swept away."""

import errno
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

import psutil

from pipelines.spec.errors import StorageError

fcntl = import_module("fcntl") if os.name != "nt" else None

ORPHAN_SECONDS = 3600


def publish(
    path: Path, write: Callable[[BinaryIO], object], *, temporary: str | None = None, size: int | None = None
) -> None:
    """Write a file so that it appears whole or not at all: temporary, fsync, rename, fsync of the folder.

    Args:
        path: the final name; an older file of that name is replaced.
        write: writes the content to a binary file.
        temporary: name of the temporary file in the same folder; must start with a dot.
        size: bytes of the content, where known; told when the disk is full.

    Raises:
        StorageError: with the numbers, when the disk refuses; nothing partial stays.
    """
    unfinished = path.with_name(temporary or f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        _make_folder(path.parent)
        try:
            with unfinished.open("wb") as file:
                write(file)
                file.flush()
                _sync(file.fileno())
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(disk_sentence(error, path, size=size)) from error


def disk_sentence(error: OSError, path: Path, *, size: int | None = None) -> str:
    """Say why a file could not be written, with the numbers and the way out.

    Args:
        error: what the system said.
        path: of the file.
        size: bytes that were to be written, where known.
    """
    needed = "" if size is None else f"{size / 2**20:.1f} MiB needed"
    refused = f"cannot write {path.name} to {path.parent}"
    match error.errno:
        case errno.ENOSPC:
            free = shutil.disk_usage(next(folder for folder in path.parents if folder.is_dir())).free
            numbers = ", ".join(filter(None, (needed, f"{free / 2**20:.1f} MiB free")))
            return f"disk full: {refused} ({numbers}); free some space"
        case errno.EDQUOT:  # the disk may have room enough, so its free space would mislead
            return f"disk quota used up: {refused}{needed and f' ({needed})'}; delete files of yours, or ask for more"
        case errno.EFBIG:
            limit = "the file system, or the limit that `ulimit -f` shows, allows no file of this size"
            return f"file too large: {refused}{needed and f' ({needed})'}; {limit}"
    return f"{refused}: {error.strerror or error}"


def _make_folder(folder: Path) -> None:
    """Make a folder and the parents it lacks, each durable in its own parent."""
    if not folder.exists():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable. Windows cannot open folders and does not need it."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    """Bring a file or folder to the disk. On macOS, fsync alone leaves it in the drive's own memory."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if fcntl and full is not None:
        with suppress(OSError):  # network drives do not know it
            fcntl.fcntl(descriptor, full)
            return
    os.fsync(descriptor)


def temporary_suffix(device: str) -> str:
    """Return how the temporary files of a device's worker end, so that the next worker can sweep them."""
    return f".{device.replace(':', '-')}.tmp"


def left_behind(folder: Path) -> set[str]:
    """Return the devices whose workers' temporary files lie in a folder's tree."""
    found = (re.search(r"\.([a-z]+(?:-\d+)?)\.tmp$", path.name) for path in folder.glob("**/.*.tmp"))
    return {re.sub(r"-(\d+)$", r":\1", match[1]) for match in found if match}


def sweep_orphans(folder: Path) -> None:
    """Delete the temporary files of processes that are gone, an hour after the last byte went into them.

    The name says whose a file is (see `publish`), but another machine, or a container, counts its processes anew.
    """
    for path in folder.glob("**/.*.tmp"):
        owner = re.search(r"\.(\d+)-\d+\.tmp$", path.name)
        with suppress(OSError):
            if owner and not psutil.pid_exists(int(owner[1])) and time.time() - path.stat().st_mtime > ORPHAN_SECONDS:
                path.unlink()


def sweep_old(folder: Path, *, seconds: float) -> None:
    """Delete the files of a folder's tree that have not changed for so long, and the folders that are empty then."""
    for path in sorted(folder.rglob("*"), reverse=True):  # what lies in a folder before the folder
        with suppress(OSError):
            if path.is_dir():
                path.rmdir()
            elif time.time() - path.stat().st_mtime > seconds:
                path.unlink()


def sweep(folder: Path, suffix: str) -> None:
    """Delete the temporary files that a dead process left: hidden files in the folder's tree with this suffix."""
    for path in folder.glob(f"**/.*{suffix}"):
        path.unlink(missing_ok=True)
