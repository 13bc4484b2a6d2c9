"""Which LoRAs a picture gets, from its field and from its own prompt."""

from dataclasses import dataclass
from typing import Any

import pytest

from pipelines.spec.choosing import choose_loras, tagged_loras
from pipelines.spec.errors import InvalidRequest, ModelError, NotFound
from pipelines.spec.model import Model
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import resolve
from pipelines.spec.resolved import ResolvedRequest


@dataclass(frozen=True)
class Known:
    """A LoRA that fits every model but one."""

    name: str
    sha256: str = "ab" * 32

    def check_fits(self, model: Model) -> None:
        if self.name == "foreign":
            raise ModelError(f"LoRA foreign is not for {model.name}")


def find(name: str) -> Known:
    names = {"ink": "ink", "Tinte": "ink", "pixel": "pixel", "foreign": "foreign"}
    if name not in names:
        raise NotFound(f"LoRA {name!r} is not installed")
    return Known(names[name])


def choose(model: Model, **fields: Any) -> ResolvedRequest:
    request = GenerationRequest.parse(fields)
    return choose_loras(resolve(request, model)[0], request.loras, model=model, find=find)


def test_a_tag_in_a_comment_is_a_comment_where_there_are_comments(model: Model) -> None:
    prompt = "a boat # <lora:pixel:1>"

    assert not choose(model, prompt=prompt).loras
    text = choose(model, prompt=prompt, prompt_comments=False)

    assert ([lora.name for lora in text.loras], text.prompt) == (["pixel"], "a boat #")
    assert tagged_loras(prompt) == []
    assert tagged_loras(prompt, comments=False) == ["pixel"]
    with pytest.raises(InvalidRequest, match="negative_prompt names <lora:pixel>"):
        choose(model, prompt="a", negative_prompt="# <lora:pixel:1>", prompt_comments=False)


def test_tags_leave_the_prompt_and_join_the_field(model: Model) -> None:
    chosen = choose(model, prompt="<lora:pixel:0.5:0.25> a boat", loras=["Tinte:-1:start=0.5"])

    assert chosen.prompt == "a boat"
    assert [lora.model_dump() for lora in chosen.loras] == [
        {
            "name": "ink",
            "sha256": "ab" * 32,
            "weight": -1,
            "text_encoder_weight": -1,
            "block_weights": {},
            "start": 0.5,
            "end": 1,
        },
        {
            "name": "pixel",
            "sha256": "ab" * 32,
            "weight": 0.25,
            "text_encoder_weight": 0.5,
            "block_weights": {},
            "start": 0,
            "end": 1,
        },
    ]


def test_asking_again_for_what_was_resolved_applies_each_once(model: Model) -> None:
    chosen = choose(model, prompt="a <lora:pixel:0.5>boat", loras=["ink:0:1"], seed=1)

    asked = chosen.asked()
    again = choose_loras(resolve(asked, model)[0], asked.loras, model=model, find=find)

    assert again == chosen
    assert len(again.loras) == 2


@pytest.mark.parametrize(
    ("prompt", "left", "names"),
    [
        ("a boat", "a boat", []),
        ("a < b > c", "a < b > c", []),
        ("# <lora:ink:1>\na boat", "# <lora:ink:1>\na boat", []),
        ("a boat # with\n<lora:ink> sea", "a boat \n sea", ["ink"]),
        ("[<lora:ink:1>a:b:0.5] AND c :0.8<lora:pixel:1>", "[a:b:0.5] AND c :0.8", ["ink", "pixel"]),
        ("a <lora:ink:0> <lora:pixel:0:1>", "a", ["pixel"]),
        ("a <lyco:ink:1>", "a", ["ink"]),
    ],
)
def test_what_a_prompt_names(prompt: str, left: str, names: list[str], model: Model) -> None:
    chosen = choose(model, prompt=prompt)

    assert (chosen.prompt, [lora.name for lora in chosen.loras]) == (left, names)


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"prompt": "<lora:gone:1>"}, "prompt", "LoRA 'gone' is not installed"),
        ({"loras": ["gone"]}, "loras", "LoRA 'gone' is not installed"),
        ({"prompt": "<lora:gone:0>"}, "prompt", "LoRA 'gone' is not installed"),
        ({"loras": ["foreign"]}, "loras", "LoRA foreign is not for toy"),
        (
            {"prompt": "<lora:ink:x>"},
            "prompt",
            "prompt names <lora:ink:x>: weight must be a number such as 0.8, got 'x'",
        ),
        (
            {"prompt": "<lora:ink:99>"},
            "prompt",
            "prompt names <lora:ink:99>: weight must be at least -10 and at most 10",
        ),
        ({"prompt": "<lora:te=1>"}, "prompt", "prompt names <lora::te=1>: there is no name"),
        ({"prompt": "<lora:ink> <lora:Tinte>"}, "prompt", "prompt names the LoRA ink again; say once how it is meant"),
        ({"prompt": "<lora:ink>", "loras": ["ink"]}, "prompt", "prompt names the LoRA ink again"),
        ({"loras": ["ink:start=0.5:end=0.5"]}, "loras", "from 0.5 to 0.5 of the steps; start must be below end"),
        (
            {"loras": ["ink:end=0.5"], "scheduler": "dpm_adaptive"},
            "loras",
            "scheduler dpm_adaptive has no fixed number of them; choose another scheduler",
        ),
        ({"prompt": "<hypernet:x:1>"}, "prompt", "prompt names <hypernet:x:1>, and hypernet is not supported"),
        ({"negative_prompt": "<lora:ink:1>"}, "negative_prompt", "give a negative weight in the prompt instead"),
        ({"negative_prompt": "<hypernet:x>"}, "negative_prompt", "negative_prompt names <hypernet:x>"),
        (
            {"hires_scale": 2.0, "hires_prompt": "<lora:ink>"},
            "hires_prompt",
            "so stands in the prompt only; put it there",
        ),
    ],
)
def test_what_cannot_be_had_is_refused(fields: dict[str, Any], field: str, message: str, model: Model) -> None:
    with pytest.raises(InvalidRequest) as refused:
        choose(model, **fields)

    assert message in str(refused.value)
    assert refused.value.field == field
