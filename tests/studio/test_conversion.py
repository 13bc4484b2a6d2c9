"""Pickles become files that the studio uses: what was an embedding, a LoRA or a part of a model paints as it should."""

import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.spec.errors import GenerationFailed, InvalidRequest, ModelError, NotFound
from studio import Settings, Studio
from studio.conversion import convert
from studio.store import POCKET, find_model
from tests.pipelines.embedding_files import token_vectors

TENSORS = {"a": torch.ones(2, 3), "b": torch.zeros(4, 4)}
LORA = "lora_unet_down_blocks_0_attentions_0_proj_in"
LORAS = Path(__file__).parents[2] / "loras"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.save({"params_ema": TENSORS, "params": TENSORS, "epoch": 3}, tmp_path / "4x.net.pth")
    return tmp_path / "4x.net.pth"


def test_the_new_file_lies_beside_the_pickle_which_stays(file: Path) -> None:
    before = file.read_bytes()

    made = convert(file)

    assert made.path == file.with_name("4x.net.safetensors")
    assert (made.num_tensors, made.left_out) == (2, ("params", "epoch"))
    assert {name: tensor.tolist() for name, tensor in load_file(made.path).items()} == {
        name: tensor.tolist() for name, tensor in TENSORS.items()
    }
    assert file.read_bytes() == before
    assert sorted(path.name for path in file.parent.iterdir()) == ["4x.net.pth", "4x.net.safetensors"]


def test_it_goes_where_it_is_told(file: Path, tmp_path: Path) -> None:
    (tmp_path / "upscalers").mkdir()

    assert convert(file, tmp_path / "upscalers").path == tmp_path / "upscalers/4x.net.safetensors"
    assert convert(file, tmp_path / "new" / "x.safetensors").path.is_file()
    with pytest.raises(InvalidRequest, match=r"must end in \.safetensors, or nothing here reads it; got x\.pt"):
        convert(file, tmp_path / "x.pt")


def test_nothing_is_replaced_unless_asked(file: Path) -> None:
    target = file.with_name("4x.net.safetensors")
    target.write_text("mine")

    with pytest.raises(InvalidRequest, match=r"4x\.net\.safetensors exists already; .* --overwrite"):
        convert(file)
    assert target.read_text() == "mine"
    assert convert(file, overwrite=True).path == target
    assert load_file(target).keys() == TENSORS.keys()


def test_a_pickle_that_bears_the_wrong_name_is_not_replaced(file: Path) -> None:
    disguised = file.rename(file.with_name("x.safetensors"))

    with pytest.raises(InvalidRequest, match=r"x\.safetensors is the pickle itself; name another"):
        convert(disguised, overwrite=True)
    assert convert(disguised, file.with_name("y.safetensors")).num_tensors == 2


def test_what_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    torch.save({"a": torch.tensor([float("nan")])}, tmp_path / "x.pt")

    with pytest.raises(ModelError, match="a holds NaN or infinity"):
        convert(tmp_path / "x.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


@pytest.mark.parametrize(
    ("content", "kind", "sentence"),
    [
        (None, NotFound, r"there is no file .*x\.pt"),
        ("folder", InvalidRequest, r"x\.pt is a folder; name one file in it"),
        ("safetensors", InvalidRequest, r"x\.pt is a safetensors file already; call it x\.safetensors"),
        (b"", ModelError, r"x\.pt is no pickle: it is empty; download it again"),
        (b"GGUF" + bytes(99), ModelError, r"x\.pt is no pickle: it is a GGUF file"),
        (b"<!DOCTYPE html>", ModelError, r"x\.pt is no pickle: it is a web page"),
        (b"\x01" * 99, ModelError, r"x\.pt is no pickle: it is something else, or damaged"),
        (b"PK\x03\x04" + bytes(99), ModelError, r"x\.pt cannot be read: it is cut short, damaged"),
    ],
    ids=str,
)
def test_what_is_no_pickle_is_called_by_name(content: Any, kind: Any, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    match content:
        case "folder":
            path.mkdir()
        case "safetensors":
            save_file(TENSORS, path)
        case bytes():
            path.write_bytes(content)

    with pytest.raises(kind, match=sentence):
        convert(path)


class Evil:
    mark: Path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"echo ran > {Evil.mark}",)


def test_a_pickle_with_code_in_it_is_refused_and_does_not_run(tmp_path: Path) -> None:
    Evil.mark = tmp_path / "ran"
    (tmp_path / "x.pt").write_bytes(pickle.dumps({"a": Evil()}, protocol=2))

    with pytest.raises(ModelError, match=r"x\.pt is not converted: it asks for \w+\.system, and only tensors"):
        convert(tmp_path / "x.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


@pytest.mark.parametrize(
    ("tensors", "use"),
    [
        ({"string_to_param": {"*": torch.ones(2, 768)}}, "an embedding for Stable Diffusion 1.x (768); in embeddings/"),
        ({"<cat>": torch.ones(1024)}, "an embedding for Stable Diffusion 2.x (1024); "),
        ({f"{LORA}.lora_{side}.weight": torch.ones(4, 4) for side in ("up", "down")}, "a LoRA for loras/"),
        ({"state_dict": {f"{kind}.w": torch.ones(2) for kind in ("model.diffusion_model", "vae")}}, "cannot be used"),
        ({"params": TENSORS}, "if it is an upscale model, it belongs into upscalers/"),
    ],
)
def test_the_user_hears_what_the_file_is_good_for(tensors: Any, use: str, tmp_path: Path) -> None:
    torch.save(tensors, tmp_path / "x.bin")

    assert use in convert(tmp_path / "x.bin").use


# --- what was a pickle, paints


@pytest.fixture
def painter(tmp_path: Path) -> Iterator[Studio]:
    with Studio(Settings(home=tmp_path, devices=("cpu",))) as studio:
        yield studio


def painted(studio: Studio, prompt: str, **fields: Any) -> bytes:
    (image,) = studio.generate(prompt, seed=1, num_inference_steps=2, progress=False, **fields)
    return image.image.tobytes()


def a1111(vectors: torch.Tensor) -> dict[str, Any]:
    parameter = torch.nn.Parameter(vectors)
    return {"string_to_token": {"*": 265}, "string_to_param": {"*": parameter}, "name": "zib", "step": 9}


@pytest.mark.parametrize(
    ("suffix", "layout", "is_zip"),
    [(".pt", a1111, True), (".pt", a1111, False), (".bin", lambda vectors: {"<zib>": vectors}, True)],
    ids=["A1111", "A1111, old", "diffusers"],
)
def test_an_embedding_paints_what_it_means(
    painter: Studio, suffix: str, layout: Any, is_zip: bool, tmp_path: Path
) -> None:
    folder = painter.settings.embeddings_dir
    folder.mkdir()
    (vectors,) = token_vectors(find_model("pocket", tmp_path), "red")
    torch.save(layout(vectors), folder / f"zib{suffix}", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(InvalidRequest, match=r"names embedding 'zib': .*pickle.*`studio convert FILE`"):
        painter.generate("a zib house", progress=False)

    convert(folder / f"zib{suffix}")

    assert [embedding.problem for embedding in painter.embeddings()] == [""]
    assert painted(painter, "a zib house") == painted(painter, "a red house") != painted(painter, "a house")


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".ckpt"])
def test_a_lora_paints_as_before(painter: Studio, suffix: str) -> None:
    tensors = load_file(LORAS / "pixel-art.safetensors")
    folder = painter.settings.lora_folders[0]
    folder.mkdir()
    torch.save({"state_dict": tensors} if suffix == ".ckpt" else tensors, folder / f"mine{suffix}")
    with pytest.raises(InvalidRequest, match=f"mine{suffix} only.*`studio convert FILE`"):
        painter.generate("a house", loras=["mine"], progress=False)

    convert(folder / f"mine{suffix}")

    assert (painter.lora("mine").problem, painter.lora("mine").name) == ("", "mine")
    assert painted(painter, "a house", loras=["mine"]) == painted(painter, "a house", loras=["pixel-art"])


def test_a_diffusers_folder_of_pickles_paints_as_before(painter: Studio) -> None:
    folder = painter.settings.models_dir / "old"
    shutil.copytree(POCKET, folder)
    for part in ("unet", "vae", "text_encoder"):
        (path,) = (folder / part).glob("*.safetensors")
        torch.save(load_file(path), path.with_suffix(".bin"))
        path.unlink()
    with pytest.raises(GenerationFailed, match=r"is a pickle, .*`studio convert FILE`"):
        painted(painter, "a house", model="old")

    uses = {convert(path).use for path in folder.glob("*/*.bin")}

    assert uses == {"a part of a diffusers folder, to stay in it"}
    assert painted(painter, "a house", model="old") == painted(painter, "a house", model="pocket")
