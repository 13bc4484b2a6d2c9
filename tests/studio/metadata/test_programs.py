"""What ComfyUI, InvokeAI, Fooocus and NovelAI leave in their pictures."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipelines.spec.errors import NotFound
from pipelines.spec.request import GenerationRequest
from studio.metadata import comfyui, fooocus, import_request, invokeai, novelai
from studio.metadata.foreign import Lora
from studio.metadata.importing import FORMATS


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


BASIC = {
    "1": node("CheckpointLoaderSimple", ckpt_name="SDXL\\base_1.0.safetensors"),
    "2": node(
        "LoraLoader", lora_name="ocean.safetensors", strength_model=0.8, strength_clip=1, model=["1", 0], clip=["1", 1]
    ),
    "3": node("CLIPSetLastLayer", stop_at_clip_layer=-2, clip=["2", 1]),
    "4": node("CLIPTextEncode", text="a boat\n", clip=["3", 0]),
    "5": node("CLIPTextEncode", text="fog", clip=["3", 0]),
    "6": node("EmptyLatentImage", width=832, height=1216, batch_size=1),
    "7": node(
        "KSampler",
        seed=42,
        steps=25,
        cfg=6.5,
        sampler_name="dpmpp_2m",
        scheduler="karras",
        denoise=1.0,
        model=["2", 0],
        positive=["4", 0],
        negative=["5", 0],
        latent_image=["6", 0],
    ),
    "8": node("VAELoader", vae_name="sdxl_vae.safetensors"),
    "9": node("VAEDecode", samples=["7", 0], vae=["8", 0]),
    "10": node("SaveImage", images=["9", 0]),
}
ADVANCED = BASIC | {
    "7": node(
        "KSamplerAdvanced",
        add_noise="enable",
        noise_seed=["20", 0],
        steps=30,
        cfg=5,
        sampler_name="euler_ancestral",
        scheduler="normal",
        start_at_step=0,
        end_at_step=20,
        return_with_leftover_noise="enable",
        model=["2", 0],
        positive=["4", 0],
        negative=["5", 0],
        latent_image=["6", 0],
    ),
    "20": node("PrimitiveInt", value=77),
    "21": node(
        "KSamplerAdvanced",
        add_noise="disable",
        noise_seed=0,
        steps=30,
        cfg=5,
        sampler_name="euler",
        scheduler="normal",
        start_at_step=20,
        end_at_step=1000,
        model=["2", 0],
        positive=["4", 0],
        negative=["5", 0],
        latent_image=["7", 0],
    ),
    "9": node("VAEDecode", samples=["21", 0], vae=["8", 0]),
}
CUSTOM = BASIC | {
    "7": node(
        "SamplerCustom",
        add_noise=True,
        noise_seed=8,
        cfg=4.0,
        model=["2", 0],
        positive=["4", 0],
        negative=["5", 0],
        sampler=["30", 0],
        sigmas=["31", 0],
        latent_image=["6", 0],
    ),
    "30": node("KSamplerSelect", sampler_name="heun"),
    "31": node("BasicScheduler", model=["2", 0], scheduler="sgm_uniform", steps=9, denoise=1.0),
}
FLUX = {
    "1": node("UNETLoader", unet_name="flux1-dev.safetensors"),
    "2": node("DualCLIPLoader", clip_name1="t5xxl_fp16.safetensors", clip_name2="clip_l.safetensors"),
    "3": node("CLIPTextEncode", text=["4", 0], clip=["2", 0]),
    "4": node("StringConstant", string="a linked prompt"),
    "5": node("FluxGuidance", guidance=3.5, conditioning=["3", 0]),
    "6": node("BasicGuider", model=["1", 0], conditioning=["5", 0]),
    "7": node(
        "SamplerCustomAdvanced",
        noise=["8", 0],
        guider=["6", 0],
        sampler=["9", 0],
        sigmas=["10", 0],
        latent_image=["11", 0],
    ),
    "8": node("RandomNoise", noise_seed=5),
    "9": node("KSamplerSelect", sampler_name="euler"),
    "10": node("BasicScheduler", scheduler="simple", steps=20, denoise=1, model=["1", 0]),
    "11": node("EmptySD3LatentImage", width=1024, height=1024, batch_size=1),
    "12": node("VAEDecode", samples=["7", 0], vae=["13", 0]),
    "13": node("VAELoader", vae_name="ae.safetensors"),
    "14": node("SaveImage", images=["12", 0]),
}
IMAGE = BASIC | {
    "6": node("VAEEncode", pixels=["40", 0], vae=["8", 0]),
    "40": node("LoadImage", image="photo.png"),
    "7": node("KSampler", **(BASIC["7"]["inputs"] | {"denoise": 0.6})),
    "41": node("ControlNetApply", conditioning=["4", 0], strength=1.0),
}
SHARED = {"num_inference_steps": 25, "guidance_scale": 6.5, "scheduler": "dpmpp_2m", "noise_schedule": "karras"}
BOAT = {"prompt": "a boat", "negative_prompt": "fog", "model": "base_1.0", "width": 832, "height": 1216}


@pytest.mark.parametrize(
    ("graph", "fields"),
    [
        (BASIC, {**BOAT, **SHARED, "seed": 42}),
        (
            ADVANCED,
            {
                **BOAT,
                "seed": 77,
                "num_inference_steps": 30,
                "guidance_scale": 5.0,
                "scheduler": "euler_a",
                "noise_schedule": "default",
            },
        ),
        (
            CUSTOM,
            {
                **BOAT,
                "seed": 8,
                "num_inference_steps": 9,
                "guidance_scale": 4.0,
                "scheduler": "heun",
                "noise_schedule": "sgm_uniform",
            },
        ),
        (
            FLUX,
            {
                "prompt": "a linked prompt",
                "negative_prompt": "",
                "model": "flux1-dev",
                "width": 1024,
                "height": 1024,
                "seed": 5,
                "num_inference_steps": 20,
                "scheduler": "euler",
                "noise_schedule": "sgm_uniform",
            },
        ),
        (
            IMAGE,
            {**{k: v for k, v in BOAT.items() if k not in {"width", "height"}}, **SHARED, "seed": 42, "strength": 0.6},
        ),
    ],
)
def test_comfyui_graphs(graph: dict[str, Any], fields: dict[str, Any]) -> None:
    imported = import_request({"prompt": json.dumps(graph), "workflow": "{}"}, find_model=lambda name, _: name)

    assert imported.program == "ComfyUI"
    assert imported.request_fields == fields


def test_comfyui_loras_vae_and_unknown_nodes_are_told() -> None:
    foreign = comfyui.read({"prompt": json.dumps(IMAGE)})

    assert foreign is not None
    assert foreign.loras == (Lora("ocean", 0.8),)
    assert foreign.pairs["vae_name"] == "sdxl_vae"
    assert foreign.pairs["stop_at_clip_layer"] == "-2"
    assert "node ControlNetApply" in foreign.pairs
    assert foreign.pairs["image"] == "photo.png"


def test_comfyui_power_loras_and_several_prompts() -> None:
    graph = BASIC | {
        "2": node(
            "Power Lora Loader (rgthree)",
            lora_1={"on": True, "lora": "a.safetensors", "strength": 1.5},
            lora_2={"on": False, "lora": "b.safetensors", "strength": 1},
            model=["1", 0],
            clip=["1", 1],
        ),
        "7": node("KSampler", **(BASIC["7"]["inputs"] | {"positive": ["50", 0]})),
        "50": node("ConditioningCombine", conditioning_1=["4", 0], conditioning_2=["51", 0]),
        "51": node("CLIPTextEncodeSDXL", text_g="the sea", text_l="waves", clip=["3", 0]),
    }

    foreign = comfyui.read({"prompt": json.dumps(graph)})

    assert foreign is not None
    assert foreign.loras == (Lora("a", 1.5),)
    assert foreign.prompt == "a boat, the sea, waves"
    assert "node ConditioningCombine" in foreign.pairs


def test_comfyui_loops_end() -> None:
    loops = {
        "1": node(
            "KSampler",
            steps=["2", 0],
            cfg=1,
            sampler_name="euler",
            model=["1", 0],
            positive=["3", 0],
            latent_image=["4", 0],
            seed=[9, 0],
        ),
        "2": node("Value", value=["2", 0]),
        "3": node("ConditioningCombine", conditioning_1=["3", 0], text=["2", 0]),
        "4": node("Latent", samples=["5", 0]),
        "5": node("KSampler", latent_image=["1", 0]),
        "6": node("SaveImage", images=["1", 0]),
    }

    assert comfyui.read({"prompt": json.dumps(loops)}) is not None


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
OLD_FIELDS = INVOKE_FIELDS | {"scheduler": "euler_a", "noise_schedule": "default"}


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
        "prompt": "cinematic a fish, a fish, sharp",
        "negative_prompt": "anime",
        "model": "juggernautXL-aeb7e9e689",
        "width": 768,
        "height": 1280,
        "num_inference_steps": 30,
        "guidance_scale": 4.0,
        "scheduler": "dpmpp_2m_sde",
        "noise_schedule": "karras",
        "seed": 6952411511246973023,
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
        "noise_schedule": "default",
        "seed": 7,
    }
    image = texts | {"Comment": json.dumps(comment | {"request_type": "Img2ImgRequest"})}
    assert import_request(image).request_fields["strength"] == 0.7


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


@pytest.mark.timeout(20)
def test_a_graph_of_many_nodes_is_read_quickly() -> None:
    wide = {
        str(i): node(
            "KSampler",
            latent_image=[str(i + 1), 0],
            model=[str(i + 1), 0],
            positive=[str(i + 1), 0],
            steps=[str(i + 1), 0],
        )
        for i in range(5000)
    }

    assert comfyui.read({"prompt": json.dumps(wide)}) is not None
