"""Writes are whole or nothing, and what dead processes leave is swept."""

import errno
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.spec.errors import StorageError
from studio.files import left_behind, publish, sweep, sweep_orphans


def test_publish_replaces_a_whole_file_by_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file"
    for content in (b"one", b"another"):
        publish(path, lambda file, content=content: file.write(content))
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ValueError("cannot encode"), KeyboardInterrupt()])
def test_a_write_that_breaks_leaves_the_old_file_and_nothing_else(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(file: io.BufferedIOBase) -> None:
        file.write(b"half")
        raise error

    with pytest.raises(StorageError if isinstance(error, OSError) else type(error)):
        publish(path, write)
    assert [child.name for child in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_a_folder_that_is_a_file_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "images").write_text("I am in the way")
    with pytest.raises(StorageError, match=r"cannot write picture.png to .*images"):
        publish(tmp_path / "images" / "today" / "picture.png", lambda file: file.write(b"x"))


def test_a_full_device_is_told_with_numbers(tmp_path: Path) -> None:
    def write(_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match=r"disk full: cannot write file to .* \(\d+\.\d MiB free\); free some space"):
        publish(tmp_path / "file", write)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (errno.ENOSPC, r"disk full: cannot write file to .* \(3.0 MiB needed, \d+\.\d MiB free\); free some space$"),
        (errno.EDQUOT, r"disk quota used up: cannot write file to .* \(3.0 MiB needed\); delete files of yours"),
        (errno.EFBIG, r"file too large: cannot write file to .* \(3.0 MiB needed\); .* `ulimit -f`"),
    ],
)
def test_each_way_to_have_no_room_is_told_in_its_own_words(code: int, sentence: str, tmp_path: Path) -> None:
    def write(_: object) -> None:
        raise OSError(code, os.strerror(code))

    with pytest.raises(StorageError, match=f"^{sentence}"):
        publish(tmp_path / "file", write, size=3 * 2**20)


def test_sweep_deletes_only_hidden_files_with_the_suffix(tmp_path: Path) -> None:
    for name in ("a/.x.cpu.tmp", "a/.y.cuda-0.tmp", "a/x.cpu.tmp", "b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    sweep(tmp_path, ".cpu.tmp")
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"a/.y.cuda-0.tmp", "a/x.cpu.tmp", "b.png"}


def test_the_folders_that_a_file_needs_are_as_durable_as_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.add(os.fstat(descriptor).st_ino))

    publish(tmp_path / "a" / "b" / "file", lambda file: file.write(b"x"))

    made = [tmp_path, tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "file"]
    assert {path.stat().st_ino for path in made} <= synced


def test_where_there_is_a_full_sync_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    asked: list[int] = []
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda _, command: asked.append(command))

    publish(tmp_path / "file", lambda file: file.write(b"x"))

    assert asked == [51, 51]


@pytest.mark.parametrize(
    ("is_alive", "age", "stays"), [(False, 7200, False), (False, 60, True), (True, 7200, True), (True, 60, True)]
)
def test_only_old_files_of_dead_processes_are_orphans(is_alive: bool, age: int, stays: bool, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    left = tmp_path / "today" / f".picture.png.{os.getpid() if is_alive else ended.pid}-7.tmp"
    left.parent.mkdir()
    left.touch()
    os.utime(left, (time.time() - age,) * 2)
    others = [tmp_path / name for name in ("picture.123-7.tmp", ".hidden.png", ".picture.png.cpu.tmp", "picture.png")]
    for other in others:
        other.touch()
        os.utime(other, (0, 0))

    sweep_orphans(tmp_path)

    assert left.exists() is stays
    assert all(other.exists() for other in others)


def test_a_killed_write_is_swept_when_it_is_old(tmp_path: Path) -> None:
    script = "import os, sys; from pathlib import Path; from studio.files import publish\n"
    script += "publish(Path(sys.argv[1]), lambda file: os.kill(os.getpid(), 9))"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "input")], check=False)
    (left,) = tmp_path.iterdir()
    os.utime(left, (0, 0))

    sweep_orphans(tmp_path)

    assert not left.exists()


def test_files_left_behind_tell_their_device(tmp_path: Path) -> None:
    for name in (".a.png.cpu.tmp", ".b.png.cuda-1.tmp", ".c.png.12-34.tmp", "d.png.mps.tmp"):
        (tmp_path / name).touch()

    assert left_behind(tmp_path) == {"cpu", "cuda:1"}
