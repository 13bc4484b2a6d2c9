"""File names from patterns: A1111's tokens mean what they mean there, and no pattern or prompt leaves the folder."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from pipelines.spec.engine import GeneratedImage
from pipelines.spec.errors import InvalidRequest
from pipelines.spec.resolve import resolve
from studio import GenerationRequest, Settings, Studio
from studio.naming import DEFAULT_PATTERN, MAX_FOLDERS, MAX_PART_BYTES, Named, check, relative_path
from studio.storage import Storage
from tests.pipelines.spec.conftest import make_model

TOKENS = sorted(re.findall(r'^    "(\w+)":', Path("studio/naming.py").read_text(), re.MULTILINE))
OF_A1111 = """
    basename seed seed_first seed_last steps cfg width height styles sampler scheduler sampler_scheduler model_hash
    model_name date datetime job_timestamp prompt prompt_no_styles prompt_spaces prompt_words prompt_hash image_hash
    negative_prompt_hash full_prompt_hash batch_number batch_size generation_number hasprompt clip_skip denoising user
    vae_filename none
"""


def named(
    prompt: str = "a red, (boat:1.2) <lora:x:1>", *, index: int = 1, num_images: int = 4, **fields: object
) -> Named:
    asked = {"prompt": prompt, "negative_prompt": "fog", "width": 64, "height": 72, "guidance_scale": 7.5, "seed": 8}
    request = GenerationRequest.parse({**asked, "scheduler": "euler_a", **fields})
    (resolved,) = resolve(request, make_model())
    picture = GeneratedImage(index, resolved, Image.new("RGB", resolved.final_size), {})
    return Named(picture, "0123456789abcdef", num_images, 1.7e9)


def test_every_token_of_a1111_is_known() -> None:
    assert set(OF_A1111.split()) == set(TOKENS) - {"job", "index"}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("[seed]-[seed_first]-[seed_last]", "8-7-10"),
        ("[steps] [cfg] [width]x[height]", "20 7.5 64x72"),
        ("[sampler] [scheduler] [sampler_scheduler]", "Euler a Uniform Euler a Uniform"),
        ("[model_name]/[job]", "toy/0123456789abcdef"),
        ("[prompt]", "a_red,_(boat_1.2)__lora_x_1_"),
        ("[prompt_spaces]", "a red, (boat_1.2) _lora_x_1_"),
        ("[prompt_words]", "a red boat 1 2"),
        ("[prompt_hash]", "4e79d69a"),
        ("[datetime<%Y>] [datetime<%H.%M><Asia/Tokyo>]", "2023 07.13"),
        ("[batch_number] of [batch_size]", "2 of 4"),
        ("[hasprompt<Boat|none><car|no car>]", "Boatno car"),
        ("[seed]-[denoising]x", "8x"),
        ("x[none]", "x"),
        ("[unknown] [Seed] [] [seed", "[unknown] [Seed] [] [seed"),
        ("../../[seed]", "8"),
        ("/etc/../..\\..\\[seed]", "etc/_.._8"),
        ("CON/nul.txt/[seed]", "_CON/_nul.txt/8"),
        ("...", "8"),
        ("a . /b", "a/b"),
    ],
)
def test_a_pattern_gives_a_name(pattern: str, expected: str) -> None:
    assert relative_path(pattern, named()) == expected


def test_an_empty_token_takes_what_leads_to_it_but_no_folder() -> None:
    assert relative_path("a/b-[batch_number]-c", named(index=0, num_images=1)) == "a/-c"


def test_sizes_and_strength_are_those_of_the_last_pass() -> None:
    larger = named(hires_scale=2.0, hires_strength=0.4)

    assert relative_path("[width]x[height] [denoising]", larger) == "128x144 0.4"


def test_hashes_have_the_length_that_is_asked() -> None:
    parts = relative_path("[image_hash<12>] [full_prompt_hash<5>] [negative_prompt_hash]", named()).split()

    assert list(map(len, parts)) == [12, 5, 8]


ANYTHING = st.text(max_size=200) | st.text(alphabet="./\\ []<>:con aux\x00\n\u202e\ud800é🚢", max_size=40)
PATTERNS = st.lists(st.sampled_from([f"[{token}]" for token in TOKENS]) | ANYTHING, max_size=6).map("".join)


PROMPTS = (st.text(max_size=300) | ANYTHING).map(lambda text: text.replace("\0", "").replace("\ud800", ""))


@given(PATTERNS, PROMPTS)
@example("[prompt]", "../" * 200)
@example("[prompt]/[prompt]/[prompt]/[prompt]/[prompt]", "🚢" * 500)
@example("[prompt]", "COM1.png")
@example("[prompt]", "lpt²")
@example("[prompt]", ".hidden")
def test_no_pattern_and_no_prompt_leaves_the_folder(pattern: str, prompt: str) -> None:
    name = relative_path(pattern, named(prompt))

    parts = name.split("/")
    assert 1 <= len(parts) <= MAX_FOLDERS + 1
    for part in parts:
        assert part
        assert part.isprintable()
        assert part == part.strip(" ").rstrip(".")
        assert not part.startswith(".")
        assert not set(part) & set('<>:"\\|?*')
        assert len(part) <= 129
        assert len(part.encode()) <= MAX_PART_BYTES + 1
        assert not PureWindowsPath(part).is_reserved()
    assert (Path("/out") / name).resolve().is_relative_to("/out")


@given(PATTERNS)
def test_whatever_passes_the_check_gives_a_name_and_the_same_again(pattern: str) -> None:
    try:
        check(pattern)
    except ValueError:
        return
    assert relative_path(pattern, named()) == relative_path(pattern, named())


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("", "empty"),
        ("//", "empty"),
        ("a/b/c/d/e", "4 folders"),
        ("[datetime<%Y><Mars/Olympus>]", "time zone 'mars/olympus'"),
    ],
)
def test_a_pattern_that_cannot_work_is_refused_as_a_setting(pattern: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "studio.toml").write_text(f'filename_pattern = "{pattern}"\n')

    with pytest.raises(InvalidRequest, match=f"filename_pattern: .*{words}"):
        Settings.load(home=tmp_path)


def paint(settings: Settings, count: int, **fields: object) -> list[str]:
    """Make one-picture jobs and return the names of their files."""
    storage = Storage.open(settings)
    names = []
    for _ in range(count):
        asked = storage.jobs.submit(GenerationRequest.parse({"prompt": "a boat", "seed": 7, **fields}))
        job = storage.jobs.claim("cpu", job_id=asked.id)
        assert job is not None
        request = storage.expand(job.request)[1][0]
        picture = GeneratedImage(0, request, Image.new("RGB", (request.width, request.height)), {})
        first = storage.gallery.add(job, picture)
        again = storage.gallery.add(job, picture)  # as after a death between file and row
        assert again.path == first.path
        names.append(first.path.relative_to(storage.gallery.images_dir).as_posix())
    storage.database.close()
    return names


def test_the_default_names_pictures_as_ever(settings: Settings) -> None:
    assert settings.filename_pattern == DEFAULT_PATTERN
    (name,) = paint(settings, 1)
    assert re.fullmatch(r"20\d\d-\d\d-\d\d/7-[0-9a-f]{16}-00\.png", name)


def test_a_name_that_is_taken_gets_a_number_and_nothing_is_overwritten(settings: Settings) -> None:
    settings = settings.model_copy(update={"filename_pattern": "[prompt]"})

    names = [*paint(settings, 3), *paint(settings, 1, output_format="webp"), *paint(settings, 1, prompt="A Boat")]

    assert names == ["a_boat.png", "a_boat-2.png", "a_boat-3.png", "a_boat-4.webp", "A_Boat-5.png"]
    storage = Storage.open(settings)
    assert len({image.thumbnail for image in storage.gallery.page() if image.thumbnail.exists()}) == 5
    rebuilt = storage.gallery.rebuild()
    assert (rebuilt.found, rebuilt.added, rebuilt.removed) == (5, 0, 0)
    storage.database.close()


def test_a_file_of_somebody_else_is_left_alone(settings: Settings) -> None:
    settings = settings.model_copy(update={"filename_pattern": "[prompt]"})
    theirs = settings.outputs_dir / "images" / "a_boat.png"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"dear to me")

    assert paint(settings, 1) == ["a_boat-2.png"]
    assert theirs.read_bytes() == b"dear to me"


def test_two_writers_at_once_never_take_the_same_name(settings: Settings) -> None:
    settings = settings.model_copy(update={"filename_pattern": "[prompt]"})
    Storage.open(settings).database.close()

    with ThreadPoolExecutor(4) as writers:
        names = [name for made in writers.map(lambda _: paint(settings, 5), range(4)) for name in made]

    assert len(set(names)) == 20
    assert len(list((settings.outputs_dir / "images").glob("*.png"))) == 20


def test_names_that_differ_by_sharp_s_are_counted(settings: Settings) -> None:
    settings = settings.model_copy(update={"filename_pattern": "[prompt]"})
    with Studio(settings) as studio:
        names = [studio.generate(prompt, progress=False)[0].path.name for prompt in ("ssssl", "ßßl", "ssssl")]
    assert names == ["ssssl.png", "ßßl-2.png", "ssssl-3.png"]
