"""Weights in other programs' prompts, and the same weights in our syntax."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.spec.prompt import BREAK, parse, schedule, weigh
from studio.metadata import Outcome, import_request, weights
from studio.metadata.foreign import Foreign, Format


def texts_of(format_: Format, prompt: str) -> dict[str, str]:
    match format_:
        case "novelai":
            return {"Software": "NovelAI", "Comment": json.dumps({"prompt": prompt})}
        case "invokeai":
            return {"invokeai_metadata": json.dumps({"positive_prompt": prompt})}
        case "fooocus":
            data: dict[str, Any] = {"full_prompt": prompt.split("|"), "base_model": "x", "sampler": "euler", "steps": 9}
            return {"parameters": json.dumps(data)}
        case "swarmui":
            return {"parameters": json.dumps({"sui_image_params": {"prompt": prompt}})}
    graph = {
        "1": {"class_type": "CLIPTextEncode", "inputs": {"text": prompt}},
        "2": {"class_type": "KSampler", "inputs": {"steps": 9, "positive": ["1", 0]}},
    }
    return {"prompt": json.dumps(graph)}


def runs_of(text: str, *, comments: bool) -> list[tuple[str, float]]:
    """What our own grammar makes of a prompt that is neither composed nor scheduled."""
    (branch,) = parse(text, comments=comments).branches
    assert branch.weight == 1
    (scheduled,) = schedule(branch.text, num_inference_steps=10)
    return [("BREAK", 0) if run is BREAK else (run.text, round(run.weight, 4)) for run in weigh(scheduled.text)]  # type: ignore[union-attr]


CASES: list[tuple[Format, str, list[tuple[str, float]]]] = [
    ("comfyui", "a (cat:1.2), (dog)", [("a ", 1), ("cat", 1.2), (", ", 1), ("dog", 1.1)]),
    ("comfyui", "((a) b:1.3)", [("a", 1.43), (" b", 1.3)]),
    ("comfyui", "((a:1.2) b:1.3)", [("a", 1.2), (" b", 1.3)]),
    ("comfyui", r"[a|b] \(x\) {c} 16:9", [("[a|b] (x) {c} 16:9", 1)]),
    ("comfyui", "(open and BREAK AND # <lora:a:1>", [("(open and break AND # <lora:a:1>", 1)]),
    ("comfyui", "(:1.2) (a:b)", [(":1.2", 1.1), (" ", 1), ("a:b", 1.1)]),
    ("comfyui", "a, (embedding:sub/bad-hands.pt:1.2)", [("a, ", 1), ("bad-hands", 1.2)]),
    ("swarmui", "(cat:0.5) [dog]", [("cat", 0.5), (" [dog]", 1)]),
    ("fooocus", "a (cat:1.2)|b [c]", [("a ", 1), ("cat", 1.2), ("BREAK", 0), ("b [c]", 1)]),
    ("novelai", "{masterpiece}, [[bad]] (x)", [("masterpiece", 1.05), (", ", 1), ("bad", 0.907), (" (x)", 1)]),
    ("novelai", "1.5::rain, night ::, -1::hat:: 12:30", [("rain, night ", 1.5), (", ", 1), ("hat", -1), (" 12:30", 1)]),
    ("novelai", "{{open", [("open", 1.1025)]),
    ("novelai", "stray} ]", [("stray} ]", 1)]),
    ("invokeai", "(cat)1.2 sitting++, on-line", [("cat", 1.2), (" ", 1), ("sitting", 1.21), (", on-line", 1)]),
    ("invokeai", '"a cat"- (b (c)+)- [d]', [("a cat", 0.9), (" ", 1), ("b ", 0.9), ("c", 0.99), (" [d]", 1)]),
    ("invokeai", r"(plain) \(x\) a)", [(r"plain (x) a)", 1)]),
]


@pytest.mark.parametrize(("format_", "prompt", "runs"), CASES)
def test_weights_of_other_programs_act_here(format_: Format, prompt: str, runs: list[tuple[str, float]]) -> None:
    fields = import_request(texts_of(format_, prompt)).request_fields

    assert runs_of(fields["prompt"], comments=fields.get("prompt_comments", True)) == runs


@pytest.mark.parametrize(
    ("format_", "prompt", "outcome", "why"),
    [
        ("comfyui", "a boat", Outcome.USED, "as it is"),
        ("comfyui", "a (boat:1.3)", Outcome.USED, "as it is"),
        ("comfyui", "a [boat]", Outcome.USED, "as they are here"),
        ("novelai", "a boat", Outcome.USED, "as it is"),
        ("novelai", "{a boat}", Outcome.APPROXIMATED, "not published"),
        ("novelai", "a boat|a car", Outcome.APPROXIMATED, "mixes"),
        ("invokeai", "boat++", Outcome.USED, "as they are here"),
        ("invokeai", "boat--", Outcome.APPROXIMATED, "below 1 in another way"),
        ("invokeai", '("a boat", "a car").blend(1, 1)', Outcome.APPROXIMATED, "no .and()"),
        ("comfyui", "a boat, " * 25, Outcome.USED, "as it is"),
        ("comfyui", "a boat, " * 26, Outcome.APPROXIMATED, "ComfyUI cuts long prompts every 75 tokens"),
        ("comfyui", "a boat " * 50, Outcome.USED, "as it is"),
        ("swarmui", "(a boat:1.2), " * 26, Outcome.APPROXIMATED, "ComfyUI cuts long prompts every 75 tokens"),
        ("fooocus", "a boat", Outcome.USED, "as it is"),
        ("fooocus", "a (boat:1.2)", Outcome.APPROXIMATED, "keeps the mean"),
        ("fooocus", "a boat|a car", Outcome.APPROXIMATED, "joined by BREAK"),
    ],
)
def test_what_becomes_of_weights_is_told(format_: Format, prompt: str, outcome: Outcome, why: str) -> None:
    (note,) = [note for note in import_request(texts_of(format_, prompt)).notes if note.field == "prompt"]

    assert note.outcome is outcome
    assert why in note.why


@pytest.mark.parametrize(
    ("parser", "prompt", "ours", "outcome"),
    [
        ("", "a (boat:1.3)", "a (boat:1.3)", Outcome.USED),
        ("", "a (boat:0.8)", "a (boat:0.8)", Outcome.APPROXIMATED),
        ("", "a [boat:car:0.5]", "a [boat:car:0.5]", Outcome.USED),
        ("", "a [boat]", "a [boat]", Outcome.APPROXIMATED),
        (", Parser: Full parser", "a boat++", "a boat++", Outcome.USED),
        (", Parser: A1111 parser", "a (boat:0.8)", "a (boat:0.8)", Outcome.APPROXIMATED),
        (", Parser: xhinker", "a (boat:0.8)", "a (boat:0.8)", Outcome.USED),
        (", Parser: compel", "a boat++", "a (boat:1.21)", Outcome.USED),
        (", Parser: Compel parser", "a boat-", "a (boat:0.9)", Outcome.APPROXIMATED),
        (", Parser: Fixed attention", "a (boat:1.3)", r"a \(boat:1.3\)", Outcome.USED),
        (", Backend: Original, Parser: compel", "a (boat:0.8)", "a (boat:0.8)", Outcome.USED),
    ],
)
def test_parsers_of_sdnext(parser: str, prompt: str, ours: str, outcome: Outcome) -> None:
    imported = import_request({"parameters": f"{prompt}\nSteps: 9, Seed: 1, App: SD.Next{parser}"})

    (note,) = [note for note in imported.notes if note.field == "prompt"]
    assert (imported.request_fields["prompt"], note.outcome) == (ours, outcome)


@pytest.mark.parametrize(("installed", "outcome"), [({"easyneg"}, Outcome.USED), (set(), Outcome.MISSING)])
def test_embeddings_of_comfyui_are_looked_for(installed: set[str], outcome: Outcome) -> None:
    texts = texts_of("comfyui", "a boat, embedding:easyneg")

    imported = import_request(texts, find_embedding=lambda name, _: name if name in installed else None)

    assert imported.request_fields["prompt"] == "a boat, easyneg"
    assert [note.outcome for note in imported.notes if note.field == "prompt"] == [Outcome.USED, outcome]


@given(st.text(alphabet='ab(){}[]\\:|.+-"12 <>\n#'), st.sampled_from(["comfyui", "novelai", "invokeai"]))
def test_any_prompt_keeps_its_words(prompt: str, format_: Format) -> None:
    ours = weights.reading(prompt, Foreign(format_, "", prompt, "", {})).value

    assert [sign for sign in ours if sign in "ab"] == [sign for sign in prompt if sign in "ab"]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("piece", ["(", ")", "{", "::", '"', "+", "a+", "a-+", "\\", "<a:", ":1", "(a:1.2", "1"])
def test_a_hostile_prompt_is_read_quickly(piece: str) -> None:
    for format_ in ("comfyui", "novelai", "invokeai"):
        weights.reading(piece * 20_000, Foreign(format_, "", "", "", {}))  # type: ignore[arg-type]
    weights.reading(piece * 20_000, Foreign("a1111", "SD.Next", "", "", {"Parser": "native"}))
