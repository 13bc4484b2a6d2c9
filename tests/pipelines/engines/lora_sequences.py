"""LoRAs through the engine, for tests: files, pictures, and random sequences after which nothing may be left."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from pipelines.engines.diffusers_engine import DiffusersEngine
from pipelines.runtime.conditioning import PromptEncoder
from pipelines.spec.embeddings import EmbeddingFile
from pipelines.spec.engine import GeneratedImage, Inputs, Step
from pipelines.spec.errors import Cancelled, LoraError, OutOfMemory
from pipelines.spec.loras import LoraFile, ResolvedLora
from pipelines.spec.model import Model
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import resolve
from pipelines.spec.resolved import ResolvedRequest
from tests.pipelines.embedding_files import token_vectors, write_embedding
from tests.pipelines.runtime.adapters import lora_files
from tests.pipelines.runtime.adapters.lora_files import Weights, asked

STEPS = 3


def write_files(folder: Path, weights: Weights) -> dict[str, LoraFile]:
    """Return LoRAs for both parts of a model, for one only, and for nothing in it."""
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


def leave_no_trace(
    engine: DiffusersEngine, model: Model, files: Mapping[str, LoraFile], folder: Path, *, times: int
) -> Counter[str]:
    """Paint random sequences; the picture without LoRA after each is the first one. Return how each ended.

    Add, remove, replace, reweight, embeddings, a second pass; fail, cancel, run out of memory. The picture without LoRA
    has its prompt read anew by the text encoder. `folder` takes the files that are written for it.
    """
    random = Random(0)
    embedding = write_embedding(folder / "emb.safetensors", token_vectors(model, "xy"))
    words = {"emb": EmbeddingFile("emb", embedding, hashlib.sha256(embedding.read_bytes()).hexdigest())}
    bundle = {
        **safetensors.torch.load_file(files["both"].path),
        "bundle_emb.sea.emb_params": token_vectors(model, "z")[0],
    }
    files = {**files, "bundle": lora_files.write(folder / "bundle.safetensors", bundle)}
    plain = request(model, num_inference_steps=1)
    first = pixels(make(engine, model, files, plain))
    components = engine._models.get(model)
    modules = (components.unet, *components.text_encoders)
    before = [[value.clone() for value in _numbers(each)] for each in modules]
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
        wanted = request(model, *loras, prompt="emb sea", num_inference_steps=2, **second)
        wanted = wanted.model_copy(update={"embeddings": named})
        try:
            made = make(engine, model, files, wanted, on_step=trouble, words=words)
        except (Cancelled, LoraError, OutOfMemory) as error:
            return type(error).__name__
        return "in pieces" if "reduced_memory" in made[0].provenance else "made"

    outcomes: Counter[str] = Counter()
    for _ in range(times):
        outcomes[sequence()] += 1
        engine._prompts = PromptEncoder()
        outcomes["exact"] += pixels(make(engine, model, files, plain)) == first

    assert outcomes["exact"] == times
    assert engine._models.get(model) is components, "it was never loaded again"
    assert [len(layer._forward_hooks) for each in modules for layer in each.modules()] == hooks
    for each, weights in zip(modules, before, strict=True):
        assert all(map(torch.equal, _numbers(each), weights))
    return outcomes


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


def _numbers(module: torch.nn.Module) -> list[torch.Tensor]:
    """Return all weights; of a quantized one the integers and their scales."""
    numbers: list[torch.Tensor] = []
    for weight in (*module.parameters(), *module.buffers()):
        inner, _ = weight.__tensor_flatten__() if hasattr(weight, "__tensor_flatten__") else ((), None)
        numbers += [getattr(weight, name) for name in inner] or [weight.data]
    return numbers
