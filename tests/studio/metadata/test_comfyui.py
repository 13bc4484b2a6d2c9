"""ComfyUI's graphs: walked from the sampler to what it was given."""

import json
from typing import Any

import pytest

from studio.metadata import Outcome, comfyui, import_request
from studio.metadata.foreign import Lora


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
BOAT = {
    "prompt": "a boat",
    "negative_prompt": "fog",
    "model": "base_1.0",
    "width": 832,
    "height": 1216,
    "clip_skip": 2,
    "noise_source": "cpu",
    "emphasis": "comfy",
    "step_rule": "exact",
}


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
                "noise_schedule": "normal",
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
                "noise_schedule": "simple",
                "noise_source": "cpu",
                "emphasis": "comfy",
                "step_rule": "exact",
                "guidance_scale": 1.0,
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
    assert foreign.loras == (Lora("ocean", 0.8, text_encoder_weight=1.0),)
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


def with_prompt(*, positive: Any = ("4", 0), **nodes: dict[str, Any]) -> dict[str, str]:
    sampler = node("KSampler", **(BASIC["7"]["inputs"] | {"positive": list(positive)}))
    named = {name.removeprefix("n"): each for name, each in nodes.items()}
    return {"prompt": json.dumps(BASIC | {"7": sampler} | named)}


ENCODE = node("CLIPTextEncode", text=["60", 0], clip=["3", 0])
EFFICIENT = node(
    "Efficient Loader",
    ckpt_name="base.safetensors",
    clip_skip=-2,
    lora_name="None",
    lora_model_strength=1,
    lora_clip_strength=1,
    positive="a ship",
    negative="mist",
    token_normalization="none",
    weight_interpretation="comfy",
    empty_latent_width=640,
    empty_latent_height=448,
    batch_size=1,
)


@pytest.mark.parametrize(
    ("nodes", "prompt"),
    [
        ({"n60": node("StringConcatenate", string_a="a ", string_b=["61", 0], delimiter=""),
          "n61": node("PrimitiveStringMultiline", value="ship")}, "a ship"),
        ({"n60": node("Text Concatenate", delimiter=", ", clean_whitespace="true", text_a="a ", text_b=["61", 0]),
          "n61": node("CR Prompt Text", prompt="ship ")}, "a, ship"),
        ({"n60": node("ShowText|pysssss", text=["61", 0], text_0="an older one"),
          "n61": node("easy positive", positive="ship")}, "ship"),
        ({"n60": node("Text Multiline", text="a (ship:1.2)")}, "a (ship:1.2)"),
    ],
)  # fmt: skip
def test_texts_from_other_nodes_are_the_prompt(nodes: dict[str, Any], prompt: str) -> None:
    imported = import_request(with_prompt(n4=ENCODE, **nodes))

    assert imported.request_fields["prompt"] == prompt
    notes = [note for note in imported.notes if note.field == "prompt" or note.field.startswith("node")]
    assert [note.outcome for note in notes] == [Outcome.USED]


@pytest.mark.parametrize(
    ("nodes", "prompt", "outcome", "why"),
    [
        ({"n60": node("LLM", seed=1)}, None, Outcome.MISSING, "makes it in LLM"),
        ({"n60": node("Text Replace", text="a car", find="car", replace="x")}, "a car", Outcome.APPROXIMATED, ""),
        ({"n60": node("StringConcatenate", string_a=["60", 0], string_b=["60", 0], delimiter=",")}, None,
         Outcome.MISSING, "no text in the graph"),
        ({"n4": node("Mystery", clip=["3", 0])}, None, Outcome.MISSING, "no text in the graph"),
        ({"n4": node("CLIPTextEncodeSDXL", text_g="sea", text_l="sky")}, "sea, sky", Outcome.APPROXIMATED, "by one"),
    ],
)  # fmt: skip
def test_a_prompt_that_the_graph_does_not_hold_is_missing(
    nodes: dict[str, Any], prompt: str | None, outcome: Outcome, why: str
) -> None:
    imported = import_request(with_prompt(**{"n4": ENCODE, **nodes}))

    (note,) = [note for note in imported.notes if note.field == "prompt"]
    assert imported.request_fields.get("prompt") == prompt
    assert note.outcome is outcome
    assert why in note.why


def test_an_efficient_loader_is_read() -> None:
    sampler = {"model": ["1", 0], "positive": ["1", 1], "negative": ["1", 2], "latent_image": ["1", 3]}
    graph = {
        "prompt": json.dumps({"1": EFFICIENT, "7": node("KSampler (Efficient)", **BASIC["7"]["inputs"] | sampler)})
    }

    imported = import_request(graph, find_model=lambda name, _: name)

    expected = {"prompt": "a ship", "negative_prompt": "mist", "width": 640, "height": 448, "clip_skip": 2}
    assert expected.items() <= imported.request_fields.items()
    assert imported.request_fields["model"] == "base"
    assert {note.outcome for note in imported.notes} == {Outcome.USED}


def test_comfyui_weighs_words_and_counts_steps_in_its_own_way() -> None:
    imported = import_request({"prompt": json.dumps(IMAGE)})

    assert imported.request_fields["emphasis"] == "comfy"
    assert imported.request_fields["step_rule"] == "exact"


def test_the_guidance_of_a_distilled_model_is_told() -> None:
    notes = {note.field: note for note in import_request({"prompt": json.dumps(FLUX)}).notes}

    assert (notes["guidance"].value, notes["guidance"].outcome) == ("3.5", Outcome.IGNORED)
    assert notes["guidance_scale"].value == "1"


@pytest.mark.timeout(20)
def test_texts_joined_to_themselves_are_read_quickly() -> None:
    links = [[str(61 + i), 0] for i in range(3000)]
    doubled = {
        f"n{60 + i}": node("StringConcatenate", string_a=link, string_b=link, delimiter="a")
        for i, link in enumerate(links)
    }

    assert "prompt" not in import_request(with_prompt(n4=ENCODE, **doubled)).request_fields
