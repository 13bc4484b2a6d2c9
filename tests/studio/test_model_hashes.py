"""Models are told by their weights: on disk, in what pictures say, when these are read and when they are verified."""

import hashlib
from pathlib import Path

import pytest

from pipelines.spec.errors import StorageError
from studio import Settings, Studio
from studio.metadata import Note, Outcome, a1111_keys, read_texts
from studio.storage import Storage
from studio.store import FileHashes, model_hashes
from studio.verification import Difference
from tests.studio.conftest import write_model

UNET, VAE = b"the weights of a U-Net", b"the weights of a VAE"
TOY = hashlib.sha256((hashlib.sha256(UNET).hexdigest() + hashlib.sha256(VAE).hexdigest()).encode()).hexdigest()


@pytest.fixture
def toy(settings: Settings) -> Path:
    """The folder of the model `toy`, with weights."""
    folder = settings.models_dir / "toy"
    (folder / "unet/diffusion_pytorch_model.safetensors").write_bytes(UNET)
    (folder / "vae/diffusion_pytorch_model.safetensors").write_bytes(VAE)
    return folder


def add(settings: Settings, name: str, unet: bytes) -> Path:
    folder = settings.models_dir / name
    write_model(folder)
    (folder / "unet/model.safetensors").write_bytes(unet)
    return folder


def note_on_model(studio: Studio, path: Path, text: str) -> Note:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    chunks.add_text(a1111_keys.KEY, f"a boat\nSteps: 20, Sampler: Euler, Seed: 1, {text}")
    Image.new("RGB", (64, 64)).save(path, pnginfo=chunks)
    return next(note for note in studio.read(path).notes if note.field == "model")


def test_pictures_and_their_names_say_the_hash_of_the_model(settings: Settings, toy: Path) -> None:
    add(settings, "other", b"other weights")
    other = hashlib.sha256(hashlib.sha256(b"other weights").hexdigest().encode()).hexdigest()
    with Studio(settings.model_copy(update={"filename_pattern": "[model_hash]-[seed]"})) as studio:
        (made,) = studio.generate("a boat", seed=3, hires_scale=2.0, hires_model="other", progress=False)

    assert (made.provenance["model_hash"], made.provenance["hires_model_hash"]) == (TOY, other)
    assert made.path.name == f"{TOY[:10]}-3.png"
    text = read_texts(made.path)[a1111_keys.KEY]
    assert f", Size: 128x128, Model hash: {TOY[:10]}, Model: toy, " in text
    assert f", Hires checkpoint: other [{other[:10]}], " in text


def test_a_hash_is_asked_of_the_database_once_and_again_when_the_file_changes(settings: Settings, toy: Path) -> None:
    storage = Storage.open(settings)
    hashes, path = FileHashes(storage.database), toy / "unet/diffusion_pytorch_model.safetensors"
    known = hashes.of(path)
    storage.database.close()
    (settings.outputs_dir / "studio.db").unlink()

    assert hashes.of(path) == known
    path.write_bytes(b"other weights")
    with pytest.raises(StorageError):
        hashes.of(path)


def test_a_hash_is_known_once_the_model_has_painted_and_until_a_file_changes(studio: Studio, toy: Path) -> None:
    assert studio.model_hashes() == {}

    studio.generate("a boat", progress=False)

    assert studio.model_hashes() == {"toy": TOY}
    (toy / "vae/diffusion_pytorch_model.safetensors").write_bytes(b"other weights")
    assert studio.model_hashes() == {}


def test_what_is_not_painted_names_no_weights(studio: Studio, toy: Path) -> None:
    (small,) = studio.generate("a boat", progress=False)

    assert "model_hash" not in studio.upscale(small, progress=False).provenance


@pytest.mark.parametrize(
    ("text", "outcome", "why"),
    [
        (f"Model hash: {TOY[:10]}, Model: toy", Outcome.USED, "as it is"),
        (f"Model hash: {TOY[:10]}, Model: long gone", Outcome.USED, "found as toy"),
        (f"Model hash: {TOY[:10]}", Outcome.USED, "found as toy"),
        ("Model hash: deadbeef12, Model: toy", Outcome.APPROXIMATED, "the hash of toy is not [deadbeef12]: other weig"),
        ("Model hash: deadbeef12, Model: gone", Outcome.MISSING, "no model 'gone' [deadbeef12] is installed"),
        ("Model hash: deadbeef12", Outcome.MISSING, "no model  [deadbeef12] is installed"),
        (f"Model hash: {TOY[:4]}", Outcome.MISSING, "is installed"),
        ("Model: TOY", Outcome.USED, "found as toy"),
    ],
)
def test_a_model_is_read_by_its_hash_and_then_by_its_name(
    studio: Studio, settings: Settings, toy: Path, text: str, outcome: Outcome, why: str
) -> None:
    add(settings, "another", b"other weights")

    note = note_on_model(studio, settings.home / "foreign.png", text)

    assert note.outcome is outcome
    assert why in note.why


def test_a_checkpoint_of_the_second_pass_is_read_by_its_hash(studio: Studio, settings: Settings, toy: Path) -> None:
    (made,) = studio.generate("a boat", hires_scale=2.0, hires_model="toy", progress=False)
    add(settings, "renamed", b"other weights")

    text = f"Size: 64x64, Hires upscale: 2, Hires checkpoint: gone [{TOY[:10]}]"
    note_on_model(studio, settings.home / "foreign.png", f"Model: renamed, {text}")

    assert studio.read(settings.home / "foreign.png").request_fields["hires_model"] == "toy"
    assert "hires_model_hash" not in made.provenance


def test_only_so_much_is_read_to_find_a_hash(
    studio: Studio, settings: Settings, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(settings, "large", b"x" * 99)
    large = hashlib.sha256(hashlib.sha256(b"x" * 99).hexdigest().encode()).hexdigest()
    monkeypatch.setattr(model_hashes, "MAX_SEARCH_BYTES", 50)

    assert studio.find_model("", large) is None
    assert studio.find_model("", TOY) == "toy"
    assert studio.find_model("large", large) == "large"
    assert studio.find_model("", large) == "large"  # it is known now


def test_a_renamed_model_is_no_difference_and_a_changed_one_is_named(studio: Studio, settings: Settings) -> None:
    folder = add(settings, "toy", UNET)
    (made,) = studio.generate("a boat", progress=False)
    folder.rename(settings.models_dir / "renamed")

    renamed = studio.verify(made.path, progress=False)
    folder = add(settings, "toy", b"trained on")
    (settings.models_dir / "renamed/unet/model.safetensors").unlink()
    changed = studio.verify(made.path, progress=False)

    assert renamed.differences == ()
    before, after = (hashlib.sha256(hashlib.sha256(w).hexdigest().encode()) for w in (UNET, b"trained on"))
    assert changed.differences == (Difference("model toy", before.hexdigest()[:12], after.hexdigest()[:12]),)
