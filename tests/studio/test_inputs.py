"""Inputs are sane pictures under the hash of their bytes."""

import io
import shutil
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.spec.errors import InvalidRequest, NotFound
from studio.datasets import DataSets
from studio.inputs import InputStore


def picture(size: tuple[int, int] = (32, 24), mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=file_format, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture
def inputs(tmp_path: Path) -> InputStore:
    return InputStore(tmp_path / "inputs")


@pytest.mark.parametrize(
    ("file_format", "lossless"), [("PNG", True), ("WEBP", False), ("JPEG", False), ("AVIF", False)]
)
def test_a_picture_comes_back_as_it_was_given(file_format: str, lossless: bool, inputs: InputStore) -> None:
    data = encoded(picture(), file_format)
    name = inputs.put(data)
    assert inputs.path(name).read_bytes() == data
    assert inputs.size(name) == inputs.open(name).size == (32, 24)
    assert not lossless or np.array_equal(np.asarray(inputs.open(name)), np.asarray(picture()))


def test_the_same_bytes_have_the_same_id_whatever_they_are_called(inputs: InputStore, tmp_path: Path) -> None:
    data = encoded(picture(), "JPEG")
    (tmp_path / "renamed.png").write_bytes(data)
    assert inputs.put(data) == inputs.put(tmp_path / "renamed.png", field="mask_image")
    assert len(list((tmp_path / "inputs").iterdir())) == 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_a_pillow_image_is_stored_without_loss(mode: str, inputs: InputStore) -> None:
    image = picture(mode=mode)
    back = inputs.open(inputs.put(image))
    assert np.array_equal(np.asarray(back.convert("RGBA")), np.asarray(image.convert("RGBA")))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "HSV", "F"])
def test_a_pillow_image_that_png_cannot_hold_is_refused_with_the_way_out(mode: str, inputs: InputStore) -> None:
    image = Image.new(mode, (32, 24))
    with pytest.raises(InvalidRequest, match=rf"init_image: .*{mode}.*convert\('RGB'\)"):
        inputs.put(image)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_photo_is_opened_upright(orientation: int, inputs: InputStore) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    name = inputs.put(encoded(picture((32, 24)), "JPEG", exif=exif))
    assert inputs.size(name) == ((32, 24) if orientation == 3 else (24, 32))


DAMAGED_EXIF = {
    "no TIFF": b"Exif\0\0M\x7f\0*\0\0\0\x08",
    # orientation 6, and a tag whose number is a text: Pillow turns the picture, and cannot write the EXIF again
    "a text for a number": b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
    b"\x01\x03\0\x02\0\0\0\x04abc\0\0\0\0\0",
}


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("exif", DAMAGED_EXIF.values(), ids=DAMAGED_EXIF)
def test_damaged_exif_says_nothing_and_the_pixels_are_good(exif: bytes, file_format: str, inputs: InputStore) -> None:
    name = inputs.put(encoded(picture((32, 24)), file_format, exif=exif))
    assert sorted(inputs.size(name)) == [24, 32]


def test_an_input_whose_file_was_damaged_says_so_whatever_is_asked(inputs: InputStore) -> None:
    name = inputs.put(picture())
    inputs.path(name).write_bytes(b"junk")
    for ask in (inputs.open, inputs.size, inputs.kind):
        with pytest.raises(NotFound, match=r"is damaged .*give the picture again"):
            ask(name)


def test_the_size_of_an_input_is_looked_at_once_but_never_told_of_one_that_is_gone(inputs: InputStore) -> None:
    name = inputs.put(picture())
    size = inputs.size(name)
    inputs.path(name).write_bytes(b"junk")
    assert inputs.size(name) == size
    inputs.path(name).unlink()
    with pytest.raises(NotFound, match="there is no stored input"):
        inputs.size(name)


def test_a_sixteen_bit_picture_keeps_its_greys(inputs: InputStore) -> None:
    ramp = np.tile(np.linspace(0, 65535, 32).astype(np.uint16), (24, 1))
    upright = inputs.open(inputs.put(encoded(Image.fromarray(ramp), "PNG"))).convert("RGB")
    expected = np.round(ramp / 257)
    assert np.abs(np.asarray(upright)[..., 0] - expected).max() <= 1


REFUSED: list[tuple[str, bytes, str]] = [
    ("empty", b"", "init_image is not a PNG, JPEG, WebP or AVIF image"),
    ("text", b"hello", "init_image is not a PNG, JPEG, WebP or AVIF image"),
    (
        "svg",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='64' height='64'/>",
        "is not a PNG, JPEG, WebP or AVIF image",
    ),
    ("gif", encoded(picture(), "GIF"), "is not a PNG, JPEG, WebP or AVIF image"),
    ("bmp named png", encoded(picture(), "BMP"), "is not a PNG, JPEG, WebP or AVIF image"),
    ("truncated png", encoded(picture((200, 200)), "PNG")[:-40000], "init_image is damaged: "),
    ("truncated jpeg", encoded(picture((200, 200)), "JPEG")[:-4000], "init_image is damaged: "),
    ("truncated webp", encoded(picture((200, 200)), "WEBP")[:-4000], "init_image is (damaged|not a PNG)"),
    ("truncated avif", encoded(picture((200, 200)), "AVIF")[:-4000], "init_image is (damaged|not a PNG)"),
    ("long avif", encoded(picture((16400, 8)), "AVIF", speed=10), "sides must be 8 to 16384 pixels, got 16400×8"),
    ("png header only", encoded(picture(), "PNG")[:20], "init_image is (damaged|not a PNG)"),
    ("one pixel", encoded(picture((1, 1)), "PNG"), "sides must be 8 to 16384 pixels, got 1×1"),
    ("7 rows", encoded(picture((32, 7)), "PNG"), "sides must be 8 to 16384 pixels, got 32×7"),
    ("long side", png_header(20000, 8), "sides must be 8 to 16384 pixels, got 20000×8"),
    ("65 megapixels", png_header(13000, 5000), "at most 64 megapixels, got 13000×5000; scale it down"),
    ("bomb", png_header(100000, 100000), "init_image is damaged: |sides must be"),
    ("overflow", png_header(2**31 - 1, 2**31 - 1), "init_image is damaged: |sides must be"),
    ("no pixels", png_header(64, 64), "init_image is damaged: "),
    ("too many bytes", b"\x89PNG\r\n\x1a\n" + bytes(33 * 2**20), "at most 32 MiB, got 33.0 MiB; save it smaller"),
]


@pytest.mark.parametrize(("data", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_is_no_sane_picture_is_refused(data: bytes, message: str, inputs: InputStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        inputs.put(data)
    assert caught.value.field == "init_image"
    assert not (tmp_path / "inputs").exists()


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "AVIF"])
def test_a_picture_with_flipped_bytes_is_a_picture_or_refused(file_format: str, inputs: InputStore) -> None:
    whole = encoded(picture(), file_format)
    for seed in range(150):
        random = np.random.default_rng(seed)
        data = bytearray(whole)
        for at in random.integers(0, len(data), 4):
            data[at] ^= int(random.integers(1, 256))
        with suppress(InvalidRequest):
            assert min(inputs.size(inputs.put(bytes(data)))) >= 8


def test_a_file_that_cannot_be_read_is_refused(inputs: InputStore, tmp_path: Path) -> None:
    for path in (tmp_path / "missing.png", tmp_path):
        with pytest.raises(InvalidRequest, match=f"mask_image: cannot read {path}: "):
            inputs.put(path, field="mask_image")


@pytest.mark.parametrize(
    "input_id", ["", ".", "../studio.db", "/etc/passwd", "a" * 63, "A" * 64, "g" * 64, "a" * 64 + "\n", "a\0", "\udcff"]
)
def test_an_id_is_a_hash_and_never_a_path(input_id: str, inputs: InputStore) -> None:
    with pytest.raises(NotFound, match="there is no stored input"):
        inputs.path(input_id)
    with pytest.raises(NotFound):
        inputs.open(input_id)


def test_many_uploads_of_one_picture_at_once_all_succeed(inputs: InputStore, tmp_path: Path) -> None:
    data = encoded(picture((400, 400)), "PNG")
    start = threading.Barrier(8)

    def upload(_: int) -> str:
        start.wait()
        return inputs.put(data)

    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            (name,) = set(pool.map(upload, range(8)))
            assert inputs.path(name).read_bytes() == data
            inputs.path(name).unlink()
    assert list((tmp_path / "inputs").iterdir()) == []


def test_a_data_set_that_many_make_at_once_is_whole_for_all(inputs: InputStore, tmp_path: Path) -> None:
    sets = DataSets(tmp_path / "datasets", inputs)
    captions = {inputs.put(Image.new("RGB", (16, 16), (red, 0, 0))): "red" for red in range(6)}
    start = threading.Barrier(4)

    def make(_: int) -> int:
        start.wait()
        return len(list(sets.put_inputs(captions).iterdir()))

    for _ in range(20):
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(make, range(4))) == {12}
        assert len(list((tmp_path / "datasets").iterdir())) == 1
        shutil.rmtree(tmp_path / "datasets")
