"""A LoRA in writing, read and written back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.spec.errors import InvalidRequest
from pipelines.spec.lora_tags import BLOCK_LISTS, parse_lora, writable_name, write_lora
from pipelines.spec.loras import LoraSpec
from pipelines.spec.request import GenerationRequest


@pytest.mark.parametrize(
    ("text", "unet", "text_encoder"),
    [
        ("x", 1.0, None),
        ("x:0.8", 0.8, None),
        ("x:-1.5", -1.5, None),
        ("x:0.8:0.5", 0.5, 0.8),
        ("x:unet=0.3", 0.3, 1.0),
        ("x:te=0.3", 0.3, None),
        ("x:te=0.3:unet=.5", 0.5, 0.3),
        ("x:0.8:0.5:te=0", 0.5, 0.0),
        ("unet=1:x:0", 1.0, 0.0),
    ],
)
def test_numbers_follow_a1111s_rules(text: str, unet: float, text_encoder: float | None) -> None:
    spec = LoraSpec(**parse_lora(text))

    assert (spec.name, spec.weight, spec.text_encoder_weight) == ("x", unet, text_encoder)


def test_steps_and_blocks_have_names() -> None:
    spec = LoraSpec(**parse_lora("sea side:0.8:start=0.25:end=.75:block.mid_block=0.5"))

    assert spec == LoraSpec(name="sea side", weight=0.8, start=0.25, end=0.75, block_weights={"mid_block": 0.5})


def test_a_list_of_block_weights_reaches_the_blocks_of_diffusers() -> None:
    sd1_lora = parse_lora("x:0.8:lbw=0.5,0,1,1,1,1,1,0.25,1,1,1,1,1,1,1,1,0.1")
    sdxl_lora = parse_lora("x:lbw=1,0,1,1,1,1,1,1,1,1,1,0.5")

    assert sd1_lora == {
        "name": "x",
        "weight": 0.8,
        "text_encoder_weight": 0.4,  # BASE
        "block_weights": {
            "down_blocks.0.resnets.0": 0,  # IN01
            "down_blocks.0.attentions.0": 0,
            "mid_block": 0.25,
            "up_blocks.3.resnets.2": 0.1,  # OUT11
            "up_blocks.3.attentions.2": 0.1,
        },
    }
    assert sdxl_lora["block_weights"] == {
        "down_blocks.1.resnets.0": 0,  # IN04
        "down_blocks.1.attentions.0": 0,
        "up_blocks.1.resnets.2": 0.5,  # OUT05
        "up_blocks.1.attentions.2": 0.5,
        "up_blocks.1.upsamplers.0": 0.5,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "loras names '': there is no name; write it first, as in pixel-art:0.8"),
        ("te=1", "loras names 'te=1': there is no name"),
        ("x:strong", "loras names 'x:strong': weight must be a number such as 0.8, got 'strong'"),
        ("x:1:nan", "loras names 'x:1:nan': unet must be a number such as 0.8, got 'nan'"),
        ("x:start=1e-3", "start must be a number such as 0.8, got '1e-3'"),
        ("x:1:1:8", "a LoRA is used with its whole rank here; leave out the third number or dyn="),
        ("x:dyn=8", "leave out the third number or dyn="),
        ("x:weight=1", "weight= is unknown; there are te=, unet=, start=, end=, lbw=, block.NAME="),
        ("x:lbw=1,1", "lbw= must be a list of 12, 17, 20, 26 numbers, got 2"),
        ("x:lbw=MIDD", "lbw must be a number such as 0.8, got 'MIDD'"),
        ("x:11", "loras[0].weight must be at least -10 and at most 10, got 11.0"),
        ("x:end=2", "loras[0].end must be at least 0 and at most 1, got 2.0"),
    ],
)
def test_what_means_nothing_is_refused_in_a_sentence(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        GenerationRequest.parse({"loras": [text]})

    assert message in str(refused.value)
    assert refused.value.field == "loras"


def test_a_request_takes_texts_and_objects_and_at_most_twenty() -> None:
    request = GenerationRequest.parse({"loras": ["a:0.5", {"name": "b", "block_weights": {"mid_block": 1}}]})

    assert request.loras == (LoraSpec(name="a", weight=0.5), LoraSpec(name="b", block_weights={"mid_block": 1.0}))
    with pytest.raises(InvalidRequest, match="loras has 21 entries, and 20 is the most; leave some out"):
        GenerationRequest.parse({"loras": ["x"] * 21})
    with pytest.raises(InvalidRequest, match="lora is not a field of a request; say loras"):
        GenerationRequest.parse({"lora": "x"})


weights = st.floats(-10, 10)
specs = st.builds(
    LoraSpec,
    name=st.text(min_size=1, max_size=20).map(writable_name).filter(str.strip),
    weight=weights,
    text_encoder_weight=st.none() | weights,
    block_weights=st.dictionaries(st.sampled_from(["mid_block", "up_blocks.1.attentions.0"]), weights),
    start=st.floats(0, 1),
    end=st.floats(0, 1),
)


@given(specs)
def test_what_is_written_reads_back_the_same(spec: LoraSpec) -> None:
    read = LoraSpec(**parse_lora(write_lora(spec)))

    if spec.text_encoder_weight == spec.weight:
        spec = spec.model_copy(update={"text_encoder_weight": None})
    assert read == spec


def test_what_is_written_is_short() -> None:
    assert write_lora(LoraSpec(name="x")) == "x:1"
    assert write_lora(LoraSpec(name="x", weight=0.8, text_encoder_weight=0.5)) == "x:0.5:0.8"


@pytest.mark.parametrize("length", [12, 17, 20, 26])
def test_every_list_names_each_part_once(length: int) -> None:
    named = [part for block in BLOCK_LISTS[length].values() for part in block]

    assert len(BLOCK_LISTS[length]) == length
    assert len(named) == len(set(named))
