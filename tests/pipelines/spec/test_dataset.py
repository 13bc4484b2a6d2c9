"""Reading a data set: which captions belong to which pictures, and a sentence for every file that is not right."""

import io
import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from pipelines.spec.dataset import DataSet, Severity, read_dataset
from pipelines.spec.errors import InvalidRequest
from pipelines.spec.pictures import open_picture


def _picture(folder: Path, name: str, *, colour: str = "red", size: tuple[int, int] = (64, 48)) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(folder / name)


def _read(folder: Path, *, caption: str | None = None) -> DataSet:
    return read_dataset(folder, caption=caption, least_side=32)


def test_captions_stand_beside_pictures_in_metadata_or_are_the_common_one(tmp_path: Path) -> None:
    for index, name in enumerate(["a.png", "deep/b.png", "c.png"]):
        _picture(tmp_path, name, colour=["red", "green", "blue"][index])
    (tmp_path / "a.txt").write_text("a red\n picture ", encoding="utf-8")
    rows = [{"file_name": "deep/b.png", "text": "green"}, {"file_name": "a.png", "text": "the text file wins"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))

    read = _read(tmp_path, caption="any")

    assert [(each.path.name, each.caption) for each in read.examples] == [
        ("a.png", "a red picture"),
        ("c.png", "any"),
        ("b.png", "green"),
    ]
    assert (read.examples[0].width, read.examples[0].height) == (64, 48)
    assert read.findings == ()
    assert read.tag_frequency() == {"a red picture": 1, "any": 1, "green": 1}


def test_every_file_that_is_not_right_is_told(tmp_path: Path) -> None:
    _picture(tmp_path, "good.png")
    _picture(tmp_path, "same.png")
    _picture(tmp_path, "tiny.png", size=(64, 16))
    _picture(tmp_path, "silent.png", colour="blue")
    (tmp_path / "broken.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    Image.new("RGBA", (64, 64), (0, 0, 255, 0)).save(tmp_path / "clear.png")
    for name in ("good", "same", "tiny", "broken", "moving", "clear"):
        (tmp_path / f"{name}.txt").write_text(name)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "gone.png", "text": "x"}')

    read = _read(tmp_path)

    told = {finding.file: (finding.severity, finding.text) for finding in read.findings}
    assert told.keys() == {
        "broken.png",
        "clear.png",
        "moving.gif",
        "same.png",
        "silent.png",
        "tiny.png",
        "metadata.jsonl",
    }
    assert {name for name, (severity, _) in told.items() if severity is Severity.LEFT_OUT} == {
        "broken.png",
        "silent.png",
    }
    assert "cannot be read as a picture" in told["broken.png"][1]
    assert "write silent.txt beside it" in told["silent.png"][1]
    assert "the same pixels as good.png" in told["same.png"][1]
    assert "2 frames" in told["moving.gif"][1]
    assert "64×16" in told["tiny.png"][1]
    assert "gone.png" in told["metadata.jsonl"][1]
    assert [each.path.name for each in read.examples] == ["clear.png", "good.png", "moving.gif", "same.png", "tiny.png"]


def test_transparency_is_white_and_orientation_is_applied(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (0, 0, 255, 0)).save(tmp_path / "clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (8, 4), "red").save(tmp_path / "turned.jpg", exif=exif)

    assert open_picture(tmp_path / "clear.png").image.getpixel((0, 0)) == (255, 255, 255)
    assert open_picture(tmp_path / "turned.jpg").image.size == (4, 8)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "holds no pictures"),
        ("{", "line 1 is not JSON"),
        ("[]", "line 1 must hold a JSON object"),
        ('{"file_name": 1, "text": "x"}', "line 1: each line is"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path, content: str | None, sentence: str) -> None:
    if content is not None:
        _picture(tmp_path, "a.png")
        (tmp_path / "metadata.jsonl").write_text(content)

    with pytest.raises(InvalidRequest, match=sentence) as caught:
        _read(tmp_path, caption="x")

    assert caught.value.field == "data"


def test_a_folder_without_one_usable_picture_is_refused(tmp_path: Path) -> None:
    _picture(tmp_path, "a.png")

    with pytest.raises(InvalidRequest, match=r"none of the 1 pictures .* a\.png: has no caption"):
        _read(tmp_path)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"a.txt": "x" * 8001}, "left out: a.png: its caption has 8001 characters, and at most 8000"),
        ({"a.txt": "a\0b"}, "left out: a.png: its caption holds a NUL character at position 1"),
        ({"metadata.jsonl": r'{"file_name": "a.png", "text": "\ud800"}'}, "left out: a.png: its caption holds half"),
        ({"a.txt": " \n"}, "note: a.png: its caption is empty"),
        ({"a.TXT": "x", "b.txt": "x"}, "note: b.txt: belongs to no picture of its name"),
        ({"a.txt": "x", "b.heic": "x"}, "note: b.heic: is not read"),
        ({"a.txt": "x", "deep/metadata.jsonl": ""}, "note: deep/metadata.jsonl: is not read; it must stand in"),
    ],
)
def test_what_training_would_leave_unread_or_cut_is_told(tmp_path: Path, files: dict[str, str], told: str) -> None:
    _picture(tmp_path, "a.png")
    _picture(tmp_path, "good.png", colour="blue")
    for name, text in {**files, "good.txt": "good"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    (finding,) = _read(tmp_path).findings

    assert f"{finding.severity}: {finding}".startswith(told)


def test_a_blank_text_is_no_caption_where_there_is_a_better_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _picture(tmp_path, f"{name}.png", colour="red" if name == "a" else "blue")
        (tmp_path / f"{name}.txt").write_text("\n")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "b.png", "text": "blue"}')

    read = _read(tmp_path, caption="any")

    assert [each.caption for each in read.examples] == ["any", "blue"]
    assert read.findings == ()


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_of_grey_are_greys(tmp_path: Path, name: str) -> None:
    greys = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(greys).save(tmp_path / name)

    (example,) = _read(tmp_path, caption="x").examples

    assert np.array_equal(np.asarray(open_picture(example.path).image)[..., 0], np.round(greys / 257))


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_numbers_without_a_white_are_left_out(tmp_path: Path, kind: type) -> None:
    _picture(tmp_path, "good.png")
    Image.fromarray((np.eye(64) * 70000).astype(kind)).save(tmp_path / "a.tif")

    (finding,) = _read(tmp_path, caption="x").findings

    assert (finding.file, finding.severity) == ("a.tif", Severity.LEFT_OUT)
    assert "save it with 8 bits per channel" in finding.text


def test_a_picture_whose_every_pixel_is_opaque_is_not_called_transparent(tmp_path: Path) -> None:
    Image.new("RGBA", (64, 64), (0, 0, 255, 255)).save(tmp_path / "a.png")

    assert _read(tmp_path, caption="x").findings == ()


@pytest.mark.filterwarnings("ignore")  # Pillow's own, of damaged files
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif", "gif", "avif"])
def test_damaged_pictures_are_told_whatever_their_decoder_says(tmp_path: Path, suffix: str) -> None:
    random, exif, buffer = Random(0), Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3)).astype(np.uint8)
    options = {} if suffix in {"bmp", "gif", "tif"} else {"exif": exif}
    Image.fromarray(pixels).save(buffer, Image.registered_extensions()[f".{suffix}"], **options)
    _picture(tmp_path, "good.png")
    for number in range(60):
        damaged = bytearray(buffer.getvalue())
        for _ in range(random.choice([1, 5, 20])):
            damaged[random.randrange(min(len(damaged), random.choice([200, 10**9])))] = random.randrange(256)
        (tmp_path / f"{number}.{suffix}").write_bytes(damaged)

    read = _read(tmp_path, caption="x")

    left_out = {finding.file for finding in read.findings if finding.severity is Severity.LEFT_OUT}
    assert len(read.examples) + len(left_out) == 61
    assert left_out
