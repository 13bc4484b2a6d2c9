"""Model folders are checked before they are trusted; every refusal names the file and the way out."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from pipelines.runtime.guards import Stage
from pipelines.runtime.loading import ModelCache
from pipelines.runtime.weights import fingerprint
from pipelines.spec.errors import ModelError
from pipelines.spec.model import Model

CopyModel = Callable[..., Model]
CPU = torch.device("cpu")
UNET = "unet/diffusion_pytorch_model.safetensors"


def cache(*, dtype: torch.dtype = torch.float32) -> ModelCache:
    return ModelCache(CPU, dtype=dtype, max_bytes=10**9)


def edit_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def only_pickles(root: Path) -> None:
    weights = root / UNET
    torch.save(load_file(weights), root / "unet/diffusion_pytorch_model.bin")
    weights.unlink()


def drop_a_tensor(root: Path) -> None:
    state = load_file(root / UNET)
    del state["conv_in.weight"]
    save_file(state, root / UNET, metadata={"format": "pt"})


def reshape_a_tensor(root: Path) -> None:
    state = load_file(root / UNET)
    state["conv_in.weight"] = state["conv_in.weight"][:, :3].contiguous()
    save_file(state, root / UNET, metadata={"format": "pt"})


def remove_folder(root: Path) -> None:
    (root / "vae").rename(root.parent / "elsewhere")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no index": (lambda root: (root / "model_index.json").unlink(), r"model_index\.json is missing; download"),
    "bad index": (
        lambda root: (root / "model_index.json").write_text("{"),
        r"model_index\.json cannot be read as JSON",
    ),
    "list as index": (lambda root: (root / "model_index.json").write_text("[]"), "must hold a JSON object, got list"),
    "no component": (lambda root: edit_json(root / "model_index.json", vae=[None, None]), "names no vae, which Stable"),
    "foreign class": (
        lambda root: edit_json(root / "model_index.json", unet=["my_code", "MyUNet"]),
        "unet must be a UNet2DConditionModel for Stable Diffusion 1.x, got MyUNet",
    ),
    "no folder": (remove_folder, "vae is missing; download"),
    "no weights": (lambda root: (root / UNET).unlink(), r"unet holds no \.safetensors file"),
    "pickles": (only_pickles, r"diffusion_pytorch_model\.bin is a pickle, which can run code"),
    "cut short": (lambda root: (root / UNET).write_bytes((root / UNET).read_bytes()[:-100]), "is cut short or padded"),
    "padded": (lambda root: (root / UNET).write_bytes((root / UNET).read_bytes() + b"MZ"), "is cut short or padded"),
    "empty": (lambda root: (root / UNET).write_bytes(b""), "is no safetensors file: its header is cut short"),
    "pickle inside": (lambda root: (root / UNET).write_bytes(pickle.dumps([1] * 99)), "is no safetensors file"),
    "bad component config": (
        lambda root: (root / "unet/config.json").write_text("{"),
        r"unet.config\.json cannot be read",
    ),
    "bad scheduler config": (
        lambda root: (root / "scheduler/scheduler_config.json").unlink(),
        r"scheduler_config\.json is missing",
    ),
    "unknown prediction": (
        lambda root: edit_json(root / "scheduler/scheduler_config.json", prediction_type="flow_prediction"),
        "prediction_type flow_prediction; only models trained to predict epsilon, v_prediction, sample can be run",
    ),
    "another process": (
        lambda root: edit_json(root / "scheduler/scheduler_config.json", _class_name="EDMEulerScheduler"),
        "says EDMEulerScheduler .* choose another model",
    ),
    "tensor missing": (drop_a_tensor, r"unet lacks 1 tensors .* first conv_in\.weight"),
    "tensor of another shape": (reshape_a_tensor, "unet cannot be loaded|unet lacks 1 tensors"),
    "no vocabulary": (lambda root: (root / "tokenizer/tokenizer.json").write_text("{"), "tokenizer cannot be loaded"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_model_is_refused_in_words(
    sd1: Model, copy_model: CopyModel, damage: Callable[[Path], object], message: str
) -> None:
    model = copy_model(sd1)
    damage(model.path)

    with pytest.raises(ModelError, match=message):
        cache().get(model)


def test_weights_are_converted_and_lie_where_no_file_can_touch_them(sd1: Model) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        components = cache(dtype=dtype).get(sd1)
        for part in (components.unet, components.vae, *components.text_encoders):
            assert {parameter.dtype for parameter in part.parameters()} == {dtype}
            assert {parameter.data_ptr() % 64 for parameter in part.parameters()} == {0}


@pytest.mark.parametrize(("dtype", "vae_dtype"), [(torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16)])
def test_a_vae_known_to_overflow_in_float16_runs_in_float32(
    sd1: Model, dtype: torch.dtype, vae_dtype: torch.dtype
) -> None:
    precision = cache(dtype=dtype).get(sd1).precision

    assert (precision.dtype, precision.vae_dtype, precision.vae_upcast) == (dtype, vae_dtype, False)


@pytest.mark.parametrize("stage", Stage)
def test_upcasting_ends_at_float32(sd1: Model, stage: Stage) -> None:
    models = cache(dtype=torch.bfloat16)
    models.get(sd1)

    precision = models.upcast(sd1, stage)

    assert models.get(sd1).precision == precision
    assert precision is not None
    assert precision.vae_dtype == torch.float32
    assert models.upcast(sd1, stage) is None


@pytest.mark.parametrize("stage", Stage)
def test_upcasting_may_be_for_once(sd1: Model, stage: Stage) -> None:
    models = cache(dtype=torch.bfloat16)
    own = models.get(sd1).precision

    precision = models.upcast(sd1, stage, for_good=False)

    assert models.get(sd1, precision=precision).precision == precision != own
    assert models.get(sd1).precision == own


def test_a_variant_and_shards_are_found(sd1: Model, copy_model: CopyModel) -> None:
    expected = cache().get(sd1).unet.state_dict()
    variant, sharded = copy_model(sd1, "variant"), copy_model(sd1, "sharded")
    (variant.path / UNET).rename(variant.path / "unet/diffusion_pytorch_model.fp16.safetensors")
    unet = diffusers.UNet2DConditionModel.from_pretrained(sd1.path / "unet")
    (sharded.path / UNET).unlink()
    unet.save_pretrained(sharded.path / "unet", max_shard_size="200KB")
    assert len(list((sharded.path / "unet").glob("*-of-*"))) > 1

    for model in (variant, sharded):
        state = cache().get(model).unet.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def test_the_fingerprint_follows_the_weights_and_not_the_place(sd1: Model, copy_model: CopyModel) -> None:
    model = copy_model(sd1)
    before = fingerprint(model.path, (model.path / UNET,))
    assert before == fingerprint(sd1.path, (sd1.path / UNET,))

    state = load_file(model.path / UNET)
    state["conv_out.bias"][0] += 1
    save_file(state, model.path / UNET, metadata={"format": "pt"})

    assert fingerprint(model.path, (model.path / UNET,)) != before


def test_loading_leaves_the_libraries_settings_alone(sd1: Model, capfd: pytest.CaptureFixture[str]) -> None:
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]

    cache().get(sd1)

    assert [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries] == before
    assert capfd.readouterr() == ("", "")
