"""The mark that a picture was generated, and copies that say nothing."""

import io
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import piexif
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from pipelines.spec.errors import InvalidRequest, NotFound
from studio import metadata
from tests.studio.metadata.test_metadata import FORMATS, record

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8))
PROPERTY = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
SOURCES = "http://cv.iptc.org/newscodes/digitalsourcetype/"


def saved(path: Path, output_format: str, **options: object) -> Path:
    fields = options.pop("fields", {})
    with path.open("wb") as file:
        metadata.save(NOISE, file, record(**fields), output_format=output_format, **options)  # type: ignore[arg-type]
    return path


def xmp_of(path: Path) -> bytes | None:
    with Image.open(path) as image:
        image.load()
        packet = image.info.get("xmp")
    return packet.encode() if isinstance(packet, str) else packet


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({}, "trainedAlgorithmicMedia"),
        ({"init_image": "a" * 64}, "trainedAlgorithmicMedia"),
        ({"init_image": "a" * 64, "mask_image": "b" * 64}, "compositeWithTrainedAlgorithmicMedia"),
        ({"init_image": "a" * 64, "outpaint_left": 8}, "compositeWithTrainedAlgorithmicMedia"),
    ],
)
def test_pictures_say_in_iptcs_words_that_they_were_generated(
    fields: dict[str, str], kind: str, output_format: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "picture", output_format, fields=fields)

    packet = xmp_of(path)

    assert packet is not None
    assert ElementTree.fromstring(packet.decode()).findtext(f".//{PROPERTY}") == SOURCES + kind
    assert packet.decode() == metadata.read_texts(path)["XML:com.adobe.xmp"]


@pytest.mark.parametrize("output_format", FORMATS)
def test_the_mark_can_be_left_out(output_format: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "picture", output_format, provenance_mark=False)

    assert xmp_of(path) is None
    assert metadata.read(path) == record()


@pytest.mark.parametrize("output_format", FORMATS)
def test_a_stripped_copy_says_nothing_and_looks_the_same(output_format: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "picture", output_format)

    metadata.strip(path, tmp_path / "bare")

    assert metadata.read_texts(tmp_path / "bare") == {}
    for word in (b"boat", b"studio", b"iptc", b"xpacket", b"Studio", b"Exif"):
        assert word not in (tmp_path / "bare").read_bytes()
    with Image.open(path) as before, Image.open(tmp_path / "bare") as after:
        difference = np.abs(np.asarray(before, dtype=int) - np.asarray(after, dtype=int)).max()
        assert after.format == before.format
        assert not after.getexif()
    assert difference <= (40 if output_format == "avif" else 0)  # AVIF of pure noise, coded a second time


@pytest.fixture(scope="module")
def profile() -> bytes:
    """A colour profile; it says the second in which it was made."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_colour_profiles_stay(output_format: str, profile: bytes, tmp_path: Path) -> None:
    NOISE.save(tmp_path / "picture", format=output_format, icc_profile=profile, exif=_camera(1))

    metadata.strip(tmp_path / "picture", tmp_path / "bare")

    with Image.open(tmp_path / "bare") as image:
        assert image.info["icc_profile"] == profile
    assert b"Canon" not in (tmp_path / "bare").read_bytes()


def _camera(orientation: int) -> bytes:
    tags = {piexif.ImageIFD.Make: b"Canon", piexif.ImageIFD.Orientation: orientation}
    return bytes(piexif.dump({"0th": tags, "GPS": {piexif.GPSIFD.GPSLatitudeRef: b"N"}}))


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_a_turned_photo_stays_turned(output_format: str, tmp_path: Path) -> None:
    NOISE.save(tmp_path / "picture", format=output_format, exif=_camera(6))

    metadata.strip(tmp_path / "picture", tmp_path / "bare")

    with Image.open(tmp_path / "bare") as image:
        assert dict(image.getexif()) == {0x0112: 6}


def test_progressive_jpeg_with_restarts_comments_and_a_trailer(tmp_path: Path) -> None:
    big = NOISE.resize((400, 300))
    big.save(tmp_path / "picture", format="JPEG", progressive=True, comment="secret", restart_marker_rows=1)
    with (tmp_path / "picture").open("ab") as file:
        file.write(b"secret trailer")

    metadata.strip(tmp_path / "picture", tmp_path / "bare")

    assert b"secret" not in (tmp_path / "bare").read_bytes()
    with Image.open(tmp_path / "picture") as before, Image.open(tmp_path / "bare") as after:
        assert before.tobytes() == after.tobytes()


@pytest.mark.parametrize("output_format", ["png", "webp"])
def test_animations_and_transparency_stay(output_format: str, tmp_path: Path) -> None:
    frames = [Image.new("RGBA", (32, 32), (9 * n, 0, 0, 128)) for n in range(3)]
    options = {"pnginfo": _chunks()} if output_format == "png" else {"exif": _camera(1), "lossless": True}
    frames[0].save(
        tmp_path / "picture", format=output_format, save_all=True, append_images=frames[1:], duration=50, **options
    )

    metadata.strip(tmp_path / "picture", tmp_path / "bare")

    with Image.open(tmp_path / "picture") as before, Image.open(tmp_path / "bare") as after:
        assert after.n_frames == before.n_frames == 3  # type: ignore[attr-defined]
        assert after.convert("RGBA").tobytes() == before.convert("RGBA").tobytes()
    assert metadata.read_texts(tmp_path / "bare") == {}


def _chunks() -> PngInfo:
    chunks = PngInfo()
    chunks.add_text("parameters", "secret")
    return chunks


@pytest.mark.parametrize("output_format", FORMATS)
def test_damaged_files_are_refused_in_a_sentence(output_format: str, tmp_path: Path) -> None:
    whole = saved(tmp_path / "picture", output_format).read_bytes()

    for length in (0, 4, 20, len(whole) // 2, len(whole) - 30):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(NotFound, match="picture"):
            metadata.strip(tmp_path / "cut", tmp_path / "bare")


def test_strip_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    path = saved(tmp_path / "picture.png", "png")
    NOISE.save(tmp_path / "picture.gif")

    with pytest.raises(InvalidRequest, match="onto itself"):
        metadata.strip(path, path)
    with pytest.raises(NotFound, match="there is no file"):
        metadata.strip(tmp_path / "gone", tmp_path / "bare")
    with pytest.raises(NotFound, match="is not a PNG, JPEG, WebP or AVIF picture"):
        metadata.strip(tmp_path / "picture.gif", tmp_path / "bare")
    assert metadata.read(path) == record()


def test_flipped_bytes_are_stripped_or_refused(tmp_path: Path) -> None:
    for output_format in FORMATS:
        whole = saved(tmp_path / "picture", output_format).read_bytes()
        for seed in range(60):
            random = np.random.default_rng(seed)
            data = bytearray(whole)
            for at in random.integers(0, len(data), 3):
                data[at] ^= int(random.integers(1, 256))
            (tmp_path / "flipped").write_bytes(data)
            try:
                metadata.strip(tmp_path / "flipped", tmp_path / "bare")
            except NotFound:
                continue
            assert (tmp_path / "bare").stat().st_size > 0


def test_the_mark_leaves_the_record_alone() -> None:
    with_mark, without = io.BytesIO(), io.BytesIO()
    for buffer, mark in ((with_mark, True), (without, False)):
        metadata.save(NOISE, buffer, record(), output_format="png", provenance_mark=mark)

    assert Image.open(with_mark).tobytes() == Image.open(without).tobytes()
