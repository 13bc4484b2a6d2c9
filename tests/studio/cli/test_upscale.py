"""Larger pictures without painting, through the studio: sizes, what the new picture says, what is refused."""

import json
from collections.abc import Mapping
from pathlib import Path

import piexif
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipelines.spec.errors import InvalidRequest
from studio import Studio, metadata
from studio.metadata import Outcome, a1111_keys, import_request, provenance, read_texts
from studio.metadata.texts import XMP
from tests.studio.cli.conftest import Run
from tests.studio.metadata.test_metadata import record


def test_what_a_picture_says_of_its_painting_stays(studio: Studio) -> None:
    (small,) = studio.generate("a {red|blue} boat", seed=5, width=64, height=128, hires_scale=1.5, progress=False)

    large = studio.upscale(small, scale=3, upscaler="Nearest", progress=False)

    assert large.image.size == (96 * 3, 192 * 3)
    changed = {name for name, value in large.request if value != getattr(small.request, name)}
    assert changed == {
        *("init_image", "strength", "upscaler", "width", "height"),
        *("hires_scale", "hires_upscaler", "hires_steps", "hires_strength"),
        *("hires_scheduler", "hires_noise_schedule", "hires_guidance_scale"),
    }
    assert (large.request.strength, large.request.upscaler) == (0, "nearest")
    assert studio.verify(large.path, progress=False).is_exact


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ({}, (200, 128)),
        ({"scale": 4}, (400, 264)),
        ({"width": 296}, (296, 192)),
        ({"height": 128}, (192, 128)),
        ({"width": 256, "height": 256}, (256, 256)),
    ],
)
def test_any_file_becomes_so_large(
    studio: Studio, tmp_path: Path, asked: dict[str, int], size: tuple[int, int]
) -> None:
    Image.new("RGB", (100, 66)).save(tmp_path / "photo.png")

    assert studio.upscale(tmp_path / "photo.png", progress=False, **asked).image.size == size


def test_one_size_only(studio: Studio) -> None:
    (small,) = studio.generate("a boat", progress=False)

    with pytest.raises(InvalidRequest, match="scale and width both say how large"):
        studio.upscale(small, scale=2, width=128)


@pytest.mark.parametrize(
    ("options", "note"),
    [
        (["--scale", "1.3"], "note: 100×66 becomes 128×80, not 130×86: sides are rounded down to multiples of 8\n"),
        (["--width", "296"], "note: 100×66 becomes 296×192, not 296×195: sides are rounded down to multiples of 8\n"),
        (["--width", "296", "--height", "200"], ""),
        (["--scale", "4", "--height", "200"], "error: --scale and --height both say how large"),
        (["--width", "300"], "error: --width must be a multiple of 8, got 300; try 296 or 304"),
        (["--scale", "65"], "error: --scale must be above 0 and at most 64, got 65"),
        (["--scale", "nan"], "error: --scale must be above 0 and at most 64, got nan"),
        (["--scale", "0.1"], "error: --scale 0.1 of 100×66 makes 8×0, and sides must be 64 to 4096; choose another"),
        (
            ["--scale", "50"],
            "error: --scale 50 of 100×66 makes 5000×3296, and sides must be 64 to 4096; choose another",
        ),
        (["--scale", "x"], "error: --scale must be a number, got 'x'; see `studio upscale --help`"),
        (
            ["--width", "296", "--height", "200", "--upscaler", "Latent"],
            "error: --upscaler latent_bilinear stretches latents",
        ),
    ],
)
def test_the_command_says_what_size_comes_out_in_the_words_of_its_options(
    run: Run, tmp_path: Path, options: list[str], note: str
) -> None:
    Image.new("RGB", (100, 66)).save(tmp_path / "photo.png")

    done = run("upscale", str(tmp_path / "photo.png"), *options)

    assert done.err.startswith(note)
    assert ("note:" in done.err) == note.startswith("note:")


def test_a_file_that_is_no_picture_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# words", encoding="utf-8")

    done = run("upscale", str(tmp_path / "a.md"))

    assert done.err == f"error: IMAGE {tmp_path / 'a.md'} is not a PNG, JPEG, WebP or AVIF image\n"


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"upscaler": "latent_bilinear", "strength": 0.0}, "upscaler", "stretches latents, and here a picture is enl"),
        ({"upscaler": "latent_bilinear"}, "upscaler", "latents are stretched by resize_mode latent alone"),
        ({"upscaler": "nearest", "resize_mode": "latent", "strength": 0.5}, "upscaler", "resize_mode latent alone"),
        ({"strength": 0.0, "resize_mode": "latent"}, "resize_mode", "strength 0 paints nothing"),
        ({"strength": 0.0, "outpaint_left": 64}, "strength", "strength 0 paints nothing, and inpaint"),
        ({"upscaler": "nearest", "outpaint_left": 64}, "upscaler", "this is inpaint; take it out"),
        ({"upscaler": "nearest", "init_image": None}, "upscaler", "this is text-to-image; take it out"),
        ({"upscaler": "4x"}, "upscaler", "upscaler '4x' is not there; there are lanczos, nearest "),
    ],
)
def test_what_would_be_ignored_is_refused(studio: Studio, fields: dict[str, object], field: str, message: str) -> None:
    request = studio.request({"prompt": "a boat", "init_image": Image.new("RGB", (64, 64)), **fields})

    with pytest.raises(InvalidRequest) as caught:
        studio.check(request)

    assert caught.value.field == field
    assert message in str(caught.value)


INFOTEXT = "a lighthouse, tall\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 9, Size: 64x64, Model: dreamy"


def source(kind: str, studio: Studio, folder: Path, *, output_format: str = "png") -> Path:
    """Return a picture to enlarge: a photo, one of A1111 or one made here with a second pass."""
    if kind == "ours":
        fields = {"width": 64, "height": 64, "hires_scale": 2.0, "output_format": output_format}
        return studio.generate("a boat", seed=5, progress=False, **fields)[0].path
    chunks = PngInfo()
    if kind == "a1111":
        chunks.add_text("parameters", INFOTEXT)
    Image.new("RGB", (64, 64), "teal").save(folder / f"{kind}.png", pnginfo=chunks)
    return folder / f"{kind}.png"


def without_ours(texts: Mapping[str, str]) -> dict[str, str]:
    return {key: text for key, text in texts.items() if key not in {"postprocessing", "studio_enlarged", XMP}}


@pytest.mark.parametrize("kind", ["photo", "a1111", "ours"])
def test_a_larger_picture_goes_on_saying_what_its_source_says(kind: str, studio: Studio, tmp_path: Path) -> None:
    path = source(kind, studio, tmp_path)

    large = studio.upscale(path, scale=4, progress=False)
    twice = studio.upscale(large, upscaler="nearest", progress=False)

    said, said_twice = read_texts(large.path), read_texts(twice.path)
    assert without_ours(said) == without_ours(said_twice) == without_ours(read_texts(path))
    side = f"{large.width}x{large.height}"
    assert said["postprocessing"] == (
        f"Postprocess upscale to: {side}, Postprocess crop to: {side}, Postprocess upscaler: Lanczos"
    )
    assert "Postprocess upscaler: Nearest" in said_twice["postprocessing"]
    assert studio.verify(large.path, progress=False).is_exact
    before = studio.gallery.page()
    assert studio.gallery.rebuild().added == 0
    assert studio.gallery.page() == before


@pytest.mark.parametrize("output_format", ["jpeg", "webp", "avif"])
@pytest.mark.parametrize("kind", ["photo", "a1111", "ours"])
def test_other_formats_keep_our_record_and_the_infotext(
    kind: str, output_format: str, studio: Studio, tmp_path: Path
) -> None:
    path = source(kind, studio, tmp_path)

    large = studio.upscale(path, progress=False, output_format=output_format)

    assert without_ours(read_texts(large.path)) == without_ours(read_texts(path))
    assert metadata.read(large.path).request == large.request
    assert "Postprocess upscaler" in {note.field for note in studio.read(large.path).notes} or kind == "photo"


def test_what_is_read_is_how_the_picture_was_painted(studio: Studio, tmp_path: Path) -> None:
    photo, foreign, ours = (source(kind, studio, tmp_path) for kind in ("photo", "a1111", "ours"))

    of_photo, of_foreign, of_ours = (
        studio.read(studio.upscale(path, progress=False).path) for path in (photo, foreign, ours)
    )

    assert of_photo.request_fields.keys() == {"init_image", "strength", "width", "height"}
    assert (of_foreign.program, of_foreign.request_fields["seed"]) == ("A1111", 9)
    assert of_ours.request_fields == studio.read(ours).request_fields
    assert [note.field for note in of_ours.notes if note.outcome is Outcome.IGNORED][-1] == "Postprocess upscaler"


@pytest.mark.parametrize("kind", ["photo", "a1111", "ours"])
def test_what_nobody_painted_is_not_marked_as_generated(kind: str, studio: Studio, tmp_path: Path) -> None:
    path = source(kind, studio, tmp_path)

    large = studio.upscale(path, upscaler="nearest", progress=False)

    assert read_texts(large.path).get(XMP) == read_texts(path).get(XMP)
    assert (XMP in read_texts(large.path)) is (kind == "ours")


@pytest.mark.parametrize(
    ("marked", "upscaler", "kind"),
    [
        (None, "4x-Test", "algorithmicallyEnhanced"),
        ("digitalCapture", "4x-Test", "algorithmicallyEnhanced"),
        ("digitalCapture", "lanczos", "digitalCapture"),
        ("trainedAlgorithmicMedia", "4x-Test", "trainedAlgorithmicMedia"),
    ],
)
def test_the_mark_is_that_of_the_source_unless_a_model_adds_to_it(
    marked: str | None, upscaler: str, kind: str, tmp_path: Path
) -> None:
    chunks = PngInfo()
    if marked is not None:
        chunks.add_itxt(XMP, provenance.xmp(marked))
    Image.new("RGB", (64, 64)).save(tmp_path / "source.png", pnginfo=chunks)
    made = record(init_image="a" * 64, strength=0.0, upscaler=upscaler)

    with (tmp_path / "large.png").open("wb") as file:
        image = Image.new("RGB", (128, 128))
        metadata.save(image, file, made, output_format="png", source=tmp_path / "source.png")

    assert f"digitalsourcetype/{kind}<" in read_texts(tmp_path / "large.png")[XMP]


def test_a_photo_with_damaged_exif_becomes_larger(studio: Studio, tmp_path: Path) -> None:
    half_a_letter = piexif.dump({"Exif": {piexif.ExifIFD.UserComment: b"UNICODE\0\xd8\x00\x00"}})
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.jpg", exif=half_a_letter)

    assert "postprocessing" in read_texts(studio.upscale(tmp_path / "photo.jpg", progress=False).path)


def test_a_jpeg_without_room_for_what_the_source_says_is_refused_before_anything_runs(
    studio: Studio, tmp_path: Path
) -> None:
    chunks = PngInfo()
    chunks.add_text("parameters", "x" * 40_000)
    Image.new("RGB", (64, 64)).save(tmp_path / "wordy.png", pnginfo=chunks)

    with pytest.raises(InvalidRequest, match="output_format jpeg has room for 65533 bytes"):
        studio.upscale(tmp_path / "wordy.png", output_format="jpeg", progress=False)


EXTRAS = "Postprocess upscale by: 4, Postprocess upscaler: R-ESRGAN 4x+, Postprocess upscaler 2: Lanczos"
MADE = "a boat\nSteps: 20, Sampler: Euler, Seed: 1, Size: 512x512"


@pytest.mark.parametrize(
    ("texts", "prompt"),
    [
        ({a1111_keys.KEY: MADE, "postprocessing": EXTRAS}, "a boat"),
        ({a1111_keys.KEY: f"{MADE}, {EXTRAS}"}, "a boat"),
        ({"postprocessing": EXTRAS, "extras": EXTRAS}, ""),
        ({a1111_keys.KEY: "Postprocess upscale by: 4, Postprocess upscaler: R-ESRGAN 4x+"}, ""),
    ],
)
def test_what_a1111s_extras_tab_did_is_told(texts: dict[str, str], prompt: str) -> None:
    imported = import_request(texts)

    notes = {note.field: note for note in imported.notes}
    assert imported.request_fields.get("prompt", "") == prompt
    assert (notes["Postprocess upscale by"].value, notes["Postprocess upscaler"].value) == ("4", "R-ESRGAN 4x+")
    assert notes["Postprocess upscale by"].outcome is Outcome.IGNORED
    assert "then enlarge it (`studio upscale`)" in notes["Postprocess upscaler"].why


def test_the_command_prints_the_path_of_the_larger_picture(run: Run, studio: Studio) -> None:
    (small,) = studio.generate("a boat", width=64, height=64, progress=False)

    done = run("upscale", str(small.path), "--scale", "4", "--upscaler", "nearest", "--json")
    copied = run("upscale", str(small.path), "--output", str(studio.settings.home / "large.webp"))

    request = json.loads(done.out)["request"]
    assert (request["width"], request["height"], request["upscaler"], request["strength"]) == (256, 256, "nearest", 0)
    assert copied.out.strip().endswith("large.webp")
