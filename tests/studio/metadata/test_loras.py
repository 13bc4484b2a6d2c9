"""LoRAs in what pictures say: ours, and other programs'."""

import json
from typing import Any

import pytest

from pipelines.spec.loras import ResolvedLora
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import resolve
from studio.metadata import FoundLora, Imported, Outcome, Record, a1111, a1111_writing, import_request, native
from tests.pipelines.spec.conftest import make_model

PAIRS = "Steps: 20, Seed: 1, Size: 512x512"


def resolved(name: str, **changes: Any) -> ResolvedLora:
    values: dict[str, Any] = {
        "name": name,
        "sha256": "0123456789abcdef" * 4,
        "weight": 0.8,
        "text_encoder_weight": 0.8,
        "block_weights": {},
        "start": 0.0,
        "end": 1.0,
    }
    return ResolvedLora(**{**values, **changes})


def with_loras(*loras: ResolvedLora, **changes: Any) -> Record:
    (request,) = resolve(GenerationRequest(prompt="a boat", seed=1), make_model())
    return Record("0123456789abcdef", 0, 1.0, request.model_copy(update={"loras": loras, **changes}), {})


def installed(name: str, digest: str) -> FoundLora | None:
    """`ink` is here, under another name, with the hash that all records here name; `sea` is another file."""
    if digest and ("0123456789abcdef" * 4).startswith(digest):
        return FoundLora("tinte", is_exact=True)
    return FoundLora(name, is_exact=not digest) if name in {"sea", "air"} else None


def imported(texts: dict[str, str]) -> Imported:
    return import_request(texts, find_lora=installed)


def test_a_record_keeps_what_was_applied_whole() -> None:
    record = with_loras(resolved("ink", block_weights={"mid_block": 0.5}))

    assert native.read(native.write(record)) == record
    assert record.to_json()["request"]["loras"][0]["sha256"] == "0123456789abcdef" * 4
    assert import_request({"studio": native.write(record)}).request_fields["loras"]


@pytest.mark.parametrize(
    ("loras", "prompt", "first_line", "hashes"),
    [
        ([], "a boat", "a boat", None),
        ([resolved("ink")], "a boat", "a boat <lora:ink:0.8>", "ink: 0123456789ab"),
        ([resolved("ink", text_encoder_weight=0.5)], "", "<lora:ink:0.5:0.8>", "ink: 0123456789ab"),
        (
            [resolved("ink", start=0.25, block_weights={"mid_block": 0.5}), resolved("a, b", weight=-1.0)],
            "a boat",
            "a boat <lora:ink:0.8:start=0.25:block.mid_block=0.5> <lora:a, b:0.8:-1>",
            "ink: 0123456789ab, a b: 0123456789ab",
        ),
    ],
)
def test_infotext_has_the_tags_and_their_hashes(
    loras: list[ResolvedLora], prompt: str, first_line: str, hashes: str | None
) -> None:
    text = a1111_writing.write(with_loras(*loras, prompt=prompt))
    foreign = a1111.read({"parameters": text})

    assert foreign is not None
    assert text.split("\n")[0] == first_line
    assert foreign.pairs.get("Lora hashes") == hashes


def test_a_tag_is_not_lost_in_a_comment() -> None:
    text = a1111_writing.write(with_loras(resolved("sea"), prompt="a boat # red"))

    assert text.startswith("a boat # red\n<lora:sea:0.8>\n")


def test_infotext_reads_back_what_was_applied() -> None:
    loras = resolved("ink", start=0.25, block_weights={"mid_block": 0.5}), resolved("air", text_encoder_weight=-0.5)
    text = a1111_writing.write(with_loras(loras[0], loras[1].model_copy(update={"sha256": "f" * 64}), prompt="a boat"))

    read = imported({"parameters": text})

    assert read.request_fields["prompt"] == "a boat"
    assert read.request_fields["loras"] == [
        {"name": "tinte", "weight": 0.8, "start": 0.25, "block_weights": {"mid_block": 0.5}},
        {"name": "air", "weight": 0.8, "text_encoder_weight": -0.5},
    ]


@pytest.mark.parametrize(
    ("prompt", "pairs", "outcome", "why"),
    [
        ("<lora:ink:1>", 'Lora hashes: "ink: 0123456789ab"', Outcome.USED, "found as tinte"),
        ("<lora:gone:1>", 'Lora hashes: "gone: 0123456789ab"', Outcome.USED, "found as tinte"),
        ("<lora:ink:1>", 'Hashes: {"lora:ink":"0123456789"}', Outcome.USED, "found as tinte"),
        ("<lora:sea:1>", "RNG: CPU", Outcome.USED, "as it is"),
        ("<lora:sea:1>", 'Lora hashes: "sea: ffffffffffff"', Outcome.APPROXIMATED,
         "sea is another file: its hash is not [ffffffffffff], and the picture will differ"),
        ("<lora:gone:1>", 'Lora hashes: "gone: ffffffffffff"', Outcome.MISSING,
         "no LoRA 'gone' [ffffffffffff] is installed"),
        ("<lora:sea:99>", "RNG: CPU", Outcome.IGNORED,
         "loras[0].weight must be at least -10 and at most 10, got 99.0"),
    ],
)  # fmt: skip
def test_what_became_of_a_lora_is_told(prompt: str, pairs: str, outcome: Outcome, why: str) -> None:
    read = imported({"parameters": f"a boat {prompt}\n{PAIRS}, {pairs}"})

    (note,) = [note for note in read.notes if note.field == "loras"]
    assert (note.outcome, note.why) == (outcome, why)
    assert ("loras" in read.request_fields) == (outcome in {Outcome.USED, Outcome.APPROXIMATED})


@pytest.mark.parametrize(
    ("tag", "entry", "why"),
    [
        ("<lora:sea:0.5:0.7:4>", {"weight": 0.7, "text_encoder_weight": 0.5}, "4 means nothing here"),
        ("<lora:sea:0.5:0.7:dyn=4>", {"weight": 0.7, "text_encoder_weight": 0.5}, "dyn=4 means nothing here"),
        ("<lora:sea:0.5:step=5-10:unet=0.7>", {"weight": 0.7, "text_encoder_weight": 0.5},
         "step=5-10 means nothing here"),
        ("<lora:sea:0.5:lbw=1,0,0:start=0.25>", {"weight": 0.5, "start": 0.25}, "lbw=1,0,0 means nothing here"),
        ("<lora:sea:abc>", {"weight": 1.0}, "abc means nothing here"),
        ("<lora:sea:0.5:lbw=MINE:x=1>", {"weight": 0.5}, "lbw=MINE means nothing here, x=1 means nothing here"),
    ],
)  # fmt: skip
def test_what_a_tag_says_beyond_our_words_is_told(tag: str, entry: dict[str, Any], why: str) -> None:
    read = imported({"parameters": f"a boat {tag}\n{PAIRS}"})

    assert read.request_fields["loras"] == [{"name": "sea", **entry}]
    (note,) = [note for note in read.notes if note.field == "loras"]
    assert (note.outcome, note.why) == (Outcome.APPROXIMATED, why)


def test_named_block_weights_are_those_of_the_extension() -> None:
    numbers = "1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0"

    named, listed = (imported({"parameters": f"a <lora:sea:0.5:lbw={lbw}>\n{PAIRS}"}) for lbw in ("MIDD", numbers))

    assert named.request_fields == listed.request_fields
    assert named.request_fields["loras"][0]["block_weights"]
    outcomes = [next(note for note in read.notes if note.field == "loras") for read in (named, listed)]
    assert [note.outcome for note in outcomes] == [Outcome.APPROXIMATED, Outcome.USED]
    assert f"lbw=MIDD is taken for {numbers}" in outcomes[0].why


def test_other_tags_are_told_and_leave_the_prompts() -> None:
    text = f"a boat <lyco:sea:0.5><hypernet:foo:1>\nNegative prompt: bad <lora:sea:1>\n{PAIRS}, "
    read = imported({"parameters": text + 'Hires upscale: 2, Hires prompt: "big <lora:sea:1>"'})

    assert {field: read.request_fields[field] for field in ("prompt", "negative_prompt", "hires_prompt", "loras")} == {
        "prompt": "a boat",
        "negative_prompt": "bad",
        "hires_prompt": "big",
        "loras": [{"name": "sea", "weight": 0.5}],
    }
    told = {(note.field, note.value): note.outcome for note in read.notes if note.value.startswith("<")}
    assert told == {
        ("prompt", "<hypernet:foo:1>"): Outcome.MISSING,
        ("negative_prompt", "<lora:sea:1>"): Outcome.IGNORED,
        ("hires_prompt", "<lora:sea:1>"): Outcome.IGNORED,
    }


def test_two_names_of_one_file_are_one_lora() -> None:
    text = f'<lora:a:1> <lora:b:0.5>\n{PAIRS}, Lora hashes: "a: 0123456789ab, b: 0123456789ab"'

    read = imported({"parameters": text})

    assert read.request_fields["loras"] == [{"name": "tinte", "weight": 1.0}]
    assert [note.outcome for note in read.notes if note.field == "loras"] == [Outcome.USED, Outcome.IGNORED]


def comfyui(kind: str, **inputs: Any) -> dict[str, str]:
    graph = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x.safetensors"}},
        "2": {"class_type": kind, "inputs": {"model": ["1", 0], "clip": ["1", 1], **inputs}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "a boat", "clip": ["2", 1]}},
        "4": {"class_type": "KSampler", "inputs": {"model": ["2", 0], "positive": ["3", 0], "seed": 1, "steps": 4,
              "cfg": 7, "sampler_name": "euler", "scheduler": "normal"}},
        "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0]}},
    }  # fmt: skip
    return {"prompt": json.dumps(graph)}


INVOKEAI = {"positive_prompt": "a", "steps": 1, "loras": [{"model": {"name": "sea", "hash": "blake3:ab"}, "weight": 2}]}
FOOOCUS = {"base_model": "x", "sampler": "euler", "steps": 1, "loras": [["sea.safetensors", 0.5, "0123456789"]]}
SWARMUI = {"sui_image_params": {"prompt": "a", "loras": ["a/sea", "air"], "loraweights": ["0.5", "1"],
           "loratencweights": ["0.25"]}}  # fmt: skip
POWER = {"on": True, "lora": "sea.safetensors", "strength": 1.5, "strengthTwo": 0.5}


@pytest.mark.parametrize(
    ("texts", "loras"),
    [
        (
            comfyui("LoraLoader", lora_name="sea.safetensors", strength_model=0.8, strength_clip=0.5),
            [{"name": "sea", "weight": 0.8, "text_encoder_weight": 0.5}],
        ),
        (
            comfyui("LoraLoaderModelOnly", lora_name="x\\sea.safetensors", strength_model=0.8),
            [{"name": "sea", "weight": 0.8, "text_encoder_weight": 0.0}],
        ),
        (
            comfyui("Power Lora Loader (rgthree)", lora_1=POWER),
            [{"name": "sea", "weight": 1.5, "text_encoder_weight": 0.5}],
        ),
        ({"invokeai_metadata": json.dumps(INVOKEAI)}, [{"name": "sea", "weight": 2.0}]),
        ({"parameters": json.dumps(FOOOCUS)}, [{"name": "tinte", "weight": 0.5}]),
        (
            {"parameters": json.dumps(SWARMUI)},
            [{"name": "sea", "weight": 0.5, "text_encoder_weight": 0.25}, {"name": "air", "weight": 1.0}],
        ),
    ],
)
def test_other_programs_loras_become_ours(texts: dict[str, str], loras: list[dict[str, Any]]) -> None:
    assert imported(texts).request_fields["loras"] == loras


@pytest.mark.parametrize(
    ("lora", "name", "outcome", "why"),
    [
        (resolved("tinte"), "tinte", Outcome.USED, "as it is"),
        (resolved("ink"), "tinte", Outcome.USED, "found as tinte"),
        (resolved("sea", sha256="f" * 64), "sea", Outcome.APPROXIMATED,
         "sea is another file: its hash is not [ffffffffffff], and the picture will differ"),
        (resolved("gone", sha256="f" * 64), "gone", Outcome.MISSING, "no LoRA 'gone' [ffffffffffff] is installed"),
    ],
)  # fmt: skip
def test_loras_of_our_own_record_go_by_their_hash(lora: ResolvedLora, name: str, outcome: Outcome, why: str) -> None:
    read = imported({"studio": native.write(with_loras(lora))})

    assert [entry["name"] for entry in read.request_fields["loras"]] == [name]
    (note,) = [note for note in read.notes if note.field == "loras"]
    assert (note.outcome, note.why) == (outcome, why)


def test_our_own_record_says_which_models_and_embeddings_are_gone() -> None:
    made = with_loras(
        resolved("ink"), embeddings={"ghost": "e" * 64, "here": "d" * 64, "brought": resolved("ink").sha256}
    )

    read = import_request(
        {"studio": native.write(made)}, find_embedding=lambda name, _: name if name == "here" else None
    )

    assert {(note.field, note.value, note.outcome) for note in read.notes} == {
        ("model", made.request.model, Outcome.MISSING),
        ("loras", "ink:0.8", Outcome.MISSING),
        ("prompt", "ghost [eeeeeeeeeeee]", Outcome.MISSING),
        ("prompt", "here [dddddddddddd]", Outcome.USED),
    }
