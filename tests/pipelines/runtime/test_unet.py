"""The U-Net's own: attention that need not be asked for its signature, prompts looked at once, and the same pixels."""

import inspect
import weakref
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from pipelines.runtime.loading import ModelCache
from pipelines.runtime.unet import REMEMBERED_BYTES, AnnouncedAttention, RememberingLinear, remember_prompts
from studio.store import find_model


@pytest.fixture
def unet(tmp_path: Path) -> UNet2DConditionModel:
    models = ModelCache(torch.device("cpu"), dtype=torch.float32, max_bytes=2**30)
    unet: UNet2DConditionModel = models.get(find_model("pocket", tmp_path)).unet
    return unet


@pytest.fixture
def layer() -> RememberingLinear:
    return RememberingLinear(torch.nn.Linear(4, 3).requires_grad_(False))


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def predict(unet: UNet2DConditionModel, embeds: torch.Tensor) -> torch.Tensor:
    latents = randn(2, unet.config.in_channels, 16, 16)
    prediction: torch.Tensor = unet(latents, 500, encoder_hidden_states=embeds, return_dict=False)[0]
    return prediction


def test_what_is_announced_is_diffusers_own_signature() -> None:
    announced, own = AnnouncedAttention().__call__, AttnProcessor2_0().__call__

    assert inspect.signature(announced) == inspect.signature(own)
    assert inspect.signature(announced) is inspect.signature(announced)  # at hand, not worked out anew


def test_every_layer_has_it_and_predicts_the_same_bits(unet: UNet2DConditionModel) -> None:
    embeds = randn(2, 77, unet.config.cross_attention_dim)
    announced = predict(unet, embeds)
    assert all(type(processor) is AnnouncedAttention for processor in unet.attn_processors.values())
    unet.set_attn_processor(AttnProcessor2_0())
    assert torch.equal(predict(unet, embeds.clone()), announced)


def test_a_prompt_is_looked_at_once_and_predicts_the_bits_of_diffusers(unet: UNet2DConditionModel) -> None:
    embeds, others = randn(2, 77, unet.config.cross_attention_dim), randn(2, 154, unet.config.cross_attention_dim)
    stock = UNet2DConditionModel.from_config(unet.config).eval()
    stock.load_state_dict(unet.state_dict())
    layers = [each for each in unet.modules() if isinstance(each, RememberingLinear)]
    assert len(layers) == 2 * sum(name.endswith("attn2.processor") for name in unet.attn_processors)

    for each in (embeds, others, embeds, embeds):
        expected = predict(stock, each)
        torch.testing.assert_close(predict(unet, each), expected, rtol=0, atol=1e-5)  # time is embedded by rows there
    again, other = predict(unet, embeds), predict(unet, others)
    for layer in layers:
        layer.weight.data.zero_()

    assert torch.equal(predict(unet, embeds), again), "nothing was asked again"
    assert torch.equal(predict(unet, others), other), "a prompt may be longer than its negative one"
    assert not torch.equal(predict(unet, embeds.clone()), again)


def test_layers_of_another_kind_stay_as_they_are(unet: UNet2DConditionModel) -> None:
    class FewBits(torch.nn.Linear):
        """As the quantizing libraries make them: with a `forward` of its own."""

    attention = unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2")
    attention.to_k, attention.to_v = other, _ = FewBits(128, 192), torch.nn.Linear(128, 192)

    remember_prompts(unet)

    assert attention.to_k is other
    assert type(attention.to_v) is RememberingLinear


@torch.inference_mode()
def test_an_answer_is_forgotten_with_the_question(layer: RememberingLinear) -> None:
    question = randn(2, 4)
    answer = weakref.ref(layer(question))
    assert answer() is layer(question)
    del question
    assert answer() is None


@torch.inference_mode()
def test_as_many_answers_are_kept_as_there_is_room_for(layer: RememberingLinear) -> None:
    rows = REMEMBERED_BYTES // (3 * 4)
    first, second, third, large = (randn(each, 4) for each in (rows // 2, rows // 2, 9, rows + 1))
    answers = [weakref.ref(layer(each)) for each in (first, second)]
    assert all(answer() is not None for answer in answers)
    answers.append(weakref.ref(layer(third)))
    assert [answer() is None for answer in answers] == [True, True, False]
    assert torch.equal(layer(large), layer(large))
    assert answers[-1]() is None


def test_gradients_flow_anew_every_time(layer: RememberingLinear) -> None:
    question = randn(2, 4).requires_grad_()
    with torch.no_grad():
        layer(question)
    for _ in range(2):
        layer(question).sum().backward()
    assert question.grad is not None
    assert torch.equal(question.grad, 2 * layer.weight.sum(0).expand(2, 4))


@torch.inference_mode()
def test_what_is_hooked_on_acts_every_time(layer: RememberingLinear) -> None:
    question, plain = randn(2, 4), layer(randn(2, 4))
    factors = iter([2.0, 3.0])
    layer.register_forward_hook(lambda *given: given[2] * next(factors))
    assert torch.equal(layer(question), plain * 2)
    assert torch.equal(layer(question), plain * 3)
