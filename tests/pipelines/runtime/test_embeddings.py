"""An embedding of the vectors of some words means those words, and leaves nothing behind."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.runtime.conditioning import Conditioning, EncodedPrompt, PromptEncoder, Reading
from pipelines.runtime.loading import Components, ModelCache
from pipelines.spec.embeddings import EmbeddingFile
from pipelines.spec.errors import ModelError
from pipelines.spec.model import Model
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import resolve
from tests.pipelines.embedding_files import token_vectors, write_embedding

Loaded = tuple[Model, Components]


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def loaded(request: Any) -> Loaded:
    model: Model = request.getfixturevalue(request.param)
    return model, ModelCache(torch.device("cpu"), dtype=torch.float32, max_bytes=10**9).get(model)


def as_file(path: Path, name: str) -> EmbeddingFile:
    return EmbeddingFile(name, path, hashlib.sha256(path.read_bytes()).hexdigest())


def encode(
    loaded: Loaded, prompt: str, *files: EmbeddingFile, encoder: PromptEncoder | None = None, **fields: Any
) -> EncodedPrompt:
    asked = GenerationRequest(prompt=prompt, num_inference_steps=10, scheduler="euler", **fields)
    request = resolve(asked, loaded[0])[0].model_copy(update={"embeddings": {each.name: each.sha256 for each in files}})
    return (encoder or PromptEncoder()).encode(
        request, components=loaded[1], reading=Reading({each.name: each for each in files})
    )


def is_same(first: EncodedPrompt, second: EncodedPrompt) -> bool:
    pairs = [
        (before, after)
        for one, other in zip(first.branches, second.branches, strict=True)
        for (_, before), (_, after) in zip(one.scheduled, other.scheduled, strict=True)
    ]
    return all(torch.equal(*each) for pair in pairs for each in zip(*map(_tensors, pair), strict=True))


def _tensors(conditioning: Conditioning) -> list[torch.Tensor]:
    return [each for each in (conditioning.prompt_embeds, conditioning.pooled_prompt_embeds) if each is not None]


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("emb", "red"),
        ("a EMB, at night", "a red, at night"),
        ("a (emb:1.3) [emb]", "a (red:1.3) [red]"),
        ("[emb:blue:0.5] and [a|emb]", "[red:blue:0.5] and [a|red]"),
        ("emb AND blue :0.5", "red AND blue :0.5"),
        ("blue BREAK emb", "blue BREAK red"),
        ("emb " * 30, "red " * 30),
    ],
)
@pytest.mark.parametrize("clip_skip", [1, 2])
def test_an_embedding_means_the_words_it_was_made_of(
    prompt: str, words: str, clip_skip: int, loaded: Loaded, tmp_path: Path
) -> None:
    file = as_file(write_embedding(tmp_path / "emb.safetensors", token_vectors(loaded[0], "red")), "emb")

    # A1111's emphasis divides by the mean, which an untrained layer norm makes 0.
    fields = {"clip_skip": clip_skip, "emphasis": "no_norm"}

    assert is_same(encode(loaded, prompt, file, **fields), encode(loaded, words, **fields))


def test_the_encoder_is_left_as_it_was(loaded: Loaded, tmp_path: Path) -> None:
    file = as_file(write_embedding(tmp_path / "emb.safetensors", token_vectors(loaded[0], "red")), "emb")
    weights = [{k: v.clone() for k, v in each.state_dict().items()} for each in loaded[1].text_encoders]
    before = encode(loaded, "emb")

    encode(loaded, "emb", file)

    assert is_same(encode(loaded, "emb"), before), "without the file the name is a word like any other"
    for encoder, state in zip(loaded[1].text_encoders, weights, strict=True):
        assert not encoder.get_input_embeddings()._forward_hooks
        assert all(torch.equal(after, state[name]) for name, after in encoder.state_dict().items())


def test_the_encoder_is_left_as_it_was_by_a_failure(loaded: Loaded, tmp_path: Path) -> None:
    wrong = [each[:, :-1].contiguous() for each in token_vectors(loaded[0], "red")]
    file = as_file(write_embedding(tmp_path / "emb.safetensors", wrong), "emb")

    with pytest.raises(RuntimeError):
        encode(loaded, "emb", file)

    assert not any(each.get_input_embeddings()._forward_hooks for each in loaded[1].text_encoders)


def test_another_file_of_that_name_is_encoded_anew(loaded: Loaded, tmp_path: Path) -> None:
    encoder = PromptEncoder()
    vectors = token_vectors(loaded[0], "red")
    first = as_file(write_embedding(tmp_path / "emb.safetensors", vectors), "emb")
    red = encode(loaded, "emb", first, encoder=encoder)
    second = as_file(write_embedding(tmp_path / "emb.safetensors", token_vectors(loaded[0], "sky")), "emb")

    blue = encode(loaded, "emb", second, encoder=encoder)

    assert not is_same(red, blue)
    assert is_same(blue, encode(loaded, "sky"))


def test_files_that_cannot_be_used_are_refused(loaded: Loaded, tmp_path: Path) -> None:
    vectors = token_vectors(loaded[0], "red")
    file = as_file(write_embedding(tmp_path / "emb.safetensors", vectors), "emb")
    write_embedding(file.path, [each + 1 for each in vectors])
    with pytest.raises(ModelError, match="embedding 'emb' has changed since"):
        encode(loaded, "emb", replace(file))

    vectors[-1][0, 0] = float("nan")
    with pytest.raises(ModelError, match="embedding 'emb' holds NaN"):
        encode(loaded, "emb", as_file(write_embedding(file.path, vectors), "emb"))

    file.path.unlink()
    with pytest.raises(ModelError, match="is missing"):
        encode(loaded, "emb", file)


def test_a_prompt_is_encoded_once_and_the_negative_prompt_is_shared(loaded: Loaded) -> None:
    encoder, calls = PromptEncoder(), []
    hooks = [each.register_forward_hook(lambda *_: calls.append(1)) for each in loaded[1].text_encoders]
    fields = {"negative_prompt": "rain", "num_inference_steps": 10, "scheduler": "euler"}

    def calls_for(prompt: str) -> int:
        calls.clear()
        (request,) = resolve(GenerationRequest(prompt=prompt, **fields), loaded[0])
        encoder.encode(request, components=loaded[1])
        encoder.encode_negative(request, components=loaded[1])
        return len(calls) // len(loaded[1].text_encoders)

    try:
        prompts = ("a house", "a house", "a boat", "[a house:a boat:3]", "[a house:a boat:3]")
        assert [calls_for(prompt) for prompt in prompts] == [2, 0, 1, 2, 0]
        many = "[a|b|c|d|e|f|g] [h|i|j|k|l|m|n|o|p|q|r]"
        fields["num_inference_steps"] = 100
        assert [calls_for(many) > 64, calls_for(many)] == [True, 0]
    finally:
        for hook in hooks:
            hook.remove()
