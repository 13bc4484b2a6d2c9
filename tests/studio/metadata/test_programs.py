"""What InvokeAI, Fooocus and NovelAI leave in their pictures; and any text given to any reader."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipelines.spec.errors import NotFound
from pipelines.spec.request import GenerationRequest
from studio.metadata import Outcome, comfyui, fooocus, import_request, invokeai, novelai
from studio.metadata.foreign import Lora
from studio.metadata.importing import FORMATS

INVOKE = {
    "generation_mode": "sdxl_txt2img",
    "positive_prompt": "a boat",
    "negative_prompt": "fog",
    "width": 1024,
    "height": 768,
    "seed": 3,
    "rand_device": "cpu",
    "cfg_scale": 7.5,
    "steps": 30,
    "scheduler": "dpmpp_2m_k",
    "clip_skip": 1,
    "strength": 0.5,
    "model": {"key": "k", "hash": "blake3:ab", "name": "juggernaut", "base": "sdxl", "type": "main"},
    "vae": {"name": "fix"},
    "loras": [{"model": {"name": "ocean", "hash": "cd"}, "weight": 0.75}],
    "controlnets": [{}],
}
INVOKE_FIELDS = {
    "prompt": "a boat",
    "negative_prompt": "fog",
    "width": 1024,
    "height": 768,
    "seed": 3,
    "guidance_scale": 7.5,
    "num_inference_steps": 30,
    "model": "juggernaut",
    "scheduler": "dpmpp_2m",
    "noise_schedule": "karras",
    "noise_source": "cpu",
    "emphasis": "comfy",
    "clip_skip": 2,
}
OLD_INVOKE = {
    "model_weights": "deliberate",
    "model_hash": "56d1",
    "app_version": "2.3.0",
    "image": {
        "prompt": [{"prompt": "a boat [fog]", "weight": 1.0}],
        "steps": 30,
        "cfg_scale": 7.5,
        "height": 768,
        "width": 1024,
        "seed": 3,
        "sampler": "k_euler_a",
    },
}
OLD_FIELDS = {
    **{name: value for name, value in INVOKE_FIELDS.items() if name != "clip_skip"},
    "noise_source": "nv",
    "scheduler": "euler_a",
    "noise_schedule": "uniform",
}


@pytest.mark.parametrize(
    ("texts", "fields"),
    [
        ({"invokeai_metadata": json.dumps(INVOKE), "invokeai_graph": "{}"}, INVOKE_FIELDS),
        (
            {"invokeai_metadata": json.dumps(INVOKE | {"generation_mode": "sdxl_img2img"})},
            {**INVOKE_FIELDS, "strength": 0.5},
        ),
        ({"sd-metadata": json.dumps(OLD_INVOKE)}, OLD_FIELDS | {"model": "deliberate"}),
        (
            {"Dream": '"a boat [fog]" -s 30 -S 3 -W 1024 -H 768 -C 7.5 -A k_euler_a -U 4 0.95'},
            {key: value for key, value in OLD_FIELDS.items() if key != "model"},
        ),
    ],
)
def test_invokeai_of_three_ages(texts: dict[str, str], fields: dict[str, Any]) -> None:
    imported = import_request(texts, find_model=lambda name, _: name)

    assert imported.program == "InvokeAI"
    assert imported.request_fields == fields


def test_invokeai_loras_and_models_come_with_their_hashes() -> None:
    foreign = invokeai.read({"invokeai_metadata": json.dumps(INVOKE)})

    assert foreign is not None
    assert foreign.loras == (Lora("ocean", 0.75, "cd"),)
    assert foreign.pairs["model_hash"] == "blake3:ab"
    assert foreign.pairs["controlnets"] == "1"


FOOOCUS = {
    "prompt": "a fish",
    "negative_prompt": "",
    "full_prompt": ["cinematic a fish", "a fish, sharp"],
    "full_negative_prompt": ["anime"],
    "base_model": "juggernautXL",
    "base_model_hash": "aeb7e9e689",
    "resolution": "(768, 1280)",
    "sampler": "dpmpp_2m_sde_gpu",
    "scheduler": "karras",
    "seed": "6952411511246973023",
    "steps": 30,
    "guidance_scale": 4,
    "loras": [["ocean", 0.1, "0123456789"]],
    "version": "Fooocus v2.4.3",
}


def test_fooocus() -> None:
    texts = {"parameters": json.dumps(FOOOCUS), "fooocus_scheme": "fooocus"}

    imported = import_request(texts, find_model=lambda name, digest: f"{name}-{digest}")
    foreign = fooocus.read(texts)

    assert foreign is not None
    assert foreign.loras == (Lora("ocean", 0.1, "0123456789"),)
    assert imported.program == "Fooocus v2.4.3"
    assert imported.request_fields == {
        "prompt": "cinematic a fish\nBREAK\na fish, sharp",
        "negative_prompt": "anime",
        "model": "juggernautXL-aeb7e9e689",
        "width": 768,
        "height": 1280,
        "num_inference_steps": 30,
        "guidance_scale": 4.0,
        "scheduler": "dpmpp_2m_sde",
        "noise_schedule": "karras",
        "seed": 6952411511246973023,
        "noise_source": "cpu",
    }


def test_novelai() -> None:
    comment = {
        "prompt": "a cat",
        "steps": 28,
        "height": 1216,
        "width": 832,
        "scale": 5.0,
        "uc": "bad",
        "seed": 7,
        "sampler": "k_euler_ancestral",
        "noise_schedule": "native",
        "strength": 0.7,
        "noise": 0.2,
        "request_type": "PromptGenerateRequest",
    }
    texts = {"Software": "NovelAI", "Source": "Stable Diffusion XL 7BCCAA2C", "Comment": json.dumps(comment)}

    imported = import_request(texts, find_model=lambda name, digest: f"{name} {digest}")

    assert imported.request_fields == {
        "prompt": "a cat",
        "negative_prompt": "bad",
        "model": "Stable Diffusion XL 7BCCAA2C",
        "width": 832,
        "height": 1216,
        "num_inference_steps": 28,
        "guidance_scale": 5.0,
        "scheduler": "euler_a",
        "noise_schedule": "normal",
        "seed": 7,
        "noise_source": "nv",
    }
    image = import_request(texts | {"Comment": json.dumps(comment | {"request_type": "Img2ImgRequest"})})
    assert image.request_fields["strength"] == 0.7
    assert [note.outcome for note in image.notes if note.field == "strength"] == [Outcome.APPROXIMATED]


def test_the_characters_of_novelai_are_told() -> None:
    captions = [{"char_caption": "a girl, red hair", "centers": []}, {"char_caption": "a boy"}]
    comment = {"prompt": "a street", "v4_prompt": {"caption": {"base_caption": "a street", "char_captions": captions}}}

    imported = import_request({"Software": "NovelAI", "Comment": json.dumps(comment)})

    (note,) = [note for note in imported.notes if note.field == "prompt"]
    assert note.outcome is Outcome.APPROXIMATED
    assert "a girl, red hair; a boy" in note.why


def test_swarmui() -> None:
    params = {"prompt": "a dog", "negativeprompt": "cat", "model": "SDXL/base", "seed": 5, "steps": 20, "cfgscale": 7,
              "width": 640, "height": 512, "sampler": "euler_ancestral", "scheduler": "sgm_uniform",
              "loras": ["sea/ocean"], "loraweights": ["0.5"], "swarm_version": "0.9.5"}  # fmt: skip

    imported = import_request({"parameters": json.dumps({"sui_image_params": params})}, find_model=lambda name, _: name)

    assert imported.program == "SwarmUI"
    assert imported.request_fields == {
        "prompt": "a dog",
        "negative_prompt": "cat",
        "model": "base",
        "width": 640,
        "height": 512,
        "num_inference_steps": 20,
        "guidance_scale": 7.0,
        "scheduler": "euler_a",
        "noise_schedule": "sgm_uniform",
        "seed": 5,
        "noise_source": "cpu",
        "emphasis": "comfy",
    }
    assert [(note.field, note.value) for note in imported.notes if note.outcome is Outcome.MISSING] == [
        ("loras", "ocean 0.5")
    ]


def test_a_lora_in_a_tag_and_in_swarmuis_list_is_one() -> None:
    params = {"prompt": "a <lora:sea/ocean:0.5>dog <lora:other:1>", "loras": ["sea/ocean.safetensors"],
              "loraweights": ["0.5"]}  # fmt: skip

    imported = import_request({"parameters": json.dumps({"sui_image_params": params})})

    assert [note.value for note in imported.notes if note.field == "loras"] == ["ocean 0.5", "other 1"]
    assert imported.request_fields["prompt"] == "a dog"


def test_another_programs_texts_are_nobody_elses() -> None:
    for read in (comfyui.read, invokeai.read, fooocus.read, novelai.read):
        assert read({}) is None
        assert read({"parameters": "a boat\nSteps: 1, Seed: 2, Size: 8x8", "Comment": "{}", "prompt": "{}"}) is None


KEYS = ["parameters", "prompt", "workflow", "invokeai_metadata", "sd-metadata", "Dream", "Comment", "Source", "studio"]
WORDS = st.sampled_from(
    [
        "inputs",
        "class_type",
        "KSampler",
        "model",
        "positive",
        "text",
        "image",
        "prompt",
        "loras",
        "1",
        "base_model",
        "sampler",
        "steps",
        "seed",
        "width",
        "\ud800",
        "k_euler",
        "controlnets",
        "resolution",
        "sui_image_params",
        "(1, 2)",
    ]
)
LEAVES = WORDS | st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=6))
GRAPHS = st.dictionaries(
    st.sampled_from("123"),
    st.fixed_dictionaries({"class_type": st.sampled_from(["KSampler", "SaveImage", "X"]), "inputs": JSON}),
)
VALUES = st.text() | (JSON | GRAPHS).map(json.dumps)


@hypothesis_settings(max_examples=150)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES), st.sampled_from(["NovelAI", "x"]))
def test_any_texts_are_read_without_an_error(texts: dict[str, str], software: str) -> None:
    for read in (format_.read for format_ in FORMATS):
        read(texts | {"Software": software})
    try:
        imported = import_request(texts | {"Software": software})
    except NotFound:
        return
    GenerationRequest.parse(imported.request_fields)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        '"' + "[" * 100_000,
        '"a"' + " " * 100_000 + "x",
        '{"1": ' + "9" * 10_000 + "}",
        '"x" ' * 30_000,
        '"x" -' * 30_000,
    ],
)
def test_nonsense_is_read_quickly(text: str) -> None:
    for read in (format_.read for format_ in FORMATS):
        read(dict.fromkeys(KEYS, text) | {"Software": "NovelAI"})
