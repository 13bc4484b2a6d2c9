"""Prompts become embeddings as in A1111: layers, weights, chunks, schedules, branches."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import CLIPTokenizer

from pipelines.runtime.conditioning import Conditioning, PromptEncoder
from pipelines.runtime.loading import Components, ModelCache
from pipelines.spec.errors import NotANumber
from pipelines.spec.model import Model
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import resolve
from pipelines.spec.resolved import ResolvedRequest


@pytest.fixture(scope="module")
def loaded(sd1: Model, sdxl: Model) -> dict[str, tuple[Model, Components]]:
    cache = ModelCache(torch.device("cpu"), dtype=torch.float32, max_bytes=10**9)
    loaded = {model.family.name: (model, cache.get(model)) for model in (sd1, sdxl)}
    with torch.no_grad():  # a trained norm moves the mean away from 0, where a ratio of means says nothing
        loaded["sd1"][1].text_encoders[0].final_layer_norm.bias.fill_(0.3)
    return loaded


@pytest.fixture(params=["sd1", "sdxl"])
def model(request: Any, loaded: dict[str, tuple[Model, Components]]) -> tuple[Model, Components]:
    return loaded[request.param]


def ask(model: Model, **fields: Any) -> ResolvedRequest:
    return resolve(GenerationRequest(**{"num_inference_steps": 10, "scheduler": "euler", **fields}), model)[0]


def encode(model: tuple[Model, Components], prompt: str, **fields: Any) -> Conditioning:
    encoded = PromptEncoder().encode(ask(model[0], prompt=prompt, **fields), components=model[1])
    return encoded.branches[0].at(1)


def tokens(model: tuple[Model, Components], *texts: str) -> list[torch.Tensor]:
    """Each text as stock transformers encodes it, with every tokenizer: (1, 77)."""
    return [
        torch.cat(
            [tokenizer(text, padding="max_length", max_length=77, return_tensors="pt").input_ids for text in texts]
        )
        for tokenizer in model[1].tokenizers
    ]


def test_a_plain_prompt_is_what_the_encoders_say(model: tuple[Model, Components]) -> None:
    conditioning = encode(model, "a red house")

    outputs = [
        encoder(ids, output_hidden_states=True)
        for encoder, ids in zip(model[1].text_encoders, tokens(model, "a red house"), strict=True)
    ]
    if model[0].family.name == "sd1":
        torch.testing.assert_close(conditioning.prompt_embeds, outputs[0].last_hidden_state)
        assert conditioning.pooled_prompt_embeds is None
    else:
        expected = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        torch.testing.assert_close(conditioning.prompt_embeds, expected)
        torch.testing.assert_close(conditioning.pooled_prompt_embeds, outputs[1].text_embeds)


def test_clip_skip_counts_layers_from_the_end(loaded: dict[str, tuple[Model, Components]]) -> None:
    model = loaded["sd1"]
    encoder = model[1].text_encoders[0]

    skipped = encode(model, "a red house", clip_skip=2).prompt_embeds

    hidden = encoder(*tokens(model, "a red house"), output_hidden_states=True).hidden_states[-2]
    torch.testing.assert_close(skipped, encoder.final_layer_norm(hidden))


@pytest.mark.parametrize(("clip_skip", "layer"), [(1, -2), (2, -2), (3, -3)])
def test_clip_skip_of_sdxl_begins_at_the_last_layer_but_one(
    loaded: dict[str, tuple[Model, Components]], clip_skip: int, layer: int
) -> None:
    """That layer is what it was trained on, and what A1111 and Forge read for 1."""
    model = loaded["sdxl"]

    embeds = encode(model, "a red house", clip_skip=clip_skip).prompt_embeds

    outputs = [
        encoder(ids, output_hidden_states=True)
        for encoder, ids in zip(model[1].text_encoders, tokens(model, "a red house"), strict=True)
    ]
    torch.testing.assert_close(embeds, torch.cat([output.hidden_states[layer] for output in outputs], dim=-1))


def test_each_tokenizer_pads_with_its_own_token(sdxl: Model, copy_model: Callable[[Model], Model]) -> None:
    """The second one of SDXL pads with "!", the first with the token of the end."""
    copy = copy_model(sdxl)
    CLIPTokenizer.from_pretrained(copy.path / "tokenizer_2", pad_token="!").save_pretrained(copy.path / "tokenizer_2")
    model = copy, ModelCache(torch.device("cpu"), dtype=torch.float32, max_bytes=10**9).get(copy)
    first, second = tokens(model, "a red house")
    assert not torch.equal(first, second)

    conditioning = encode(model, "a red house")

    padded = model[1].text_encoders[1](second, output_hidden_states=True)
    torch.testing.assert_close(conditioning.prompt_embeds[..., 32:], padded.hidden_states[-2])


def test_weights_multiply_and_the_mean_is_restored(model: tuple[Model, Components]) -> None:
    plain, raw, restored = (
        encode(model, prompt, emphasis=emphasis).prompt_embeds
        for prompt, emphasis in (("ab", "a1111"), ("(a:1.5)b", "no_norm"), ("(a:1.5)b", "a1111"))
    )

    factors = torch.ones(77)
    first = len(model[1].tokenizers[0]("a", add_special_tokens=False).input_ids)
    factors[1 : 1 + first] = 1.5
    separate = encode(model, "(a:1.0)b").prompt_embeds
    assert torch.equal(separate, plain), "a weight of 1 is none: the words are one text"
    unweighted = encode(model, "a b", emphasis="no_norm").prompt_embeds
    assert raw.shape == unweighted.shape
    width = raw.shape[-1] // len(model[1].text_encoders)
    for part in range(len(model[1].text_encoders)):
        columns = slice(part * width, (part + 1) * width)
        ratio = restored[..., columns] / raw[..., columns]
        torch.testing.assert_close(ratio, torch.full_like(ratio, float(ratio.flatten()[0])), rtol=1e-3, atol=1e-3)
        before, without, after = (each[..., columns].mean() for each in (unweighted, raw, restored))
        assert abs(without - before) > 1e-4
        torch.testing.assert_close(after, before, rtol=0, atol=1e-5)


def scheduled(model: tuple[Model, Components], prompt: str, **fields: Any) -> list[torch.Tensor]:
    """The first encoder's share of each text."""
    encoded = PromptEncoder().encode(ask(model[0], prompt=prompt, **fields), components=model[1])
    return [each.prompt_embeds[..., :32] for _, each in encoded.branches[0].scheduled]


@pytest.mark.parametrize(("prompt", "times"), [("[(a:1.5)b:c d:4]", [1, 1]), ("[(a:1.5)b|[c d:e f:4]]", [1] * 10)])
def test_the_texts_of_a_schedule_share_one_mean(model: tuple[Model, Components], prompt: str, times: list[int]) -> None:
    """A1111 encodes them in one batch, and restores the mean of the batch."""
    restored = scheduled(model, prompt)

    raw, plain = (scheduled(model, text, emphasis="no_norm") for text in (prompt, prompt.replace("(a:1.5)b", "a b")))
    assert len(raw) == len(times)
    factor = torch.cat(plain).mean() / torch.cat(raw).mean()
    for each, without in zip(restored, raw, strict=True):
        torch.testing.assert_close(each, without * factor)


def test_a_shorter_text_of_a_schedule_has_empty_chunks(model: tuple[Model, Components]) -> None:
    short, long = scheduled(model, "[red:blue BREAK fog:4]")

    assert short.shape == long.shape == (1, 2 * 77, 32)
    (red,), (nothing,) = scheduled(model, "red"), scheduled(model, "")
    torch.testing.assert_close(short, torch.cat([red, nothing], dim=1))


def test_a_shorter_branch_repeats_its_last_vector(model: tuple[Model, Components]) -> None:
    both = PromptEncoder().encode(ask(model[0], prompt="red AND blue BREAK fog"), components=model[1])

    (_, short), (_, long) = (branch.scheduled[0] for branch in both.branches)
    assert short.prompt_embeds.shape == long.prompt_embeds.shape
    alone = encode(model, "red").prompt_embeds
    torch.testing.assert_close(short.prompt_embeds[:, :77], alone)
    torch.testing.assert_close(short.prompt_embeds[:, 77:], alone[:, -1:].expand(-1, 77, -1))


def test_comfys_emphasis_moves_away_from_the_empty_prompt(model: tuple[Model, Components]) -> None:
    plain, weighted, empty = (
        encode(model, prompt, emphasis="comfy").prompt_embeds for prompt in ("red", "(red:1.5)", "")
    )

    moved = (weighted - empty)[0, 1:4] / 1.5
    torch.testing.assert_close(moved, (plain - empty)[0, 1:4], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weighted[0, 10:], plain[0, 10:])


def test_long_prompts_and_break_make_chunks(model: tuple[Model, Components]) -> None:
    joined = encode(model, "red BREAK blue")

    assert joined.prompt_embeds.shape[1] == 2 * 77
    for place, text in enumerate(("red", "blue")):
        chunk = joined.prompt_embeds[:, place * 77 : (place + 1) * 77]
        torch.testing.assert_close(chunk, encode(model, text).prompt_embeds)
    if joined.pooled_prompt_embeds is not None:
        torch.testing.assert_close(joined.pooled_prompt_embeds, encode(model, "red").pooled_prompt_embeds)
    assert encode(model, "word " * 100).prompt_embeds.shape[1] > 77


def test_branches_have_their_weights_and_schedules(model: tuple[Model, Components]) -> None:
    encoded = PromptEncoder().encode(ask(model[0], prompt="[red:blue:0.3] house AND fog :0.5"), components=model[1])

    assert [branch.weight for branch in encoded.branches] == [1.0, 0.5]
    first = encoded.branches[0]
    assert [until for until, _ in first.scheduled] == [3, 10]
    assert first.at(3) is first.scheduled[0][1]
    assert first.at(4) is first.at(10)
    assert first.at(0) is first.at(11) is first.scheduled[0][1]
    torch.testing.assert_close(first.at(4).prompt_embeds, encode(model, "blue house").prompt_embeds)


@pytest.mark.parametrize(
    ("prompt", "scheduler", "evaluations", "texts"),
    [
        ("[a:b:5]", "euler", 10, "aaaaaabbbb"),
        ("[a|b]", "euler", 10, "aababababa"),
        ("[a:b:0.5]", "euler", 10, "aaaaaabbbb"),
        ("[a:b:5]", "heun", 19, "aaaaaabbbbbbbbbbbbb"),
        ("[a:b:0.5]", "dpmpp_sde", 19, "aaaaaaaaaaabbbbbbbb"),
        ("[a|b]", "dpm2_a", 19, "aababababababababab"),
        ("[a:b:5]", "dpm_fast", 10, "aaaaaabbbb"),
        ("[a:b:9]", "plms", 11, "aaaaaaaaaab"),
        ("[a:b:5]", "euler", 12, "aaaaaabbbbba"),
    ],
)
def test_evaluations_are_counted_as_in_a1111(
    sd1: Model, prompt: str, scheduler: str, evaluations: int, texts: str
) -> None:
    """Its counter starts at 0 and a text holds up to its step; beyond the last step the first text is back."""
    model = sd1, ModelCache(torch.device("cpu"), dtype=torch.float32, max_bytes=10**9).get(sd1)
    expected = {name: encode(model, name).prompt_embeds for name in "ab"}

    encoded = PromptEncoder().encode(ask(sd1, prompt=prompt, scheduler=scheduler), components=model[1])

    for evaluation, text in zip(range(evaluations), texts, strict=True):
        torch.testing.assert_close(encoded.branches[0].at(evaluation).prompt_embeds, expected[text])


def test_and_is_a_word_in_the_negative_prompt_and_comments_are_not(model: tuple[Model, Components]) -> None:
    encoder = PromptEncoder()
    negative = [
        encoder.encode_negative(ask(model[0], negative_prompt=text), components=model[1]).branches
        for text in ("rain AND fog # not snow", "rain AND fog")
    ]

    assert [len(branches) for branches in negative] == [1, 1]
    torch.testing.assert_close(negative[0][0].at(1).prompt_embeds, negative[1][0].at(1).prompt_embeds)


def test_comments_can_be_text(model: tuple[Model, Components]) -> None:
    encoder = PromptEncoder()

    def encoded(**fields: Any) -> list[torch.Tensor]:
        request = ask(model[0], prompt="a # b", negative_prompt="fog # snow", **fields)
        both = encoder.encode(request, components=model[1]), encoder.encode_negative(request, components=model[1])
        return [each.branches[0].at(1).prompt_embeds for each in both]

    for without, written_out in zip(encoded(), encoded(prompt_comments=False), strict=True):
        assert not torch.equal(without, written_out)


def test_weights_that_overflow_are_told_by_the_prompt(sd1: Model) -> None:
    components = ModelCache(torch.device("cpu"), dtype=torch.float16, max_bytes=10**9).get(sd1)

    with pytest.raises(NotANumber, match=r"the weights in '\(red:99999\)' are too large for torch.float16"):
        encode((sd1, components), "(red:99999)", emphasis="no_norm")


def test_weights_are_reckoned_in_full_precision_whatever_the_encoder_runs_in(sd1: Model) -> None:
    """In bfloat16 itself 1.1 is 1.1016, and the mean that emphasis restores is off by as much."""
    components = ModelCache(torch.device("cpu"), dtype=torch.bfloat16, max_bytes=10**9).get(sd1)

    plain, loud = (encode((sd1, components), text, emphasis="no_norm") for text in ("red", "(red:1.1)"))

    words = slice(1, 4)  # a token for each letter
    assert torch.equal(loud.prompt_embeds[:, words], (plain.prompt_embeds[:, words].float() * 1.1).bfloat16())
