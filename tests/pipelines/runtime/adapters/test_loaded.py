"""LoRA files of every dialect find their layers, all of them or none."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from pipelines.runtime.adapters.layers import Layers, Place
from pipelines.runtime.adapters.loaded import LoadedLora, LoraCache, load
from pipelines.runtime.loading import Components, ModelCache
from pipelines.spec.errors import LoraError
from pipelines.spec.loras import LoraFile
from pipelines.spec.model import Model
from pipelines.spec.safetensors_header import read_header
from tests.pipelines.runtime.adapters import lora_files
from tests.pipelines.runtime.adapters.lora_files import Weights

SGM = {"layers_per_block": 1, "attentive": {0}}


@pytest.fixture(scope="module")
def loaded(sd1: Model, sdxl: Model) -> dict[str, Components]:
    cache = ModelCache(torch.device("cpu"), dtype=torch.float32, max_bytes=10**9)
    return {model.family.name: cache.get(model) for model in (sd1, sdxl)}


def layers_of(components: Components) -> Layers:
    return Layers(components.unet, components.text_encoders)


def read(file: LoraFile, components: Components) -> LoadedLora:
    return load(file, layers=layers_of(components), model_name=components.name)


def found(lora: LoadedLora) -> dict[tuple[str, str], Tensor]:
    """The matrix that each layer was given, with its scale."""
    return {
        (place.part, place.path.removeprefix("text_model.")): (delta.up.flatten(1) @ delta.down.flatten(1))
        * delta.scale
        for place, (delta,) in lora.deltas.items()
    }


def expected(weights: Weights, *, scale: float) -> dict[tuple[str, str], Tensor]:
    return {key: (up.flatten(1) @ down.flatten(1)) * scale for key, (down, up) in weights.items()}


def assert_same(left: dict[Any, Tensor], right: dict[Any, Tensor]) -> None:
    assert left.keys() == right.keys()
    for key, value in left.items():
        torch.testing.assert_close(value, right[key])


DIALECTS: dict[str, tuple[Callable[[Weights], dict[str, Tensor]], float]] = {
    "kohya": (lora_files.kohya, 0.5),
    "kohya te1": (lambda weights: lora_files.kohya(weights, text_prefixes={"text_encoder": "lora_te1_"}), 0.5),
    "kohya sgm": (lambda weights: lora_files.kohya(weights, sgm=SGM), 0.5),
    "diffusers": (lora_files.dotted, 1.0),
    "diffusers .lora.": (lambda weights: lora_files.dotted(weights, names=("lora.down", "lora.up")), 1.0),
    "kohya's tensors behind names with dots": (
        lambda weights: lora_files.dotted(weights, names=("lora_down", "lora_up")),
        1.0,
    ),
    "diffusers linear layer": (
        lambda weights: lora_files.dotted(weights, names=("lora_linear_layer.down", "lora_linear_layer.up")),
        1.0,
    ),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_finds_the_same_layers(dialect: str, loaded: dict[str, Components], tmp_path: Path) -> None:
    weights = lora_files.random_weights(loaded["sd1"])
    write, scale = DIALECTS[dialect]

    lora = read(lora_files.write(tmp_path / "a.safetensors", write(weights)), loaded["sd1"])

    assert_same(found(lora), expected(weights, scale=scale))
    on_text = sum(part == "text_encoder" for part, _ in weights)
    total = len(weights)
    assert lora.audit(lora.deltas) == f"{total}/{total}: text encoder {on_text}, unet {total - on_text}"


@pytest.mark.parametrize("zero", ["up", "both", "text encoder only", "none"])
def test_zeros_are_said_to_change_nothing(zero: str, loaded: dict[str, Components], tmp_path: Path) -> None:
    """A LoRA that was never trained has zeros in one of its factors, and noise in the other."""
    weights = {
        key: (
            down * 0 if zero == "both" else down,
            up * 0 if zero in {"up", "both"} or (zero, key[0]) == ("text encoder only", "text_encoder") else up,
        )
        for key, (down, up) in lora_files.random_weights(loaded["sd1"]).items()
    }

    lora = read(lora_files.write(tmp_path / "a.safetensors", lora_files.kohya(weights)), loaded["sd1"])

    on_text = [place for place in lora.deltas if not place.is_in_denoiser]
    assert lora.audit(lora.deltas).endswith("; all zeros, which change nothing") is (zero in {"up", "both"})
    assert lora.audit(on_text).endswith("; all zeros, which change nothing") is (zero != "none")


def test_peft_and_old_processors(loaded: dict[str, Components], tmp_path: Path) -> None:
    weights = lora_files.random_weights(loaded["sd1"], parts=("unet",))
    on_attention = {key: value for key, value in weights.items() if ".attn" in key[1]}

    peft = read(
        lora_files.write(tmp_path / "a.safetensors", lora_files.dotted(weights, prefix="base_model.model.")),
        loaded["sd1"],
    )
    old = read(lora_files.write(tmp_path / "b.safetensors", lora_files.processors(weights)), loaded["sd1"])

    assert_same(found(peft), expected(weights, scale=1.0))
    assert_same(found(old), expected(on_attention, scale=1.0))


def test_alpha_of_diffusers_metadata_counts(loaded: dict[str, Components], tmp_path: Path) -> None:
    weights = lora_files.random_weights(loaded["sd1"], parts=("unet",))
    metadata = {"lora_adapter_metadata": '{"unet.r": 2, "unet.lora_alpha": 8}'}

    lora = read(lora_files.write(tmp_path / "a.safetensors", lora_files.dotted(weights), metadata), loaded["sd1"])

    assert_same(found(lora), expected(weights, scale=4.0))


def test_every_layer_has_the_alpha_that_peft_gave_it(loaded: dict[str, Components], tmp_path: Path) -> None:
    """By part of the model, by layer, and by the square root of the rank."""
    weights = lora_files.random_weights(loaded["sd1"])
    (special, *_) = [path for part, path in weights if part == "unet" and path.endswith("to_k")]
    config = {
        "unet.lora_alpha": 8,
        "unet.alpha_pattern": {special: 6},
        "text_encoder.lora_alpha": 3,
        "text_encoder.use_rslora": True,
    }
    metadata = {"lora_adapter_metadata": json.dumps(config)}

    lora = read(lora_files.write(tmp_path / "a.safetensors", lora_files.dotted(weights), metadata), loaded["sd1"])

    scales = {place.path: delta.scale for place, (delta,) in lora.deltas.items() if place.part == "unet"}
    assert scales.pop(special) == 3
    assert set(scales.values()) == {4.0}
    assert {d.scale for p, (d,) in lora.deltas.items() if p.part == "text_encoder"} == {3 / 2**0.5}


def test_peft_notes_the_alpha_beside_its_file(loaded: dict[str, Components], tmp_path: Path) -> None:
    weights = lora_files.random_weights(loaded["sd1"], parts=("unet",))
    (special, *_) = [path for _, path in weights if path.endswith("to_k")]
    tensors = lora_files.dotted(weights, prefix="base_model.model.")
    file = lora_files.write(tmp_path / "adapter_model.safetensors", tensors)
    beside = tmp_path / "adapter_config.json"
    cache = LoraCache(layers_of(loaded["sd1"]), model_name="sd1")

    def scales() -> dict[str, float]:
        return {place.path: delta.scale for place, (delta,) in cache.get(file).deltas.items()}

    assert set(scales().values()) == {1.0}
    beside.write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 8, "alpha_pattern": {special: 6}}))
    noted = scales()
    assert noted.pop(special) == 3
    assert set(noted.values()) == {4.0}
    audit = cache.get(file).audit(cache.get(file).deltas)
    assert re.fullmatch(r"(\d+)/\1: unet \1; strengths as noted \([0-9a-f]{8}\)", audit), audit
    beside.write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4.5}))
    assert cache.get(file).audit(cache.get(file).deltas) not in {audit, ""}, "the record of a picture tells them apart"
    own = lora_files.write(tmp_path / "other.safetensors", lora_files.dotted(weights))
    assert {d.scale for (d,) in cache.get(own).deltas.values()} == {1.0}, "it is not PEFT's"
    for text in ("{", "[]", '{"lora_alpha": "much"}', " " * 2**20 + "{}"):
        beside.write_text(text)
        with pytest.raises(LoraError, match=r"LoRA 'adapter_model' cannot be applied: .* has adapter_config.json "):
            cache.get(file)


@pytest.mark.parametrize("text", ["[]", "{", '{"unet.lora_alpha": "much"}', '{"unet.lora_alpha": 1e999}', "[" * 9999])
def test_a_scale_that_makes_no_sense_is_refused(text: str, loaded: dict[str, Components], tmp_path: Path) -> None:
    weights = lora_files.random_weights(loaded["sd1"], parts=("unet",))
    file = lora_files.write(tmp_path / "a.safetensors", lora_files.dotted(weights), {"lora_adapter_metadata": text})

    with pytest.raises(LoraError, match=r"LoRA 'a' cannot be applied: .* has lora_adapter_metadata that "):
        read(file, loaded["sd1"])


def test_files_of_peft_for_a_text_encoder_alone(loaded: dict[str, Components], tmp_path: Path) -> None:
    weights = lora_files.random_weights(loaded["sd1"], parts=("text_encoder",))
    tensors = lora_files.dotted(weights, prefix="base_model.model.")
    tensors = {key.replace("model.text_encoder.", "model.text_model."): value for key, value in tensors.items()}

    lora = read(lora_files.write(tmp_path / "a.safetensors", tensors), loaded["sd1"])

    assert_same(found(lora), expected(weights, scale=1.0))


def test_tensors_do_not_lie_in_the_file(loaded: dict[str, Components], tmp_path: Path) -> None:
    """Where a tensor lies decides in which order its numbers are added up, and a file may put it anywhere."""
    weights = lora_files.random_weights(loaded["sd1"])
    file = lora_files.write(tmp_path / "a.safetensors", lora_files.kohya(weights), {"odd": "x" * 37})

    lora = read(file, loaded["sd1"])

    tensors = [tensor for deltas in lora.deltas.values() for delta in deltas for tensor in delta.tensors()]
    assert all(tensor.data_ptr() % 64 == 0 for tensor in tensors)
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == len(tensors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn])
def test_tensors_of_any_precision_may_begin_at_any_byte(
    dtype: torch.dtype, loaded: dict[str, Components], tmp_path: Path
) -> None:
    """safetensors' own writer keeps them apart, others need not."""
    weights = lora_files.random_weights(loaded["sd1"])
    tensors = {key: value.to(dtype) for key, value in lora_files.kohya(weights).items()}
    even = lora_files.write(tmp_path / "even.safetensors", tensors)
    tensors = {key: value.to(torch.uint8) if key.endswith("alpha") else value for key, value in tensors.items()}

    odd = lora_files.write_packed(tmp_path / "odd.safetensors", tensors)

    assert any(info.data_offsets[0] % 2 for info in read_header(odd.path).tensors.values())
    for place, value in found(read(odd, loaded["sd1"])).items():
        assert torch.equal(value, found(read(even, loaded["sd1"]))[place])


def test_numbers_that_cannot_be_read_are_refused(loaded: dict[str, Components], tmp_path: Path) -> None:
    tensors = lora_files.kohya(lora_files.random_weights(loaded["sd1"]))
    file = lora_files.write(tmp_path / "a.safetensors", tensors)

    def rename(header: dict[str, Any]) -> None:
        for key in tensors:
            header[key]["dtype"] = "U32"

    lora_files.edited(file.path, rename)

    with pytest.raises(LoraError, match=r"LoRA 'a': lora_\S+ is of U32, and BOOL, .* can be read; save it in F16"):
        read(file, loaded["sd1"])


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int64])
def test_weights_that_are_no_floats_are_refused(
    dtype: torch.dtype, loaded: dict[str, Components], tmp_path: Path
) -> None:
    """A single number may be whole, as alpha is."""
    tensors = lora_files.kohya(lora_files.random_weights(loaded["sd1"]))
    whole = {key: value.to(dtype) for key, value in tensors.items() if key.endswith("alpha")}
    read(lora_files.write(tmp_path / "alpha.safetensors", {**tensors, **whole}), loaded["sd1"])
    file = lora_files.write(tmp_path / "a.safetensors", {key: value.to(dtype) for key, value in tensors.items()})

    with pytest.raises(LoraError, match=r"LoRA 'a': lora_\S+ is of \w+, where weights are floats; save it in F16"):
        read(file, loaded["sd1"])


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("bundle_emb.sea", "has 'bundle_emb.sea', where bundle_emb.NAME"),
        ("bundle_emb.sea.", "has 'bundle_emb.sea.', where bundle_emb.NAME"),
        ("bundle_emb..clip_l", "brings an embedding called ''"),
    ],
)
def test_bundles_that_say_nothing_are_refused(
    key: str, reason: str, loaded: dict[str, Components], tmp_path: Path
) -> None:
    tensors = lora_files.kohya(lora_files.random_weights(loaded["sd1"]))
    file = lora_files.write(tmp_path / "a.safetensors", {**tensors, key: torch.ones(2, 32)})

    with pytest.raises(LoraError, match=rf"LoRA 'a' cannot be applied: .*a.safetensors {reason}"):
        read(file, loaded["sd1"])


def test_sdxl_has_two_text_encoders(loaded: dict[str, Components], tmp_path: Path) -> None:
    weights = lora_files.random_weights(loaded["sdxl"], parts=("unet", "text_encoder", "text_encoder_2"))
    prefixes = {"text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}

    for tensors in (
        lora_files.kohya(weights, text_prefixes=prefixes),
        lora_files.kohya(weights, text_prefixes=prefixes, sgm=SGM),
    ):
        lora = read(lora_files.write(tmp_path / "a.safetensors", tensors), loaded["sdxl"])

        assert_same(found(lora), expected(weights, scale=0.5))
    assert lora.audit(lora.deltas).startswith(f"{len(weights)}/{len(weights)}: text encoder ")
    assert ", text encoder 2 " in lora.audit(lora.deltas)


def test_sgm_names_are_those_of_diffusers_own_conversion() -> None:
    """Against the table that diffusers converts Stability's checkpoints with."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        cross_attention_dim=8,
        attention_head_dim=8,
        norm_num_groups=4,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=32,
    )
    from pipelines.runtime.adapters.layers import sgm_path

    names = {name.rpartition(".") for name in unet.state_dict()}
    ldm = {
        f"model.diffusion_model.{sgm_path(path, layers_per_block=2, attentive={0, 1})}.{kind}": torch.tensor(number)
        for number, (path, _, kind) in enumerate(sorted(names))
    }

    converted = convert_ldm_unet_checkpoint(ldm, {**unet.config, "class_embed_type": None})

    wanted = {f"{path}.{kind}": number for number, (path, _, kind) in enumerate(sorted(names))}
    assert {name: int(value) for name, value in converted.items()} == wanted


def test_an_encoder_with_one_projection_only(loaded: dict[str, Components], tmp_path: Path) -> None:
    """diffusers refuses it, or drops the attention part."""
    weights = lora_files.random_weights(loaded["sd1"], parts=("text_encoder",))
    only = {key: value for key, value in weights.items() if key[1].endswith("q_proj")}

    lora = read(lora_files.write(tmp_path / "a.safetensors", lora_files.kohya(only)), loaded["sd1"])

    assert_same(found(lora), expected(only, scale=0.5))
    assert lora.audit(lora.deltas) == f"{len(only)}/{len(only)}: text encoder {len(only)}"


def test_what_does_not_fit_is_refused_whole(loaded: dict[str, Components], tmp_path: Path) -> None:
    theirs = lora_files.write(
        tmp_path / "xl.safetensors", lora_files.kohya(lora_files.random_weights(loaded["sdxl"], parts=("unet",)))
    )
    sides = "it was made for text of width 64, and model sd1 is for text of width 32"
    with pytest.raises(LoraError, match=rf"LoRA 'xl' does not fit model sd1: {sides}; \S+attn2\S+ has lora_down"):
        read(theirs, loaded["sd1"])
    width = {"lora_unet_nowhere_attn2_to_k.lora_down.weight": torch.zeros(2, 2048)}
    with pytest.raises(
        LoraError, match=r"made for Stable Diffusion XL \(text of width 2048\), and model sd1 is for text"
    ):
        read(lora_files.write(tmp_path / "wide.safetensors", width), loaded["sd1"])

    ours = lora_files.kohya(lora_files.random_weights(loaded["sd1"]))
    flux = {"lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": torch.zeros(2, 8)}
    with pytest.raises(LoraError, match="changes no layer of model sd1: none of its 1 keys"):
        read(lora_files.write(tmp_path / "flux.safetensors", flux), loaded["sd1"])
    with pytest.raises(LoraError, match=r"model sd1 in part only: 1 of its \d+ keys belong to no layer, first lora"):
        read(lora_files.write(tmp_path / "half.safetensors", {**ours, **flux}), loaded["sd1"])


def test_damaged_files_are_refused(loaded: dict[str, Components], tmp_path: Path) -> None:
    tensors = lora_files.kohya(lora_files.random_weights(loaded["sd1"]))
    key = next(iter(tensors))
    for number in (float("nan"), float("inf")):
        for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2):
            spoiled = {**tensors, key: torch.full_like(tensors[key], number).to(dtype)}
            with pytest.raises(LoraError, match=f"{key} holds NaN or infinity"):
                read(lora_files.write(tmp_path / "nan.safetensors", spoiled), loaded["sd1"])

    file = lora_files.write(tmp_path / "a.safetensors", tensors)
    file.path.write_bytes(file.path.read_bytes()[:-10])
    with pytest.raises(LoraError, match=r"LoRA 'a': .*cut short"):
        read(file, loaded["sd1"])

    file.path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(LoraError, match=r"LoRA 'a': .*a zip archive, and most likely a pickle"):
        read(file, loaded["sd1"])
    file.path.unlink()
    with pytest.raises(LoraError, match=r"LoRA 'a': .*No such file"):
        LoraCache(layers_of(loaded["sd1"]), model_name="sd1").get(file)

    file = lora_files.write(tmp_path / "b.safetensors", tensors)
    lora_files.write(tmp_path / "b.safetensors", {name: value * 2 for name, value in tensors.items()})
    with pytest.raises(LoraError, match=r"b.safetensors has changed: its tensors have the hash \w{12}, and"):
        read(file, loaded["sd1"])


def test_the_names_of_tensors_count_too(loaded: dict[str, Components], tmp_path: Path) -> None:
    """They stand in the header, which the hash leaves out."""
    weights = lora_files.random_weights(loaded["sd1"], parts=("unet",))
    file = lora_files.write(tmp_path / "a.safetensors", lora_files.kohya(weights))
    cache = LoraCache(layers_of(loaded["sd1"]), model_name="sd1")
    before = found(cache.get(file))
    queries, keys = [next(p for _, p in weights if p.endswith(f"attn1.{name}")) for name in ("to_q", "to_k")]

    def exchange(header: dict[str, Any]) -> None:
        for kind in ("lora_down.weight", "lora_up.weight"):
            one, other = (f"lora_unet_{path.replace('.', '_')}.{kind}" for path in (queries, keys))
            header[one], header[other] = header[other], header[one]

    lora_files.edited(file.path, exchange)
    after = found(cache.get(file))

    assert torch.equal(after["unet", queries], before["unet", keys])
    assert not torch.equal(after["unet", queries], before["unet", queries])


@pytest.mark.parametrize(("family", "parts"), [("sd1", ["string_to_param.*"]), ("sdxl", ["clip_g", "clip_l"])])
def test_embeddings_in_the_same_file_are_counted(
    family: str, parts: list[str], loaded: dict[str, Components], tmp_path: Path
) -> None:
    weights = lora_files.random_weights(loaded[family], parts=("unet",))
    bundle = {f"bundle_emb.sea.{part}": torch.full((3, 32), float(number)) for number, part in enumerate(parts)}
    tensors = lora_files.kohya(weights)

    lora = read(lora_files.write(tmp_path / "a.safetensors", {**tensors, **bundle}), loaded[family])

    assert lora.audit(lora.deltas) == f"{len(weights) + 1}/{len(weights) + 1}: embeddings 1, unet {len(weights)}"
    assert [float(each.mean()) for each in lora.embeddings["sea"]] == ([0.0] if family == "sd1" else [1.0, 0.0])
    bundle = {f"bundle_emb.sea.{part}": torch.ones(3, 31) for part in parts}
    with pytest.raises(LoraError, match=r"brings embedding 'sea' for .* of width 31.*, and this model takes 32"):
        read(lora_files.write(tmp_path / "a.safetensors", {**tensors, **bundle}), loaded[family])


def test_the_cache_keeps_what_was_used_last(loaded: dict[str, Components], tmp_path: Path) -> None:
    weights = lora_files.random_weights(loaded["sd1"])
    files = [
        lora_files.write(
            tmp_path / f"{number}.safetensors",
            {key: value * (number + 1) for key, value in lora_files.kohya(weights).items()},
        )
        for number in range(3)
    ]
    cache = LoraCache(layers_of(loaded["sd1"]), model_name="sd1")
    first, second, third = map(cache.get, files)
    cache = LoraCache(layers_of(loaded["sd1"]), model_name="sd1", max_bytes=2 * first.num_bytes)

    kept = [cache.get(file) for file in files]
    assert cache.get(files[0]) is kept[0]
    cache.shrink()

    assert cache.get(files[0]) is kept[0]
    assert cache.get(files[2]) is kept[2]
    assert cache.get(files[1]) is not kept[1]
    assert second.stamp != third.stamp
    assert all(isinstance(place, Place) for place in first.deltas)
