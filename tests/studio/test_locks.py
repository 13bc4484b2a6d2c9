"""Locks die with their holder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.spec.errors import StorageError
from studio.locks import ProcessLock


def test_a_lock_has_one_holder_and_a_note(tmp_path: Path) -> None:
    first, second = ProcessLock(tmp_path / "run" / "x.lock"), ProcessLock(tmp_path / "run" / "x.lock")
    assert not first.is_held()
    assert first.acquire(url="http://127.0.0.1:7860")
    assert not second.acquire()
    assert first.is_held()
    assert second.is_held()
    assert second.holder() == {"pid": os.getpid(), "url": "http://127.0.0.1:7860"}
    first.release()
    assert not second.is_held()
    assert second.acquire()
    second.release()


def test_the_kernel_frees_the_lock_of_a_killed_process(tmp_path: Path) -> None:
    script = f"""
import pathlib, sys
from studio.locks import ProcessLock
lock = ProcessLock(pathlib.Path({str(tmp_path / "x.lock")!r}))
print(lock.acquire(), flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"True\n"
        lock = ProcessLock(tmp_path / "x.lock")
        assert not lock.acquire()
        holder.kill()
        holder.wait()
        assert lock.acquire()
        lock.release()


def test_a_note_that_cannot_be_written_or_read_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.json").mkdir()
    lock = ProcessLock(tmp_path / "x.lock")
    assert lock.acquire(url="anything")
    assert lock.holder() == {}
    lock.release()


def test_a_lock_in_a_folder_that_cannot_be_made_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("I am in the way")
    with pytest.raises(StorageError, match=r"x\.lock"):
        ProcessLock(tmp_path / "run" / "x.lock").acquire()
