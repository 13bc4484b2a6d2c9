"""Every picture carries its record, natively and as A1111 infotext, and gives it back unchanged."""

import io
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import piexif
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipelines.spec.errors import InvalidRequest, NotFound
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import resolve
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.values import MAX_PROMPT_CHARACTERS
from studio import Settings, __version__, metadata
from studio.metadata import Record, a1111_keys, a1111_writing, import_request, native
from studio.storage import Storage
from tests.pipelines.spec.conftest import make_model
from tests.pipelines.spec.test_request import REQUESTS

FORMATS = ["png", "jpeg", "webp", "avif"]
PICTURE = Image.new("RGB", (64, 64), "teal")


def record(**fields: object) -> Record:
    asked = GenerationRequest.parse({"prompt": "a boat", "seed": 7, **fields})
    size = (512, 512) if asked.init_image else None
    return Record("0123456789abcdef", 3, 1.5, resolve(asked, make_model(), input_size=size)[0], {"engine": "test"})


def written(record: Record, output_format: str, path: Path) -> Path:
    with path.open("wb") as file:
        metadata.save(PICTURE, file, record, output_format=output_format)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("output_format", FORMATS)
@hypothesis_settings(max_examples=60)
@given(request=REQUESTS, provenance=st.dictionaries(st.text("ab_"), st.text("a\nü") | st.integers() | st.booleans()))
def test_a_record_survives_every_format(
    output_format: str, request: GenerationRequest, provenance: dict[str, str | int], tmp_path_factory: object
) -> None:
    path = _PATHS.setdefault("x", tmp_path_factory.mktemp("metadata") / "picture")  # type: ignore[attr-defined]
    with suppress(InvalidRequest):  # not every combination can run
        resolved = resolve(request, make_model(), input_size=(640, 480) if request.init_image else None)[0]
        made = Record("0123456789abcdef", 99, 1795422535.25, resolved, provenance)
        assert metadata.read(written(made, output_format, path)) == made
        assert metadata.disagreements(metadata.read_texts(path)) == ()
        start = resolved.prompt.strip().removeprefix("\ufeff")[:1]
        if not resolved.paints_nothing:
            assert metadata.read_texts(path)["parameters"].removeprefix("\ufeff").startswith(start)


_PATHS: dict[str, Path] = {}


def test_a_record_keeps_the_version_that_made_the_picture() -> None:
    old = record().to_json() | {"software": "Open Weights Studio 0.0.9"}

    assert Record.from_json(old).to_json() == old


@pytest.mark.parametrize("created_at", [-1.0, 253402214400.0, 2.0**39])
def test_a_record_of_no_time_that_can_be_shown_is_refused(created_at: float) -> None:
    with pytest.raises(ValueError, match="created_at"):
        Record.from_json(record().to_json() | {"created_at": created_at})


@pytest.mark.parametrize("output_format", FORMATS)
def test_the_pixels_of_png_are_untouched_and_of_others_nearly(output_format: str, tmp_path: Path) -> None:
    with Image.open(written(record(), output_format, tmp_path / "picture")) as image:
        difference = np.abs(np.asarray(image, dtype=int) - np.asarray(PICTURE, dtype=int)).max()
    assert difference <= (0 if output_format == "png" else 3)


STEPS = "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 7, Size: 512x512, Model: toy"
INIT = f"Init image hash: {'a' * 64}"
VERSION = f"Version: Open Weights Studio {__version__}"
TAIL = f"RNG: CPU, {VERSION}"
INFOTEXTS = [
    ({}, f"a boat\n{STEPS}, {TAIL}"),
    ({"prompt": ""}, f"{STEPS}, {TAIL}"),
    ({"prompt": "a boat,\nat sea "}, f"a boat,\nat sea \n{STEPS}, {TAIL}"),
    ({"negative_prompt": "blurry, dark"}, f"a boat\nNegative prompt: blurry, dark\n{STEPS}, {TAIL}"),
    ({"negative_prompt": ""}, f"a boat\n{STEPS}, {TAIL}"),
    ({"guidance_scale": 7.25}, f"a boat\n{STEPS.replace('scale: 7', 'scale: 7.25')}, {TAIL}"),
    ({"init_image": "a" * 64, "strength": 0.6}, f"a boat\n{STEPS}, Denoising strength: 0.6, {INIT}, {TAIL}"),
    ({"width": 64, "height": 128}, f"a boat\n{STEPS.replace('512x512', '64x128')}, {TAIL}"),
    (
        {"scheduler": "euler_a", "noise_schedule": "Automatic"},
        f"a boat\n{STEPS.replace('DPM++ 2M', 'Euler a').replace('Karras', 'Uniform')}, {TAIL}",
    ),
    (
        {"scheduler": "ddim", "eta": 1.0},
        f"a boat\n{STEPS.replace('DPM++ 2M', 'DDIM').replace('Karras', 'Automatic')}, RNG: CPU, Eta: 1, {VERSION}",
    ),
    (
        {"variation_seed": 9, "variation_strength": 0.25, "seed_resize_width": 256, "seed_resize_height": 384},
        f"a boat\n{STEPS}, Variation seed: 9, Variation seed strength: 0.25, Seed resize from: 256x384, {TAIL}",
    ),
    (
        {"clip_skip": 2, "eta_noise_seed_delta": 31337, "noise_source": "nv", "emphasis": "no_norm"},
        f"a boat\n{STEPS}, Clip skip: 2, RNG: NV, Emphasis: No norm, {VERSION}",
    ),
    (
        {"scheduler": "euler_a", "noise_schedule": "karras", "eta_noise_seed_delta": 31337},
        f"a boat\n{STEPS.replace('DPM++ 2M', 'Euler a')}, ENSD: 31337, RNG: CPU, {VERSION}",
    ),
    (
        {"scheduler": "dpmpp_2m_sde", "noise_schedule": "karras", "eta_noise_seed_delta": 31337},
        f"a boat\n{STEPS.replace('DPM++ 2M', 'DPM++ 2M SDE')}, {TAIL}",
    ),
    (
        {"sigma_min": 0.1, "sigma_max": 10.0, "rho": 5.5},
        f"a boat\n{STEPS}, RNG: CPU, Schedule max sigma: 10, Schedule min sigma: 0.1, Schedule rho: 5.5, {VERSION}",
    ),
    ({"noise_source": "device"}, f"a boat\n{STEPS}, RNG: Device, {VERSION}"),
    (
        {
            "scheduler": "euler",
            "noise_schedule": "karras",
            "s_churn": 2.0,
            "s_tmin": 0.5,
            "s_tmax": 9.0,
            "s_noise": 1.05,
        },
        f"a boat\n{STEPS.replace('DPM++ 2M', 'Euler')}, RNG: CPU, "
        f"Sigma churn: 2, Sigma tmin: 0.5, Sigma tmax: 9, Sigma noise: 1.05, {VERSION}",
    ),
    (
        {"init_image": "a" * 64, "mask_image": "b" * 64, "strength": 0.6, "inpaint_area": "only_masked"},
        f"a boat\n{STEPS}, Denoising strength: 0.6, {INIT}, RNG: CPU, Mask blur: 4, Inpaint area: Only masked, "
        f"Masked area padding: 32, {VERSION}",
    ),
    (
        {
            "init_image": "a" * 64,
            "mask_image": "b" * 64,
            "strength": 1.0,
            "mask_blur_y": 0.0,
            "invert_mask": True,
            "masked_content": "latent_nothing",
        },
        f"a boat\n{STEPS}, Denoising strength: 1, {INIT}, RNG: CPU, Mask blur: 4, Mask blur y: 0, "
        f"Mask mode: Inpaint not masked, Masked content: latent nothing, {VERSION}",
    ),
    (
        {
            "init_image": "a" * 64,
            "mask_image": "b" * 64,
            "strength": 1.0,
            "mask_mode": "soft",
            "soft_preservation": 0.75,
        },
        f"a boat\n{STEPS}, Denoising strength: 1, {INIT}, RNG: CPU, Soft inpainting enabled: True, "
        "Soft inpainting schedule bias: 1, Soft inpainting preservation strength: 0.75, "
        "Soft inpainting transition contrast boost: 4, Soft inpainting mask influence: 0, "
        f"Soft inpainting difference threshold: 0.5, Soft inpainting difference contrast: 2, Mask blur: 4, {VERSION}",
    ),
    (
        {"init_image": "a" * 64, "strength": 1.0, "mask_mode": "differential", "outpaint_top": 64},
        f"a boat\n{STEPS.replace('512x512', '512x576')}, Denoising strength: 1, {INIT}, RNG: CPU, Mask blur: 4, "
        f"Mask greys: differential, Outpaint top: 64, {VERSION}",
    ),
]


@pytest.mark.parametrize(("fields", "text"), INFOTEXTS)
def test_the_infotext_is_what_a1111_would_write(fields: dict[str, object], text: str) -> None:
    assert a1111_writing.write(record(**fields)) == text


def test_a_blank_mask_leaves_out_the_region_as_a1111_does_and_is_noted() -> None:
    made = record(init_image="a" * 64, mask_image="b" * 64, inpaint_area="only_masked")

    blank = replace(made, provenance={"blank_mask": True})

    assert "Inpaint area: Only masked, Masked area padding: 32" in a1111_writing.write(made)
    assert "Inpaint area" not in a1111_writing.write(blank)
    assert "Masked area padding" not in a1111_writing.write(blank)
    assert (made.notes, "the mask is blank" in blank.notes[0]) == ((), True)


def test_a_lora_of_zeros_is_noted() -> None:
    audits = {"lora sea": "2/2: unet 2", "lora ink": "2/2: unet 2; all zeros, which change nothing"}

    made = replace(record(), provenance=audits)

    assert made.notes == ("LoRA ink is all zeros, which change nothing",)


@pytest.mark.parametrize("clip_skip", [1, 2, 3])
def test_clip_skip_is_read_back_also_where_the_model_skips_by_itself(clip_skip: int) -> None:
    made = record(clip_skip=clip_skip)

    imported = import_request({a1111_keys.KEY: a1111_writing.write(made)})

    assert ("Clip skip" in a1111_writing.write(made)) is (clip_skip > 1)
    assert imported.request_fields["clip_skip"] == clip_skip
    assert "clip_skip" not in import_request({a1111_keys.KEY: "x\nSteps: 20, Seed: 1, Size: 8x8"}).request_fields


@pytest.mark.parametrize(
    ("name", "written_as"),
    [
        ("toy", "toy"),
        ("toy model v1.5", "toy model v1.5"),
        ("a, b", '"a, b"'),
        ("a: b", '"a: b"'),
        ("a\nb", r'"a\nb"'),
        ('say "a", b', r'"say \"a\", b"'),
        ("häuser, ünï", '"häuser, ünï"'),
    ],
)
def test_a_value_with_comma_colon_or_line_break_is_quoted(name: str, written_as: str) -> None:
    made = record()
    quoted = replace(made, request=made.request.model_copy(update={"model": name}))
    assert f", Model: {written_as}, RNG: CPU" in a1111_writing.write(quoted)


@pytest.mark.parametrize("output_format", FORMATS)
def test_other_programs_find_the_infotext_where_they_look(output_format: str, tmp_path: Path) -> None:
    path = written(record(prompt="Straße 👩\u200d🚀"), output_format, tmp_path / "picture")
    with Image.open(path) as image:
        if output_format == "png":
            text = image.text["parameters"]  # type: ignore[attr-defined]
        else:
            comment = piexif.load(image.info["exif"])["Exif"][piexif.ExifIFD.UserComment]
            assert comment.startswith(b"UNICODE\0")
            text = comment[8:].decode("utf-16-be")
    assert text.startswith("Straße 👩\u200d🚀\nSteps: 20, ")


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("letter", ["x", "ü", "船", "🚀"])
def test_the_longest_prompts_are_written_or_refused_before_anything_runs(
    letter: str, output_format: str, settings: Settings, tmp_path: Path
) -> None:
    asked = {
        "prompt": letter * MAX_PROMPT_CHARACTERS,
        "negative_prompt": letter * MAX_PROMPT_CHARACTERS,
        "output_format": output_format,
        "seed": 1,
    }
    storage = Storage.open(settings)
    try:
        resolved = storage.expand(GenerationRequest.parse(asked))[1][0]
        made = Record("0123456789abcdef", 0, 1.0, resolved, {"device": "cpu", "dtype": "float32"})
        assert metadata.read(written(made, output_format, tmp_path / "picture")) == made
    except InvalidRequest as refused:
        assert output_format == "jpeg"
        assert refused.field == "output_format"  # noqa: PT017
    finally:
        storage.database.close()


def test_avif_is_refused_where_pillow_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.features.check", lambda feature: feature != "avif")

    with pytest.raises(InvalidRequest, match="Pillow was built without it; choose webp"):
        metadata.check_room(record(output_format="avif").request)
    metadata.check_room(record().request)


def forged(path: Path, texts: dict[str, str]) -> Path:
    chunks = PngInfo()
    for key, text in texts.items():
        chunks.add_text(key, text)
    PICTURE.save(path, format="PNG", pnginfo=chunks)
    return path


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({}, "was not made by Open Weights Studio; it carries no metadata"),
        ({"parameters": "a boat", "prompt": "{}"}, "it carries parameters, prompt"),
        ({"studio": ""}, "carries a record that cannot be read: "),
        ({"studio": "[]"}, "carries a record that cannot be read: "),
        ({"studio": "null"}, "carries a record that cannot be read: "),
        ({"studio": "{}"}, "carries a record that cannot be read: "),
        ({"studio": "[" * 100_000}, "carries a record that cannot be read: "),
        ({"studio": '{"schema": 2}'}, "carries a record that cannot be read: "),
        ({"studio": json.dumps({**record().to_json(), "request": {"prompt": "x"}})}, "cannot be read: "),
    ],
)
def test_a_foreign_picture_says_what_it_carries(texts: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=message):
        metadata.read(forged(tmp_path / "picture.png", texts))


def test_a_record_that_asks_the_impossible_is_no_record(tmp_path: Path) -> None:
    data = record().to_json()
    for change in ({"num_inference_steps": 10**6}, {"width": 10**6}, {"prompt": "x" * 10**5}, {"scheduler": "magic"}):
        text = json.dumps({**data, "request": {**data["request"], **change}})
        with pytest.raises(NotFound, match=f"{next(iter(change))}"):
            metadata.read(forged(tmp_path / "picture.png", {"studio": text}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file"),
        (b"", "is not a PNG"),
        (b"hello" * 99, "is not a PNG, JPEG, WebP, AVIF or GIF picture$"),
    ],
)
def test_what_is_no_picture_is_told_in_a_sentence(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NotFound, match=message):
        metadata.read(path)
    with pytest.raises(NotFound):
        metadata.read(tmp_path)


EXIF = {
    "not exif": b"nonsense",
    "cut short": b"Exif\0\0MM\0*",
    "points outside": b"Exif\0\0MM\0*\0\0\xff\xff",
    "comment without a code": piexif.dump({"Exif": {piexif.ExifIFD.UserComment: b"hello"}}),
    "comment of half a letter": piexif.dump({"Exif": {piexif.ExifIFD.UserComment: b"UNICODE\0\xd8\x00\x00"}}),
    "comment of an unknown code": piexif.dump({"Exif": {piexif.ExifIFD.UserComment: b"MARTIAN\0hello"}}),
}


@pytest.mark.parametrize("exif", EXIF.values(), ids=EXIF)
@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_broken_exif_is_told_in_a_sentence(exif: bytes, output_format: str, tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "picture", format=output_format, exif=exif)
    with pytest.raises(NotFound):
        metadata.read(tmp_path / "picture")


@pytest.mark.parametrize("output_format", FORMATS)
def test_flipped_bytes_give_a_record_or_a_sentence(output_format: str, tmp_path: Path) -> None:
    whole = written(record(), output_format, tmp_path / "whole").read_bytes()
    path = tmp_path / "damaged"
    for seed in range(300):
        random = np.random.default_rng(seed)
        data = bytearray(whole)
        for at in random.integers(0, len(data), 3):
            data[at] ^= int(random.integers(1, 256))
        path.write_bytes(data)
        with suppress(NotFound):
            assert isinstance(metadata.read(path).request, ResolvedRequest)


def test_a_bomb_is_told_in_a_sentence(tmp_path: Path) -> None:
    from tests.studio.test_inputs import png_header

    for side in (20_000, 100_000):
        (tmp_path / "bomb.png").write_bytes(png_header(side, side))
        with pytest.raises(NotFound, match="is not a readable PNG, JPEG, WebP, AVIF or GIF picture"):
            metadata.read(tmp_path / "bomb.png")


@pytest.mark.parametrize("output_format", FORMATS)
def test_reading_leaves_the_file_open_for_nobody(output_format: str, tmp_path: Path) -> None:
    path = written(record(), output_format, tmp_path / "picture")
    assert native.KEY in metadata.read_texts(path)
    buffer = io.BytesIO(path.read_bytes())
    assert Image.open(buffer).format == output_format.upper()
