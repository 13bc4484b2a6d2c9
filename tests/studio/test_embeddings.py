"""Embeddings by name: found in prompts before anything loads, recorded with the picture, refused in words."""

import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipelines.spec.errors import InvalidRequest
from studio import Settings, Studio, metadata
from studio.store import POCKET, EmbeddingCatalogue
from tests.studio.conftest import write_model

WIDTH = 128
"""Of the pocket model's text encoder."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "embeddings" / "styles").mkdir(parents=True)
    return tmp_path / "embeddings"


@pytest.fixture
def studio(tmp_path: Path, folder: Path) -> Iterator[Studio]:
    with Studio(Settings(home=tmp_path, engine="fake")) as opened:
        yield opened


def write(path: Path, *, vectors: int = 2, width: int = WIDTH, key: str = "emb_params", note: str = "") -> Path:
    save_file({key: np.ones((vectors, width), np.float32)}, path, metadata={"modelspec.description": note})
    return path


def named(studio: Studio, prompt: str, **fields: str) -> set[str]:
    (image,) = studio.generate(prompt, num_inference_steps=4, progress=False, **fields)
    return set(image.request.embeddings)


@pytest.mark.parametrize(
    ("tensors", "vectors", "made_for"),
    [
        ({"emb_params": (3, 768)}, 3, "Stable Diffusion 1.x (768)"),
        ({"<token>": (1, 768)}, 1, "Stable Diffusion 1.x (768)"),
        ({"<token>": (768,)}, 1, "Stable Diffusion 1.x (768)"),
        ({"emb_params": (8, 1024)}, 8, "Stable Diffusion 2.x (1024)"),
        ({"clip_g": (2, 1280), "clip_l": (2, 768)}, 2, "Stable Diffusion XL (768+1280)"),
        ({"anything": (2, 7), "step": (), "count": (1,)}, 2, "text encoders of width 7"),
    ],
)
def test_every_layout_is_read(tensors: dict[str, tuple[int, ...]], vectors: int, made_for: str, folder: Path) -> None:
    save_file(
        {key: np.ones(shape, np.float16) for key, shape in tensors.items()}, folder / "styles" / "a.b.safetensors"
    )

    (embedding,) = EmbeddingCatalogue(folder).all()

    assert embedding.problem == ""
    assert embedding.described().items() >= {"name": "a.b", "vectors": vectors, "made_for": made_for}.items()


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": (2, 768), "b": (2, 768)},
        {"a": (2, 768, 1)},
        {"a": ()},
        {"a": (0, 768)},
        {"a": (2, 0)},
        {},
        {"clip_l": (2, 768), "clip_g": (3, 1280)},
        {"clip_l": (2, 768), "clip_g": (2, 1280), "t5xxl": (2, 4096)},
    ],
)
def test_what_is_no_embedding_says_so(tensors: dict[str, tuple[int, ...]], folder: Path, studio: Studio) -> None:
    save_file({key: np.ones(shape, np.float32) for key, shape in tensors.items()}, folder / "emb.safetensors")

    assert "is no embedding" in studio.embeddings()[0].problem
    with pytest.raises(InvalidRequest, match=r"prompt names embedding 'emb': .* is no embedding"):
        studio.generate("an emb", progress=False)
    assert named(studio, "a boat") == set()


@pytest.mark.parametrize("name", ["emb.pt", "emb.bin", "emb.safetensors"])
def test_pickles_are_refused_whatever_they_are_called(name: str, folder: Path, studio: Studio) -> None:
    (folder / name).write_bytes(pickle.dumps({"string_to_param": {}}))

    with pytest.raises(InvalidRequest, match=r"names embedding 'emb': .*pickle.*studio convert") as refusal:
        studio.generate("x", negative_prompt="emb", progress=False)
    assert refusal.value.field == "negative_prompt"


def test_content_decides_not_the_suffix(folder: Path, studio: Studio) -> None:
    write(folder / "emb.safetensors").rename(folder / "emb.pt")

    assert named(studio, "emb") == {"emb"}


@pytest.mark.parametrize(
    ("prompt", "negative_prompt", "expected"),
    [
        ("a boat", "", set()),
        ("my emb", "", {"my emb"}),
        ("MY  EMB.", "", {"my emb"}),
        ("my embers", "", set()),
        ("emb", "my (emb:1.2)", {"emb"}),
        ("x", "rain, emb", {"emb"}),
        ("[rain:emb:0.5] AND my emb :0.5", "", {"emb", "my emb"}),
        ("[e|]mb", "", {"emb"}),
        ("[rain:emb:9]", "", set()),
        ("(my)( emb)", "", {"my emb"}),
        ("# emb", "", set()),
        ("ünï-1, Bad_Hands-5", "", {"ÜNÏ-1", "bad_hands-5"}),
    ],
)
def test_names_are_found_by_their_tokens(
    prompt: str, negative_prompt: str, expected: set[str], folder: Path, studio: Studio
) -> None:
    for name in ("emb", "my emb", "styles/bad_hands-5", "ÜNÏ-1"):
        write(folder / f"{name}.safetensors")

    assert named(studio, prompt, negative_prompt=negative_prompt) == expected


def test_the_wrong_model_is_told_before_anything_runs(folder: Path, studio: Studio) -> None:
    save_file(
        {"clip_l": np.ones((1, 768), np.float32), "clip_g": np.ones((1, 1280), np.float32)}, folder / "xl.safetensors"
    )

    with pytest.raises(
        InvalidRequest, match=r"embedding 'xl' is for Stable Diffusion XL \(768\+1280\), model pocket takes 128"
    ):
        studio.submit(studio.request("xl"))
    assert studio.jobs() == []


def test_too_many_vectors_and_two_files_of_a_name_are_refused(folder: Path, studio: Studio) -> None:
    write(folder / "long.safetensors", vectors=76)
    write(folder / "twin.safetensors")
    write(folder / "styles" / "Twin.safetensors")

    with pytest.raises(InvalidRequest, match="at most 75 vectors for this model, long has 76"):
        studio.generate("long", progress=False)
    with pytest.raises(InvalidRequest, match=r"'(t|T)win', which is .*styles.Twin.safetensors.*; rename one"):
        studio.generate("a twin", progress=False)


def test_the_record_says_which_files_were_used_and_verify_notices_another(folder: Path, studio: Studio) -> None:
    path = write(folder / "emb.safetensors")
    (sha256,) = [each.sha256 for each in studio.embeddings()]
    (image,) = studio.generate("an emb", num_inference_steps=4, progress=False)

    assert metadata.read(image.path).request.embeddings == {"emb": sha256}
    assert f'TI hashes: "emb: {sha256[:12]}"' in metadata.read_texts(image.path)["parameters"]
    assert studio.verify(image.path, progress=False).is_exact

    write(path, vectors=3)
    changed = studio.verify(image.path, progress=False)
    path.unlink()
    gone = studio.verify(image.path, progress=False)

    for verification in (changed, gone):
        assert [each.name for each in verification.differences] == ["embeddings"]


def test_an_import_says_which_embeddings_are_here(folder: Path) -> None:
    write(folder / "mine.safetensors")
    write(folder / "renamed.safetensors", vectors=3)
    catalogue = EmbeddingCatalogue(folder)
    digests = {each.name: each.sha256[:12] for each in catalogue.all()}
    hashes = f"Mine: {digests['mine']}, theirs: {digests['renamed']}, other: 0123456789ab"
    text = f'mine, theirs, other\nSteps: 20, Sampler: Euler, Seed: 1, TI hashes: "{hashes}"'

    imported = metadata.import_request({"parameters": text}, find_embedding=catalogue.find)

    outcomes = {note.value.split()[0]: (str(note.outcome), note.why) for note in imported.notes if "[" in note.value}
    assert outcomes["Mine"][0] == "used"
    assert outcomes["theirs"] == ("missing", "it is installed as renamed: write that into the prompt instead of theirs")
    assert outcomes["other"][0] == "missing"


def test_a_changed_file_is_read_again_and_others_are_not(folder: Path) -> None:
    write(folder / "a.safetensors")
    write(folder / "b.safetensors")
    catalogue = EmbeddingCatalogue(folder)
    first = {each.name: each for each in catalogue.all()}
    write(folder / "b.safetensors", vectors=5)

    second = {each.name: each for each in catalogue.all()}

    assert second["a"] is first["a"]
    assert (first["b"].described()["vectors"], second["b"].described()["vectors"]) == (2, 5)


def test_a_folder_that_is_missing_is_empty(tmp_path: Path) -> None:
    assert EmbeddingCatalogue(tmp_path / "none").all() == []


def test_the_real_engine_paints_the_words_an_embedding_is_made_of(folder: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    from pipelines.spec.prompt.tokenizing import read_tokenizer

    ids = list(read_tokenizer(POCKET / "tokenizer")("red house"))
    weights = load_file(POCKET / "text_encoder" / "model.safetensors")
    (table,) = (tensor for name, tensor in weights.items() if name.endswith("token_embedding.weight"))
    save_file({"emb_params": np.ascontiguousarray(table[ids])}, folder / "emb.safetensors")
    fields = {"seed": 3, "num_inference_steps": 2, "width": 128, "height": 128, "progress": False}

    with Studio(Settings(home=tmp_path)) as studio:
        words, name, again = (
            studio.generate(prompt, negative_prompt=negative, **fields)[0].image.tobytes()
            for prompt, negative in (
                ("a (red house:1.2) at night", "red house"),
                ("a (EMB:1.2) at night", "emb"),
                ("a (red house:1.2) at night", "red house"),
            )
        )

    assert words == name == again


def test_tokens_are_counted_with_the_models_tokenizer(folder: Path, studio: Studio) -> None:
    write(folder / "emb.safetensors", vectors=9)

    assert studio.count_tokens("").used == 0
    assert studio.count_tokens("a red house").used == 3
    assert studio.count_tokens("a (emb:1.3)").used == 10
    assert (studio.count_tokens("red " * 80).used, studio.count_tokens("red " * 80).capacity) == (80, 150)
    assert studio.count_tokens("[a:a red house:15]", num_inference_steps=10).used == 1
    assert studio.count_tokens("[a:a red house:15]", num_inference_steps=20).used == 3
    with pytest.raises(InvalidRequest, match="'gone' is not installed"):
        studio.count_tokens("a", model="gone")


def test_a_second_chunk_is_told_where_it_counts_less(studio: Studio) -> None:
    write_xl(studio.settings.models_dir / "xl")
    long = "red house " * 40

    (note,) = studio.notes(studio.request(long, model="xl"))

    assert note == (
        "prompt: 80 of 150 tokens: the text is encoded in 2 chunks, and only the first 75 tokens say what the picture "
        "is as a whole."
    )
    assert studio.notes(studio.request("red house " * 30, model="xl")) == []
    assert studio.notes(studio.request(long)) == [], "Stable Diffusion 1.x reads all chunks alike"


def write_xl(folder: Path) -> None:
    write_model(folder)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionXLPipeline"}))
    shutil.copytree(folder / "text_encoder", folder / "text_encoder_2")
    shutil.copytree(POCKET / "tokenizer", folder / "tokenizer")


@pytest.mark.parametrize("field", ["prompt", "negative_prompt", "hires_prompt", "hires_negative_prompt"])
def test_each_picture_of_a_template_names_its_own_embeddings(field: str, folder: Path, studio: Studio) -> None:
    for name in ("sea", "sky"):
        write(folder / f"{name}.safetensors")
    fields = {"prompt": "a house", "hires_scale": 2.0, field: "{sea|sky}", "num_inference_steps": 2, "seed": 1}

    images = studio.generate({**fields, "num_images": 8}, progress=False)

    assert [set(image.request.embeddings) for image in images] == [{getattr(image.request, field)} for image in images]
    assert len({getattr(image.request, field) for image in images}) == 2
