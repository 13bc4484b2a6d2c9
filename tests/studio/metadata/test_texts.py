"""Where texts are kept in the files of other programs, written here byte by byte."""

import gzip
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import piexif
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.spec.errors import NotFound
from studio import metadata
from studio.metadata.texts import decode_comment

PICTURE = Image.new("RGB", (16, 16), "teal")
INFOTEXT = "Straße, 船 🚀\nNegative prompt: ü\nSteps: 20, Sampler: Euler, Seed: 1, Size: 64x64"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def itxt(text: str, *, packed: bool) -> bytes:
    data = zlib.compress(text.encode()) if packed else text.encode()
    return chunk(b"iTXt", b"parameters\0" + bytes([packed, 0]) + b"\0\0" + data)


TEXT_CHUNKS = {
    "tEXt": chunk(b"tEXt", b"parameters\0" + "Stra\xdfe".encode("latin-1")),
    "zTXt": chunk(b"zTXt", b"parameters\0\0" + zlib.compress("Stra\xdfe".encode("latin-1"))),
    "iTXt": itxt("Straße", packed=False),
    "packed iTXt": itxt("Straße", packed=True),
}


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("text", TEXT_CHUNKS.values(), ids=TEXT_CHUNKS)
def test_png_texts_of_every_kind_before_and_after_the_pixels(text: bytes, before: bool, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    PICTURE.save(buffer, format="PNG")
    data = buffer.getvalue()
    at = data.index(b"IDAT" if before else b"IEND") - 4
    (tmp_path / "picture.png").write_bytes(data[:at] + text + data[at:])

    assert metadata.read_texts(tmp_path / "picture.png") == {"parameters": "Straße"}


@pytest.mark.parametrize("output_format", ["jpeg", "webp", "avif"])
@pytest.mark.parametrize(
    "comment",
    [
        b"UNICODE\0" + INFOTEXT.encode("utf-16-be"),
        b"UNICODE\0" + INFOTEXT.encode("utf-16-le"),
        b"UNICODE\0" + INFOTEXT.encode("utf-16"),
        b"UNICODE\0\xfe\xff" + INFOTEXT.encode("utf-16-be"),
        bytes(8) + INFOTEXT.encode(),
        b"ASCII\0\0\0" + INFOTEXT.encode(),
    ],
    ids=["big endian", "little endian", "mark, little", "mark, big", "no code", "ASCII with UTF-8 in it"],
)
def test_comments_in_exif(comment: bytes, output_format: str, tmp_path: Path) -> None:
    exif = piexif.dump({"Exif": {piexif.ExifIFD.UserComment: comment}})
    PICTURE.save(tmp_path / "picture", format=output_format, exif=exif)

    assert metadata.read_texts(tmp_path / "picture") == {"parameters": INFOTEXT}


@pytest.mark.parametrize(
    ("comment", "little_endian", "text"),
    [
        (b"UNICODE\0" + "船舶".encode("utf-16-be"), False, "船舶"),
        (b"UNICODE\0" + "船舶".encode("utf-16-le"), True, "船舶"),
        (b"UNICODE\0" + "ab\0\0".encode("utf-16-be"), False, "ab"),
        (b"JIS\0\0\0\0\0" + "船".encode("iso2022_jp"), False, "船"),
        (b"JIS\0\0\0\0\0" + "船".encode("shift_jis"), False, "船"),
        (b"ASCII\0\0\0ab\0", False, "ab"),
        (bytes(64), False, None),
        (b"\1\2\3\0\xff\xfe camera", False, None),
        (b"", False, None),
        (b"UNICODE\0", False, ""),
    ],
)
def test_encodings_of_comments(comment: bytes, little_endian: bool, text: str | None) -> None:
    assert decode_comment(comment, little_endian=little_endian) == text


@hypothesis_settings(max_examples=100)
@given(st.binary(max_size=60) | st.binary(max_size=20).map(lambda data: b"UNICODE\0" + data))
def test_any_comment_is_a_text_or_a_value_error(comment: bytes) -> None:
    try:
        assert isinstance(decode_comment(comment), str | None)
    except ValueError:
        assert comment[:8] in {b"UNICODE\0", b"ASCII\0\0\0", b"JIS\0\0\0\0\0"}


def test_comfyui_in_webp(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0110] = 'prompt:{"1": {}}'
    exif[0x010F] = 'workflow:{"nodes": []}'
    exif[0x010E] = 'more:{"x": 1}'
    PICTURE.save(tmp_path / "picture.webp", exif=exif)

    texts = metadata.read_texts(tmp_path / "picture.webp")

    assert texts == {"prompt": '{"1": {}}', "workflow": '{"nodes": []}', "more": '{"x": 1}'}


def test_a_camera_is_no_program(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0110], exif[0x010F], exif[0x010E] = "EOS 5D", "Canon", "my cat"
    PICTURE.save(tmp_path / "photo.jpg", exif=exif)

    texts = metadata.read_texts(tmp_path / "photo.jpg")

    assert texts == {"Model": "EOS 5D", "Make": "Canon", "ImageDescription": "my cat"}
    with pytest.raises(NotFound):
        metadata.import_request(texts)


@pytest.mark.parametrize("comment", [INFOTEXT.encode(), "Straße\nSteps: 1, Seed: 2, Size: 8x8".encode("latin-1")])
def test_the_comment_of_a_gif(comment: bytes, tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "picture.gif", comment=comment)

    assert metadata.read_texts(tmp_path / "picture.gif")["parameters"].startswith("Straße")


def hidden(text: bytes, signature: bytes, *, length: int | None = None) -> Image.Image:
    data = signature + struct.pack(">I", 8 * len(text) if length is None else length) + text
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
    alpha = np.full(384 * 256, 254, dtype=np.uint8)
    alpha[: len(bits)] |= bits
    image = Image.new("RGBA", (384, 256), "teal")
    image.putalpha(Image.fromarray(np.ascontiguousarray(alpha.reshape(384, 256).T)))
    return image


@pytest.mark.parametrize(
    ("text", "signature", "texts"),
    [
        (gzip.compress(INFOTEXT.encode()), b"stealth_pngcomp", {"parameters": INFOTEXT}),
        (INFOTEXT.encode(), b"stealth_pnginfo", {"parameters": INFOTEXT}),
        (gzip.compress(b'{"Software": "NovelAI", "n": []}'), b"stealth_pngcomp", {"Software": "NovelAI"}),
        (b"", b"stealth_pngcamp", {}),
    ],
)
def test_texts_hidden_in_alpha(text: bytes, signature: bytes, texts: dict[str, str], tmp_path: Path) -> None:
    hidden(text, signature).save(tmp_path / "picture.png")

    assert metadata.read_texts(tmp_path / "picture.png") == texts


@pytest.mark.parametrize(
    "image",
    [
        hidden(gzip.compress(bytes(2**23)), b"stealth_pngcomp"),
        hidden(gzip.compress(b"x" * 99)[:20], b"stealth_pngcomp"),
        hidden(b"no gzip", b"stealth_pngcomp", length=2**32 - 1),
        hidden(b"\xff\xfe", b"stealth_pnginfo"),
    ],
    ids=["bomb", "cut short", "no gzip", "no text"],
)
def test_damaged_hidden_texts_are_told_in_a_sentence(image: Image.Image, tmp_path: Path) -> None:
    image.save(tmp_path / "picture.png")

    with pytest.raises(NotFound, match="is not a readable PNG"):
        metadata.read_texts(tmp_path / "picture.png")


def test_a_text_chunk_that_unfolds_to_gigabytes_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    PICTURE.save(buffer, format="PNG")
    data = buffer.getvalue()
    bomb = chunk(b"zTXt", b"parameters\0\0" + zlib.compress(bytes(2**25)))
    (tmp_path / "picture.png").write_bytes(data[:33] + bomb + data[33:])

    with pytest.raises(NotFound):
        metadata.read_texts(tmp_path / "picture.png")
