"""LoRAs in the engine: on where asked, exactly; off afterwards, to the last bit, whatever happened."""

import gc
import json
import sys
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import diffusers
import pytest
import safetensors.torch
import torch

from pipelines.engines.diffusers_engine import DiffusersEngine
from pipelines.runtime.adapters.deltas import Kronecker, LowRank
from pipelines.runtime.adapters.loaded import LoadedLora
from pipelines.runtime.loading import Components, ModelCache
from pipelines.spec.engine import Step
from pipelines.spec.errors import Cancelled, LoraError, NotANumber
from pipelines.spec.lora_tags import parse_lora
from pipelines.spec.loras import LoraFile, ResolvedLora
from pipelines.spec.model import Model
from pipelines.spec.safetensors_header import read_header
from tests.pipelines.embedding_files import token_vectors
from tests.pipelines.engines.lora_sequences import difference, leave_no_trace, make, pixels, request, write_files
from tests.pipelines.runtime.adapters import lora_files
from tests.pipelines.runtime.adapters.lora_files import asked


@pytest.fixture(scope="module")
def components(sd1: Model) -> Components:
    return ModelCache(torch.device("cpu"), dtype=torch.float32, max_bytes=10**9).get(sd1)


@pytest.fixture(scope="module")
def files(components: Components, tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoraFile]:
    return write_files(tmp_path_factory.mktemp("loras"), lora_files.random_weights(components))


@pytest.fixture(scope="module")
def engine() -> DiffusersEngine:
    return DiffusersEngine(device="cpu")


@pytest.mark.parametrize("name", ["both", "text", "unet"])
@pytest.mark.parametrize("weight", [1.0, -0.6])
def test_a_picture_is_that_of_the_merged_weights(
    engine: DiffusersEngine, sd1: Model, files: dict[str, LoraFile], tmp_path: Path, name: str, weight: float
) -> None:
    """The peer is the same engine on a model whose weights diffusers has changed for good."""
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(sd1.path, safety_checker=None)
    pipeline.load_lora_weights(files[name].path)
    pipeline.fuse_lora(lora_scale=weight)
    pipeline.unload_lora_weights()
    pipeline.save_pretrained(tmp_path / "merged")
    merged = Model(**{**sd1.__dict__, "name": "merged", "path": tmp_path / "merged"})

    (ours,) = make(engine, sd1, files, request(sd1, asked(files[name], weight)))

    (theirs,) = make(engine, merged, {}, request(merged))
    (plain,) = make(engine, sd1, files, request(sd1))
    assert difference(ours.image, theirs.image) <= 1
    assert difference(ours.image, plain.image) > 5


def test_what_was_applied_is_told(engine: DiffusersEngine, sd1: Model, files: dict[str, LoraFile]) -> None:
    (made,) = make(engine, sd1, files, request(sd1, asked(files["both"]), asked(files["text"], 0.5)))

    both, text, unet = (_layers(files[name]) for name in ("both", "text", "unet"))
    assert made.provenance["lora both"] == f"{both}/{both}: text encoder {text}, unet {unet}"
    assert made.provenance["lora text"] == f"{text}/{text}: text encoder {text}"


def test_a_changed_note_beside_the_same_tensors_is_noticed(
    engine: DiffusersEngine, sd1: Model, components: Components, tmp_path: Path
) -> None:
    tensors = lora_files.dotted(lora_files.random_weights(components, parts=("text_encoder",)))

    def picture(engine: DiffusersEngine, alpha: float) -> bytes:
        metadata = {"lora_adapter_metadata": json.dumps({"text_encoder.lora_alpha": alpha})}
        file = lora_files.write(tmp_path / "noted.safetensors", tensors, metadata)
        return pixels(make(engine, sd1, {"noted": file}, request(sd1, asked(file))))[0]

    weak, strong = picture(engine, 2), picture(engine, 40)

    assert weak != strong
    assert strong == picture(DiffusersEngine(device="cpu"), 40)


def _layers(file: LoraFile) -> int:
    return len({key.partition(".")[0] for key in read_header(file.path).tensors})


def test_weights_of_text_encoder_unet_and_blocks(
    engine: DiffusersEngine, sd1: Model, files: dict[str, LoraFile]
) -> None:
    both, text, unet = files["both"], files["text"], files["unet"]

    def picture(*loras: ResolvedLora) -> bytes:
        return pixels(make(engine, sd1, files, request(sd1, *loras)))[0]

    plain = picture()
    assert picture(asked(both, 0.0, text_encoder_weight=1.0)) == picture(asked(text))
    assert picture(asked(both, 0.0)) == plain
    assert picture(asked(files["broken"], 0.0)) == plain, "what counts nothing is not even loaded"
    halved = picture(asked(unet, block_weights={"up_blocks": 0.0, "up_blocks.0.attentions.0": 1.0}))
    assert len({plain, halved, picture(asked(unet))}) == 3
    assert picture(asked(unet, 0.5), asked(unet, 0.5)) != plain


def test_a_range_of_steps(engine: DiffusersEngine, sd1: Model, files: dict[str, LoraFile]) -> None:
    def picture(**fields: Any) -> bytes:
        return pixels(make(engine, sd1, files, request(sd1, asked(files["unet"], **fields), num_inference_steps=4)))[0]

    plain = pixels(make(engine, sd1, files, request(sd1, num_inference_steps=4)))[0]
    whole, first, last = picture(), picture(end=0.5), picture(start=0.5)
    assert len({plain, whole, first, last}) == 4
    assert picture(start=0.5, end=0.51) not in {plain, last}, "the third of four steps begins at 0.5"


PARTS = {"down_blocks": 0.0, "mid_block": 0.0, "up_blocks": 0.0}
IDLE: dict[str, tuple[str, dict[str, Any], str]] = {
    "late": ("unet", {"start": 0.8}, "of 4 steps none begins from 0.8 to 1 of them; choose a wider range"),
    "narrow": ("unet", {"start": 0.3, "end": 0.5}, "of 4 steps none begins from 0.3 to 0.5 of them"),
    "narrow, and off on text": ("both", {"start": 0.3, "end": 0.5, "text_encoder_weight": 0.0}, "of 4 steps none"),
    "unet only": (
        "unet",
        {"weight": 0.0, "text_encoder_weight": 1.0},
        "its file changes unet only, where every weight",
    ),
    "text only": ("text", {"text_encoder_weight": 0.0}, "its file changes text encoder only, where .* is 0; give it a"),
    "no block": ("unet", {"block_weights": PARTS}, "its file changes unet only, where every weight asked for is 0"),
}


@pytest.mark.parametrize("case", IDLE)
def test_a_lora_that_would_change_nothing_is_refused(
    engine: DiffusersEngine, sd1: Model, files: dict[str, LoraFile], case: str
) -> None:
    name, fields, reason = IDLE[case]
    steps: list[Step] = []

    with pytest.raises(LoraError, match=f"LoRA '{name}' would change nothing: {reason}.*, or leave it out"):
        make(
            engine,
            sd1,
            files,
            request(sd1, asked(files[name], **fields), num_inference_steps=4),
            on_step=steps.append,
        )

    assert not steps, "before the first step"


@pytest.mark.parametrize("block", ["mid", "MID", "up_blocks.7", "up_blocks.0.attentions.0.", "nonsense", ""])
def test_a_block_that_is_not_there_is_refused(
    engine: DiffusersEngine, sd1: Model, files: dict[str, LoraFile], block: str
) -> None:
    names = r"conv_in, time_embedding, down_blocks\.0, .*mid_block.*, or parts"

    with pytest.raises(LoraError, match=rf"'both' has a weight for the block '{block}', .* model sd1 .* take {names}"):
        make(engine, sd1, files, request(sd1, asked(files["both"], block_weights={"mid_block": 0.5, block: 0.0})))


def test_a_block_of_a_list_that_is_not_there_is_refused_with_its_place(
    engine: DiffusersEngine, sd1: Model, files: dict[str, LoraFile]
) -> None:
    blocks = parse_lora("both:lbw=1,1,1,1,1,1,0,1,1,1,1,1,1,1,1,1,1")["block_weights"]
    block = r"'down_blocks\.2\.resnets\.1' \(IN08 of lbw=, number 5 of 12 or 7 of 17 or 10 of 20 or 10 of 26\)"

    with pytest.raises(LoraError, match=rf"for the block {block}, which model sd1 does not have; take conv_in"):
        make(engine, sd1, files, request(sd1, asked(files["both"], block_weights=blocks)))


def test_what_does_not_act_is_not_told(engine: DiffusersEngine, sd1: Model, files: dict[str, LoraFile]) -> None:
    both, text, unet = (_layers(files[name]) for name in ("both", "text", "unet"))

    def told(**fields: Any) -> object:
        return make(engine, sd1, files, request(sd1, asked(files["both"], **fields)))[0].provenance["lora both"]

    assert told(text_encoder_weight=0.0) == f"{unet}/{both}: unet {unet}"
    assert told(start=0.9) == f"{text}/{both}: text encoder {text}"
    assert told(weight=0.0, text_encoder_weight=1.0) == told(start=0.9)


def test_a_lora_may_hold_in_either_pass(engine: DiffusersEngine, sd1: Model, files: dict[str, LoraFile]) -> None:
    """Its range is of each pass's own steps: 0.8 of them leaves the last of five, and none of three."""
    unet = _layers(files["unet"])
    late = request(sd1, asked(files["unet"], start=0.8), num_inference_steps=3, hires_scale=1.5, hires_steps=5)

    (made,) = make(engine, sd1, files, late)

    assert made.provenance["lora unet"] == f"{unet}/{unet}: unet {unet}"
    (plain,) = make(engine, sd1, files, late.model_copy(update={"loras": ()}))
    assert pixels([made]) != pixels([plain])


def test_batches_are_tried_with_all_that_a_step_may_wear(
    engine: DiffusersEngine, sd1: Model, files: dict[str, LoraFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A LoRA that begins later takes part in the trial, or a batch could differ in the last bit from then on."""
    seen: list[bool] = []
    change = LowRank.change

    def spy(self: LowRank, *arguments: Any) -> torch.Tensor:
        seen.append(_is_trial(sys._getframe(1)))
        return change(self, *arguments)

    monkeypatch.setattr(LowRank, "change", spy)
    late = asked(files["unet"], 0.731, start=0.6)

    make(engine, sd1, files, *(request(sd1, late, seed=seed) for seed in range(2)))

    assert any(seen)


def test_full_changes_are_rebuilt_for_the_first_step_only(
    engine: DiffusersEngine, sd1: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Kronecker] = []
    weight = Kronecker.weight
    monkeypatch.setattr(Kronecker, "weight", lambda self: (calls.append(self), weight(self))[1])
    stem = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {f"{stem}.lokr_w1": torch.ones(4, 4), f"{stem}.lokr_w2": torch.randn(8, 8)}
    file = lora_files.write(tmp_path / "lokr.safetensors", tensors)

    make(engine, sd1, {"lokr": file}, request(sd1, asked(file), num_inference_steps=6))

    assert len(calls) == 1


def _is_trial(frame: FrameType | None) -> bool:
    return frame is not None and (frame.f_code.co_name == "_is_safe" or _is_trial(frame.f_back))


def test_pictures_of_a_batch_wear_their_own(engine: DiffusersEngine, sd1: Model, files: dict[str, LoraFile]) -> None:
    requests = [
        request(sd1, seed=1),
        request(sd1, asked(files["both"]), seed=2),
        request(sd1, asked(files["both"]), seed=3),
        request(sd1, asked(files["both"], 0.5), seed=4),
        request(sd1, asked(files["text"]), seed=5),
        request(sd1, seed=6),
    ]

    together = make(engine, sd1, files, *requests)

    assert pixels(together) == [pixels(make(engine, sd1, files, each))[0] for each in requests]
    assert [sorted(key for key in each.provenance if key.startswith("lora ")) for each in together] == [
        [],
        ["lora both"],
        ["lora both"],
        ["lora both"],
        ["lora text"],
        [],
    ]


def test_an_embedding_in_the_same_file_means_its_words(
    engine: DiffusersEngine, sd1: Model, files: dict[str, LoraFile], tmp_path: Path
) -> None:
    """And only where the LoRA is applied."""
    (vectors,) = token_vectors(sd1, "abc")
    tensors = {**safetensors.torch.load_file(files["both"].path), "bundle_emb.sea.string_to_param.*": vectors}
    file = lora_files.write(tmp_path / "bundle.safetensors", tensors)
    named = {"embeddings": {"sea": file.sha256}}

    by_name, by_words, plain = (
        pixels(make(engine, sd1, {"bundle": file}, each))[0]
        for each in (
            request(sd1, asked(file), prompt="x sea", negative_prompt="sea").model_copy(update=named),
            request(sd1, asked(file), prompt="x abc", negative_prompt="abc"),
            request(sd1, asked(file), prompt="x sea", negative_prompt="sea"),
        )
    )

    assert by_name == by_words != plain


def test_a_lora_that_cannot_be_applied_fails_the_picture(
    engine: DiffusersEngine, sd1: Model, files: dict[str, LoraFile]
) -> None:
    with pytest.raises(LoraError, match="'broken' changes no layer"):
        make(engine, sd1, files, request(sd1, asked(files["both"]), asked(files["broken"])))


def louder(file: LoraFile, path: Path, factor: float) -> LoraFile:
    tensors = safetensors.torch.load_file(file.path)
    return lora_files.write(path, {key: value * factor if "up" in key else value for key, value in tensors.items()})


@pytest.mark.parametrize("name", ["unet", "text"])
def test_a_lora_that_overflows_leaves_the_model_its_precision(
    sd1: Model, files: dict[str, LoraFile], tmp_path: Path, name: str
) -> None:
    """In one job with plain pictures and in another; those with the LoRA are as if all were in float32."""
    engine, loud = DiffusersEngine(device="cpu", dtype=torch.float16), louder(files[name], tmp_path / "loud", 1e3)
    plain = request(sd1)
    before = pixels(make(engine, sd1, {}, plain))[0]

    made = make(engine, sd1, {"loud": loud}, request(sd1, asked(loud)), plain)

    assert [each.provenance["dtype"] for each in made] == ["float32", "float16"]
    assert (
        pixels(made)[0]
        == pixels(make(DiffusersEngine(device="cpu"), sd1, {"loud": loud}, request(sd1, asked(loud))))[0]
    )
    assert pixels(made)[1] == before == pixels(make(engine, sd1, {}, plain))[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_lora_that_overflows_float32_is_blamed(
    dtype: torch.dtype, sd1: Model, files: dict[str, LoraFile], tmp_path: Path
) -> None:
    engine, loud = DiffusersEngine(device="cpu", dtype=dtype), louder(files["unet"], tmp_path / "loud", 1e30)
    before = pixels(make(engine, sd1, {}, request(sd1)))

    with pytest.raises(
        NotANumber, match=r"the unet of model sd1 .* with LoRA 'loud' at weight 10 .*text encoders 1.*too"
    ):
        make(engine, sd1, {"loud": loud}, request(sd1, asked(loud, 10.0, text_encoder_weight=1.0)))

    assert pixels(make(engine, sd1, {}, request(sd1))) == before


def test_random_sequences_with_overflow_leave_no_trace(sd1: Model, files: dict[str, LoraFile], tmp_path: Path) -> None:
    random, engine = Random(0), DiffusersEngine(device="cpu", dtype=torch.float16)
    own = {**files, "loud": louder(files["unet"], tmp_path / "loud", 1e3)}
    own["louder"] = louder(files["both"], tmp_path / "louder", 1e30)
    plain = request(sd1, num_inference_steps=1)
    before = pixels(make(engine, sd1, own, plain))
    outcomes = Counter[str]()

    for _ in range(20):
        names = random.sample(["both", "text", "unet", "loud", "louder"], random.randint(1, 2))
        loras = [asked(own[name], random.uniform(-2, 2)) for name in names]
        try:
            made = make(engine, sd1, own, request(sd1, *loras, num_inference_steps=1))
            outcomes[str(made[0].provenance["dtype"])] += 1
        except NotANumber:
            outcomes["NotANumber"] += 1
        assert pixels(make(engine, sd1, own, plain)) == before

    assert min(outcomes[each] for each in ("float16", "float32", "NotANumber")) > 2


@pytest.fixture
def frozen_heap() -> Iterator[None]:
    """Let collections look at what the test makes only: the engine collects garbage after every trouble."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.slow
@pytest.mark.usefixtures("frozen_heap")
def test_500_random_sequences_leave_no_trace(
    engine: DiffusersEngine, sd1: Model, files: dict[str, LoraFile], tmp_path: Path
) -> None:
    outcomes = leave_no_trace(engine, sd1, files, tmp_path, times=500)

    assert min(outcomes[each] for each in ("made", "in pieces", "Cancelled", "LoraError", "OutOfMemory")) > 5


@pytest.mark.parametrize("pictures", [1, 2])
def test_lack_of_memory_drops_loras_that_are_not_worn(sd1: Model, files: dict[str, LoraFile], pictures: int) -> None:
    engine = DiffusersEngine(device="cpu")
    make(engine, sd1, files, request(sd1, asked(files["unet"])))
    unet = weakref.ref(_loaded(engine, sd1)["unet"])
    worn = request(sd1, asked(files["both"]))
    first = pixels(make(engine, sd1, files, worn))
    assert unet() is not None
    failures = [torch.OutOfMemoryError("injected")]

    def fail(step: Step) -> None:
        if failures:
            raise failures.pop()

    made = make(engine, sd1, files, *[worn] * pictures, on_step=fail)

    assert unet() is None
    assert _loaded(engine, sd1).keys() == {"both"}
    assert pixels(made) == first * pictures


def _loaded(engine: DiffusersEngine, model: Model) -> dict[str, LoadedLora]:
    cache = engine._wardrobe._caches[engine._models.get(model)]
    return {lora.name: lora for lora in cache._loaded.values()}


def test_changed_base_weights_are_noticed(sd1: Model, files: dict[str, LoraFile]) -> None:
    engine = DiffusersEngine(device="cpu")
    plain = request(sd1)
    first = pixels(make(engine, sd1, files, plain))
    changed: list[torch.nn.Module] = []

    def spoil(step: Step) -> None:
        if step.step == 1 and not changed:
            unet = engine._models.get(sd1).unet
            with torch.no_grad():
                unet.mid_block.attentions[0].proj_in.weight.add_(1e-3)
            changed.append(unet)

    with pytest.raises(LoraError, match="weights of model sd1 have changed while LoRAs were applied"):
        make(engine, sd1, files, request(sd1, asked(files["both"])), on_step=spoil)

    assert pixels(make(engine, sd1, files, plain)) == first, "the model was loaded again"
    assert engine._models.get(sd1).unet is not changed[0]


def test_changed_base_weights_are_noticed_whatever_else_fails(sd1: Model, files: dict[str, LoraFile]) -> None:
    engine = DiffusersEngine(device="cpu")

    def spoil(step: Step) -> None:
        with torch.no_grad():
            engine._models.get(sd1).unet.conv_in.bias[0] += 1
        raise Cancelled

    with pytest.raises(LoraError, match="weights of model sd1 have changed"):
        make(engine, sd1, files, request(sd1, asked(files["both"])), on_step=spoil)
