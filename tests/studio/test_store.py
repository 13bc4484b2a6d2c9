"""Models on disk: what is read from their configuration, and broken ones named, not loaded."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.spec.errors import ModelError, NotFound
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import resolve
from studio.store import POCKET, find_model, installed_models
from tests.studio.conftest import write_model


def test_a_models_size_defaults_and_licence_are_read(tmp_path: Path) -> None:
    write_model(tmp_path / "toy")
    model = find_model("toy", tmp_path)
    assert (model.native_width, model.native_height, model.unet_in_channels) == (128, 128, 4)
    assert (model.family.name, model.licence, model.openness) == ("sd1", "Apache-2.0", "unknown")
    assert model.default("num_inference_steps") == 4
    assert model.default("guidance_scale") == 7.0


def test_a_size_may_be_rows_and_columns(tmp_path: Path) -> None:
    write_model(tmp_path / "toy")
    (tmp_path / "toy/unet/config.json").write_text('{"sample_size": [8, 16], "in_channels": 9}')
    model = find_model("toy", tmp_path)
    assert (model.native_width, model.native_height, model.unet_in_channels) == (128, 64, 9)


def test_the_list_is_sorted_and_the_pocket_model_is_in_it_once_it_ships(tmp_path: Path) -> None:
    for name in ("b", "a", "ünï"):
        write_model(tmp_path / name)
    names = [model.name for model in installed_models(tmp_path)]
    shipped = ["pocket"] if (POCKET / "model_index.json").is_file() else []
    assert names == [*shipped, "a", "b", "ünï"]


def test_a_missing_model_is_named_with_those_there_are(tmp_path: Path) -> None:
    write_model(tmp_path / "toy")
    with pytest.raises(NotFound, match=r"model 'fancy' is not installed; installed are: .*toy \(models live in "):
        find_model("fancy", tmp_path)


@pytest.mark.parametrize("name", ["", ".", "..", "../toy", "/", "toy/", "toy/unet", "a\0", "\udcff", "TOY"])
def test_a_name_is_never_a_path(name: str, tmp_path: Path) -> None:
    write_model(tmp_path / "models" / "toy")
    write_model(tmp_path / "toy")
    with pytest.raises(NotFound):
        find_model(name, tmp_path / "models")


BROKEN: list[tuple[str, Any, str]] = [
    ("model_index.json", "{", r"model_index.json cannot be read as JSON: "),
    ("model_index.json", b"\xff\xfe", r"model_index.json cannot be read as JSON: "),
    ("model_index.json", "[" * 100_000, r"model_index.json cannot be read as JSON: "),
    ("model_index.json", [], r"model_index.json must hold a JSON object"),
    ("model_index.json", {}, r"names 'None', which no known family runs; known are "),
    ("model_index.json", {"_class_name": "EvilPipeline"}, r"names 'EvilPipeline', which no known family runs"),
    ("model_index.json", {"_class_name": ["x"]}, r"which no known family runs"),
    ("unet/config.json", None, r"unet.config.json is missing; copy the whole model folder again"),
    ("vae/config.json", None, r"vae.config.json is missing; copy the whole model folder again"),
    ("unet/config.json", {}, r"model toy: .*sample_size"),
    ("unet/config.json", {"sample_size": 16}, r"model toy: .*in_channels"),
    ("unet/config.json", {"sample_size": None, "in_channels": 4}, r"model toy: .*sample_size"),
    ("unet/config.json", {"sample_size": "16", "in_channels": 4}, r"model toy: .*sample_size"),
    ("unet/config.json", {"sample_size": True, "in_channels": 4}, r"model toy: .*sample_size"),
    ("unet/config.json", {"sample_size": 0, "in_channels": 4}, r"model toy: .*sample_size"),
    ("unet/config.json", {"sample_size": -16, "in_channels": 4}, r"model toy: .*sample_size"),
    ("unet/config.json", {"sample_size": 10**9, "in_channels": 4}, r"model toy: .*sample_size"),
    ("unet/config.json", {"sample_size": [16, 16, 16], "in_channels": 4}, r"model toy: .*sample_size"),
    ("unet/config.json", {"sample_size": 16, "in_channels": [4]}, r"model toy: .*in_channels"),
    ("vae/config.json", {"block_out_channels": 4}, r"model toy: .*block_out_channels"),
    ("vae/config.json", {"block_out_channels": []}, r"model toy: .*block_out_channels"),
    ("vae/config.json", {"block_out_channels": "abcd"}, r"model toy: .*block_out_channels"),
    ("studio.json", "nonsense", r"studio.json cannot be read as JSON: "),
    ("studio.json", {"defaults": []}, r"model toy: studio.json: defaults"),
    ("studio.json", {"defaults": {"magic": 1}}, r"model toy: studio.json: magic is not a field"),
    ("studio.json", {"defaults": {"num_inference_steps": 0}}, r"model toy: studio.json: num_inference_steps must be"),
    ("studio.json", {"defaults": {"width": 512}}, r"model toy: studio.json: width cannot have a default"),
]


@pytest.mark.parametrize(("file", "content", "message"), BROKEN, ids=[f"{b[0]}-{i}" for i, b in enumerate(BROKEN)])
def test_a_broken_model_is_named_when_asked_for_and_hidden_from_the_list(
    file: str, content: object, message: str, tmp_path: Path
) -> None:
    write_model(tmp_path / "whole")
    write_model(tmp_path / "toy")
    match content:
        case None:
            (tmp_path / "toy" / file).unlink()
        case bytes():
            (tmp_path / "toy" / file).write_bytes(content)
        case str():
            (tmp_path / "toy" / file).write_text(content)
        case _:
            (tmp_path / "toy" / file).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=message):
        find_model("toy", tmp_path)
    assert [model.name for model in installed_models(tmp_path) if model.name != "pocket"] == ["whole"]


def test_a_default_of_null_leaves_the_familys(tmp_path: Path) -> None:
    write_model(tmp_path / "toy")
    (tmp_path / "toy/studio.json").write_text('{"defaults": {"scheduler": null}}')
    (resolved,) = resolve(GenerationRequest(), find_model("toy", tmp_path))
    assert resolved.scheduler == "dpmpp_2m"


def test_a_folder_of_models_that_is_not_there_holds_no_models(tmp_path: Path) -> None:
    assert {model.name for model in installed_models(tmp_path / "nowhere")} <= {"pocket"}
