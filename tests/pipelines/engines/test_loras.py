"""LoRAs in the engine: on where asked, exactly; off afterwards, to the last bit, whatever happened."""

import gc
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from types import FrameType, MappingProxyType
from typing import Any

import diffusers
import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from pipelines.engines.diffusers_engine import DiffusersEngine
from pipelines.runtime.adapters.deltas import LowRank
from pipelines.runtime.conditioning import PromptEncoder
from pipelines.runtime.loading import Components, ModelCache
from pipelines.spec.embeddings import EmbeddingFile
from pipelines.spec.engine import GeneratedImage, Inputs, Step
from pipelines.spec.errors import Cancelled, LoraError, OutOfMemory
from pipelines.spec.loras import LoraFile, ResolvedLora
from pipelines.spec.model import Model
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import resolve
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.safetensors_header import read_header
from tests.pipelines.embedding_files import token_vectors, write_embedding
from tests.pipelines.runtime.adapters import lora_files
from tests.pipelines.runtime.adapters.lora_files import asked

STEPS = 3


@pytest.fixture(scope="module")
def components(sd1: Model) -> Components:
    return ModelCache(torch.device("cpu"), dtype=torch.float32, max_bytes=10**9).get(sd1)


@pytest.fixture(scope="module")
def files(components: Components, tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoraFile]:
    folder = tmp_path_factory.mktemp("loras")
    weights = lora_files.random_weights(components)
    on_text = {key: value for key, value in weights.items() if key[0] == "text_encoder"}
    on_unet = {key: value for key, value in weights.items() if key[0] == "unet"}
    broken = {"lora_unet_nowhere.lora_down.weight": torch.zeros(2, 2)}
    return {
        name: lora_files.write(folder / f"{name}.safetensors", tensors)
        for name, tensors in {
            "both": lora_files.kohya(weights),
            "text": lora_files.kohya(on_text),
            "unet": {key: 2 * value for key, value in lora_files.kohya(on_unet).items()},
            "broken": broken,
        }.items()
    }


@pytest.fixture(scope="module")
def engine() -> DiffusersEngine:
    return DiffusersEngine(device="cpu")


def request(model: Model, *loras: ResolvedLora, **fields: Any) -> ResolvedRequest:
    values = {"prompt": "abc", "seed": 3, "num_inference_steps": STEPS, "scheduler": "euler", **fields}
    (resolved,) = resolve(GenerationRequest(**values), model)
    return resolved.model_copy(update={"loras": loras})


def make(
    engine: DiffusersEngine,
    model: Model,
    files: Mapping[str, LoraFile],
    *requests: ResolvedRequest,
    on_step: Callable[[Step], None] = lambda _: None,
    words: Mapping[str, EmbeddingFile] = MappingProxyType({}),
) -> list[GeneratedImage]:
    inputs = Inputs(model, loras={file.sha256: file for file in files.values()}, embeddings=words)
    return list(engine.generate(requests, inputs, on_step))


def pixels(images: list[GeneratedImage]) -> list[bytes]:
    return [each.image.tobytes() for each in images]


def difference(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max())


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
    assert picture(asked(unet, block_weights={"down_blocks": 0.0, "mid_block": 0.0, "up_blocks": 0.0})) == plain
    halved = picture(asked(unet, block_weights={"": 1.0, "up_blocks": 0.0, "up_blocks.0.attentions.0": 1.0}))
    assert len({plain, halved, picture(asked(unet))}) == 3
    assert picture(asked(unet, 0.5), asked(unet, 0.5)) != plain


def test_a_range_of_steps(engine: DiffusersEngine, sd1: Model, files: dict[str, LoraFile]) -> None:
    def picture(**fields: Any) -> bytes:
        return pixels(make(engine, sd1, files, request(sd1, asked(files["unet"], **fields), num_inference_steps=4)))[0]

    plain = pixels(make(engine, sd1, files, request(sd1, num_inference_steps=4)))[0]
    whole, first, last = picture(), picture(end=0.5), picture(start=0.5)
    assert len({plain, whole, first, last}) == 4
    assert picture(start=0.5, end=0.51) not in {plain, last}, "the third of four steps begins at 0.5"
    assert picture(start=0.3, end=0.5) == plain, "no step begins within"


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
    late = asked(files["unet"], 0.731, start=0.9)

    make(engine, sd1, files, *(request(sd1, late, seed=seed) for seed in range(2)))

    assert any(seen)


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


def _out_of_memory(_: Step) -> None:
    raise torch.OutOfMemoryError("injected")


def _out_of_memory_once() -> Callable[[Step], None]:
    failures = [torch.OutOfMemoryError("injected")]

    def fail(step: Step) -> None:
        if step.step == 1 and failures:
            raise failures.pop()

    return fail


def _cancel(step: Step) -> None:
    if step.step == 1:
        raise Cancelled


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
    """Add, remove, replace, reweight, embeddings, a second pass; fail, cancel, run out of memory.

    The next picture without LoRA is the first one, its prompt read anew by the text encoder.
    """
    random = Random(0)
    embedding = write_embedding(tmp_path / "emb.safetensors", token_vectors(sd1, "xy"))
    words = {"emb": EmbeddingFile("emb", embedding, hashlib.sha256(embedding.read_bytes()).hexdigest())}
    bundle = {
        **safetensors.torch.load_file(files["both"].path),
        "bundle_emb.sea.emb_params": token_vectors(sd1, "z")[0],
    }
    files = {**files, "bundle": lora_files.write(tmp_path / "bundle.safetensors", bundle)}
    plain = request(sd1, num_inference_steps=1)
    first = pixels(make(engine, sd1, files, plain))
    model = engine._models.get(sd1)
    modules = (model.unet, *model.text_encoders)
    before = [{name: value.clone() for name, value in each.state_dict().items()} for each in modules]
    hooks = [len(layer._forward_hooks) for each in modules for layer in each.modules()]

    def sequence() -> str:
        names = random.choices(["both", "text", "unet", "bundle", "broken"], [4, 3, 4, 2, 1], k=random.randint(1, 3))
        loras = [asked(files[name], random.uniform(-2, 2), start=random.choice([0, 0.5])) for name in names]
        named = {"emb": words["emb"].sha256} if random.random() < 0.3 else {}
        if "bundle" in names:
            named["sea"] = files["bundle"].sha256
        second = {"hires_scale": 1.5, "hires_steps": 1} if random.random() < 0.1 else {}
        troubles = [lambda _: None, _cancel, _out_of_memory, _out_of_memory_once()]
        (trouble,) = random.choices(troubles, weights=[20, 5, 1, 1])
        wanted = request(sd1, *loras, prompt="emb sea", num_inference_steps=2, **second)
        wanted = wanted.model_copy(update={"embeddings": named})
        try:
            made = make(engine, sd1, files, wanted, on_step=trouble, words=words)
        except (Cancelled, LoraError, OutOfMemory) as error:
            return type(error).__name__
        return "in pieces" if "reduced_memory" in made[0].provenance else "made"

    outcomes: Counter[str] = Counter()
    for _ in range(500):
        outcomes[sequence()] += 1
        engine._prompts = PromptEncoder()
        outcomes["exact"] += pixels(make(engine, sd1, files, plain)) == first

    assert outcomes["exact"] == 500
    assert min(outcomes[each] for each in ("made", "in pieces", "Cancelled", "LoraError", "OutOfMemory")) > 5
    assert engine._models.get(sd1) is model, "it was never loaded again"
    assert [len(layer._forward_hooks) for each in modules for layer in each.modules()] == hooks
    for each, weights in zip(modules, before, strict=True):
        assert all(torch.equal(value, weights[name]) for name, value in each.state_dict().items())


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
