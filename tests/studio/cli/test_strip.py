"""`studio strip`, the setting provenance_mark, and what the gallery gives without metadata."""

from pathlib import Path

import pytest

from studio import Settings, Studio
from studio.metadata import read_texts
from studio.metadata.texts import XMP
from tests.studio.cli.conftest import Run


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp", "avif"])
def test_the_copy_says_nothing(studio: Studio, run: Run, output_format: str) -> None:
    (made,) = studio.generate("a boat", output_format=output_format, progress=False)
    bare = studio.settings.home / "new" / f"bare{made.path.suffix}"

    assert run("strip", str(made.path), str(bare)).code == 0

    assert read_texts(bare) == {}
    assert read_texts(made.path) != {}


def test_nothing_is_overwritten_unasked(studio: Studio, run: Run, tmp_path: Path) -> None:
    (made,) = studio.generate("a boat", progress=False)
    before = made.path.read_bytes()
    (tmp_path / "there.png").write_bytes(b"mine")

    itself = run("strip", str(made.path), str(made.path), "--overwrite")
    taken = run("strip", str(made.path), str(tmp_path / "there.png"))
    folder = run("strip", str(made.path), str(tmp_path))

    assert [done.code for done in (itself, taken, folder)] == [2, 2, 2]
    assert "is the picture itself; name another file" in itself.err
    assert "exists already; choose another name or give --overwrite" in taken.err
    assert "is a folder; name a file" in folder.err
    assert (made.path.read_bytes(), (tmp_path / "there.png").read_bytes()) == (before, b"mine")
    assert run("strip", str(made.path), str(tmp_path / "there.png"), "--overwrite").code == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "there is no file"), (b"hello", "is not a PNG, JPEG, WebP or AVIF picture"), (b"", "is not a PNG")],
)
def test_what_is_no_picture_is_told(run: Run, tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "picture.png").write_bytes(content)

    done = run("strip", str(tmp_path / "picture.png"), str(tmp_path / "bare.png"))

    assert (done.code, message in done.err) == (2, True)
    assert not (tmp_path / "bare.png").exists()


def test_the_mark_is_a_setting(settings: Settings, run: Run) -> None:
    with Studio(settings.model_copy(update={"provenance_mark": False})) as silent, Studio(settings) as studio:
        (unmarked,) = silent.generate("a boat", progress=False)
        (marked,) = studio.generate("a boat", progress=False)
        larger = silent.upscale(marked, progress=False)

    assert XMP not in read_texts(unmarked.path)
    assert XMP in read_texts(marked.path)
    assert XMP not in read_texts(larger.path)
    path = run("generate", "a boat", "--provenance-mark", "false").out.split()[-1]
    assert XMP not in read_texts(Path(path))
    assert run("generate", "a boat", "--provenance-mark", "perhaps").code == 2


def test_the_help_of_overwrite_names_what_is_replaced(run: Run) -> None:
    text = run("strip", "--help").out

    assert "--overwrite" in text
    assert "Replace OUTPUT if it is there." in text
    assert "--output" not in text
