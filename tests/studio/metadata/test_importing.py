"""From what a foreign picture says to a request, with a note on each thing that was said."""

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipelines.spec.errors import InvalidRequest, NotFound
from pipelines.spec.request import GenerationRequest, bounds
from pipelines.spec.resolve import check_prompts, resolve
from pipelines.spec.schedulers import NOISE_SCHEDULES, SCHEDULERS
from studio.metadata import FoundLora, Note, Outcome, import_request, native
from studio.metadata.foreign import Format
from studio.metadata.importing import read_foreign
from studio.metadata.meanings import MEANINGS
from studio.store.upscalers import alike
from tests.pipelines.spec.conftest import make_model
from tests.studio.metadata.test_infotext import INPAINT, NEW, VARIATION
from tests.studio.metadata.test_metadata import record


def notes_of(text: str, **finders: object) -> dict[str, Note]:
    imported = import_request({"parameters": text}, **finders)  # type: ignore[arg-type]
    return {note.field: note for note in imported.notes}


def with_pairs(pairs: str) -> str:
    return f"a boat\nSteps: 20, Seed: 1, Size: 512x512, {pairs}"


def installed(name: str, digest: str) -> str | None:
    return {"sd_xl_base_1.0": "base", "": "old"}.get(name) if digest or name else None


def test_what_requests_have_is_used() -> None:
    imported = import_request({"parameters": NEW}, find_model=installed, find_upscaler=lambda name: name)

    assert imported.request_fields == {
        "prompt": "masterpiece, a lighthouse ,\nat night",
        "negative_prompt": "blurry, (dark:1.2)\nlowres",
        "model": "base",
        "width": 832,
        "height": 1216,
        "num_inference_steps": 28,
        "guidance_scale": 6.5,
        "scheduler": "dpmpp_2m",
        "noise_schedule": "karras",
        "seed": 1234567890,
    } | {field: value for field, value in PLANNED.items() if field in GenerationRequest.model_fields}


PLANNED = {
    "noise_source": "cpu",
    "emphasis": "a1111",
    "clip_skip": 2,
    "hires_scale": 1.5,
    "hires_steps": 10,
    "hires_upscaler": "4x-UltraSharp",
    "hires_strength": 0.4,
    "hires_prompt": "a lighthouse, sharp: very",
}

OUTCOMES: list[tuple[str, str, Outcome, str]] = [
    ("Sampler: DDIM CFG++", "scheduler", Outcome.MISSING, "there is no sampler 'DDIM CFG++'; choose one of euler, "),
    ("Sampler: Euler a", "scheduler", Outcome.USED, "as euler_a"),
    ("Sampler: DEIS, Version: f2.0.1", "scheduler", Outcome.APPROXIMATED, "reckoned in another way"),
    ("Sampler: SA Solver, App: SD.Next", "scheduler", Outcome.USED, "as sa_solver"),
    ("Sampler: Euler, Schedule type: Gits", "noise_schedule", Outcome.MISSING, "there is no noise schedule 'Gits'"),
    ("Sampler: DDIM, Schedule type: Karras", "noise_schedule", Outcome.MISSING, "karras does not exist for scheduler"),
    ("Sampler: Euler, Schedule type: Simple", "noise_schedule", Outcome.USED, "as simple"),
    ("Sampler: DPM++ 2M, Schedule type: Automatic, Version: v1.10.1", "noise_schedule", Outcome.USED, "means Karras"),
    (
        "Sampler: Euler, Schedule type: Automatic, Version: v1.10.1",
        "noise_schedule",
        Outcome.USED,
        "Automatic means Uniform",
    ),
    ("Model: gone, Model hash: 0123456789", "model", Outcome.MISSING, "no model 'gone' [0123456789] is installed"),
    ("Model: sd_xl_base_1.0", "model", Outcome.USED, "found as base"),
    ("Model hash: 7460a6fa", "model", Outcome.USED, "found as old"),
    ("RNG: CPU", "noise_source", Outcome.USED, "as cpu"),
    ("RNG: GPU", "noise_source", Outcome.APPROXIMATED, "other noise: a different picture"),
    ("Model: x", "noise_source", Outcome.APPROXIMATED, "other noise: a different picture"),
    ("CFG scale: 0.5", "guidance_scale", Outcome.IGNORED, "guidance_scale must be at least 1"),
    ("CFG scale: nan", "guidance_scale", Outcome.IGNORED, "CFG scale is not a finite number: 'nan'"),
    ("CFG scale: high", "guidance_scale", Outcome.IGNORED, "CFG scale is not a number: 'high'"),
    ("Steps: 1000", "num_inference_steps", Outcome.IGNORED, f"at most {bounds('num_inference_steps')['maximum']}"),
    ("Seed: 99999999999999999999", "seed", Outcome.IGNORED, "seed must be at least 0 and at most"),
    ("Seed: -1", "seed", Outcome.IGNORED, "-1 stands for any seed"),
    ("Seed: -2", "seed", Outcome.IGNORED, "seed must be at least 0"),
    ("Size: 513x512", "width", Outcome.IGNORED, "width must be a multiple of 8, got 513; try 512 or 520"),
    ("Size: 513x512", "height", Outcome.USED, ""),
    ("Denoising strength: 0.6", "strength", Outcome.USED, ""),
    *(
        (
            f"Sampler: {name}, Denoising strength: 0.6",
            "strength",
            Outcome.APPROXIMATED,
            "noises the input for one timestep",
        )
        for name in ("DDIM", "PLMS", "UniPC")
    ),
    ("Denoising strength: 0.6", "init_image", Outcome.MISSING, "not in the file"),
    ("Denoising strength: 0.6, Mask blur: 4", "mask_image", Outcome.MISSING, "not in the file"),
    ("Soft inpainting enabled: True", "mask_mode", Outcome.USED, "as soft"),
    ("Soft inpainting enabled: True, Soft inpainting schedule bias: 1.5", "soft_schedule_bias", Outcome.USED, ""),
    ("Soft inpainting preservation strength: 0.7", "soft_preservation", Outcome.USED, ""),
    ("Soft inpainting transition contrast boost: 8", "soft_contrast_boost", Outcome.USED, ""),
    ("Soft inpainting mask influence: 0.2", "soft_mask_influence", Outcome.USED, ""),
    ("Soft inpainting difference threshold: 9", "soft_difference_threshold", Outcome.IGNORED, "at most 8"),
    ("Soft inpainting difference contrast: 3", "soft_difference_contrast", Outcome.USED, ""),
    ("Mask blur: 4, Outpaint left: 64", "outpaint_left", Outcome.USED, ""),
    ("Mask blur: 4, Outpaint left: 64", "mask_image", Outcome.MISSING, "if it was made with a mask of its own"),
    ("Face restoration: CodeFormer", "Face restoration", Outcome.IGNORED, "there is nothing like it here"),
    ("Lora hashes: ocean: 0123456789ab", "loras", Outcome.MISSING, "no LoRA 'ocean' [0123456789ab] is installed"),
    ("VAE: sdxl_vae, VAE hash: 235745af8d", "VAE", Outcome.IGNORED, "the model's own VAE decodes pictures here: where"),
    ("VAE hash: 235745af8d", "VAE hash", Outcome.IGNORED, "colours and fine details differ"),
    ("VAE: Automatic", "VAE", Outcome.USED, "the model's own VAE decodes pictures here too"),
    ("Parser: a1111, App: SD.Next", "emphasis", Outcome.USED, "that emphasis comfy does here"),
    ("Parser: Full parser, App: SD.Next", "emphasis", Outcome.USED, "that emphasis comfy does here"),
    ("Parser: xhinker, App: SD.Next", "emphasis", Outcome.USED, "that emphasis no_norm does here"),
    ("Parser: odd, App: SD.Next", "emphasis", Outcome.APPROXIMATED, "no parser 'odd' here: the prompt is read"),
    *(
        (f"Hires upscale: 2, Hires upscaler: {label}", "hires_upscaler", Outcome.MISSING, why)
        for label, why in (
            ("R-ESRGAN 4x+", "'R-ESRGAN 4x+' is installed: put RealESRGAN_x4plus.safetensors into upscalers/"),
            ("4x-UltraSharp", "put 4x-UltraSharp.safetensors into upscalers/, which spandrel runs"),
        )
    ),
    ("Hires upscale: 2, Hires upscaler: None", "hires_upscaler", Outcome.USED, "as lanczos"),
    ("Hires upscale: 2, Hires upscaler: Latent", "hires_upscaler", Outcome.USED, "as latent_bilinear"),
    ("Hires upscaler: Latent, Hires steps: 5", "hires_steps", Outcome.IGNORED, "needs a second pass"),
    (
        "Sampler: Euler, Schedule type: Align Your Steps, Schedule max sigma: 10",
        *("sigma_max", Outcome.IGNORED, "means nothing to noise_schedule align_your_steps"),
    ),
    ("Variation seed: 5", "variation_seed", Outcome.IGNORED, "needs variation_strength"),
    ("Sampler: LCM, Steps: 60", "num_inference_steps", Outcome.IGNORED, "must be at most 50 for scheduler lcm"),
    ('Lora hashes: "gone: 0123456789ab"', "loras", Outcome.MISSING, "no LoRA 'gone' [0123456789ab] is installed"),
]


@pytest.mark.parametrize(("pairs", "field", "outcome", "why"), OUTCOMES)
def test_each_thing_that_is_said_gets_its_note(pairs: str, field: str, outcome: Outcome, why: str) -> None:
    text = with_pairs(pairs)

    note = notes_of(text, find_model=installed)[field]
    imported = import_request({"parameters": text}, find_model=installed)

    assert note.outcome is outcome
    assert why in note.why
    assert GenerationRequest.parse(imported.request_fields).prompt == "a boat"
    if field in GenerationRequest.model_fields:
        assert (field in imported.request_fields) is (outcome in {Outcome.USED, Outcome.APPROXIMATED})


@pytest.mark.parametrize(
    ("label", "file", "outcome"),
    [
        ("4x-UltraSharp", "4x-UltraSharp", Outcome.USED),
        ("4x-UltraSharp.pth", "4x-UltraSharp", Outcome.USED),
        ("4x-UltraSharp", "4x_ultrasharp", Outcome.APPROXIMATED),
        ("SwinIR_4x", "SwinIR 4x", Outcome.APPROXIMATED),
        ("DAT x4", "DAT_x4", Outcome.APPROXIMATED),
        ("ESRGAN_4x", "ESRGAN_4x", Outcome.USED),
        ("R-ESRGAN 4x+", "RealESRGAN_x4plus", Outcome.APPROXIMATED),
        ("R-ESRGAN 4x+", "R-ESRGAN 4x+", Outcome.USED),
        ("R-ESRGAN 4x+ Anime6B", "RealESRGAN_x4plus", Outcome.MISSING),
        ("R-ESRGAN 4x+", "RealESRGAN_x4plus_anime_6B", Outcome.MISSING),
        ("4x-UltraSharp", "4x-AnimeSharp", Outcome.MISSING),
    ],
)
def test_a_model_that_enlarges_is_found_by_almost_its_name(label: str, file: str, outcome: Outcome) -> None:
    text = with_pairs(f"Hires upscale: 2, Hires upscaler: {label}")

    imported = import_request({"parameters": text}, find_upscaler=lambda name: alike(name, [file]))

    (note,) = [note for note in imported.notes if note.field == "hires_upscaler"]
    assert note.outcome is outcome
    assert imported.request_fields.get("hires_upscaler") == (None if outcome is Outcome.MISSING else file)


FRAGMENTS = (
    *("Steps: 20", "Steps: 1", "Steps: 150", "Steps: 0", "CFG scale: 7", "CFG scale: 1", "Seed: 1", "Size: 512x768"),
    *(
        "Size: 2048x2048",
        "Sampler: Euler",
        "Sampler: DPM++ 2M Karras",
        "Sampler: DDIM",
        "Sampler: PLMS",
        "Sampler: LCM",
    ),
    *("Sampler: DPM adaptive", "Sampler: DPM fast", "Sampler: LMSD", "Schedule type: Karras", "Sampler sigma: betas"),
    *("Schedule type: Align Your Steps", "Schedule type: Automatic", "Schedule max sigma: 10", "Schedule rho: 5"),
    *("Schedule min sigma: 12", "Denoising strength: 0", "Denoising strength: 0.01", "Denoising strength: 0.6"),
    *("Clip skip: 2", "Clip skip: 12", "Variation seed: 3", "Variation seed strength: 0.2", "Seed resize from: 256x0"),
    *("Hires upscale: 2", "Hires upscale: 1", "Hires upscale: 9", "Hires resize: 256x256", "Hires resize: 0x1024"),
    *("Hires steps: 5", "Hires upscaler: None", "Hires upscaler: 4x_NMKD", "Hires upscaler: Latent", "Mask blur: 4"),
    *("Hires sampler: DPM adaptive", "Hires schedule type: Karras", "Hires CFG Scale: 3", "First pass size: 0x0"),
    *("Hires scale: 2", "Hires size: 256x256", "Hires strength: 0.3", "App: SD.Next", "Version: v1.10.1", "Eta: 0.5"),
    *("Mask mode: Inpaint not masked", "Inpaint area: Only masked", "Mask greys: differential", "Outpaint left: 64"),
    *("Resize mode: latent", "Image upscaler: Lanczos", "Step rule: exact", "Tile size: 64", "Tile overlap: 512"),
    *("Init image hash: 12ab", "Postprocess upscale by: 2", "Soft inpainting enabled: True", "Version: ComfyUI"),
)


def refusal(fields: dict[str, Any]) -> str | None:
    request = GenerationRequest.parse(fields)
    try:
        check_prompts(resolve(request, make_model(), input_size=(640, 480) if request.init_image else None)[0])
    except InvalidRequest as error:
        return str(error)
    return None


@hypothesis_settings(max_examples=400)
@given(
    st.lists(
        st.sampled_from(FRAGMENTS), min_size=3, max_size=14, unique_by=lambda fragment: fragment.partition(":")[0]
    ),
    st.sampled_from(["a boat", "a [boat:car:0.5]", "a (boat", "{a|b}"]),
)
def test_what_an_import_yields_is_not_refused(pairs: list[str], prompt: str) -> None:
    imported = import_request({"parameters": f"{prompt}\n{', '.join(pairs)}"})

    missing = {note.field: note.why for note in imported.notes if note.outcome is Outcome.MISSING}
    images = {field: "0" * 64 for field in ("init_image", "mask_image") if field in missing}
    assert refusal({**imported.request_fields, **images}) in {None, *missing.values()}


@pytest.mark.parametrize(
    ("pairs", "is_asked"),
    [
        ("Denoising strength: 0", False),
        ("Denoising strength: 0, Init image hash: 0123456789", True),
        ("Denoising strength: 0, Postprocess upscale to: 512x512", True),
    ],
)
def test_no_strength_at_all_is_text_to_image(pairs: str, is_asked: bool) -> None:
    imported = import_request({"parameters": with_pairs(pairs)})

    assert ("strength" in imported.request_fields) is is_asked
    assert any(note.field == "init_image" for note in imported.notes) is is_asked


def test_a_row_for_a_field_that_requests_lack_is_told_and_wakes_up_with_the_field() -> None:
    notes = notes_of(f"{VARIATION}, Clip skip: 2")

    for field in (
        "variation_seed",
        "variation_strength",
        "seed_resize_width",
        "eta_noise_seed_delta",
        "clip_skip",
        "eta",
    ):
        if field in GenerationRequest.model_fields:
            assert notes[field].outcome is Outcome.USED
        else:
            assert notes[field] == Note(field, notes[field].value, Outcome.IGNORED, f"requests have no {field} yet")


@pytest.mark.parametrize(
    ("sampler", "said", "used"),
    [
        ("Euler", "Eta: 0.5, Sigma churn: 10", {"s_churn"}),
        ("DPM++ 2M", "Sigma churn: 10, Sigma noise: 1.05", set()),
        ("DDIM", "Eta: 0.5, Sigma noise: 1.05", {"eta"}),
        ("LCM", "Eta: 0.5", set()),
    ],
)
def test_what_the_sampler_ignored_does_not_become_a_request(sampler: str, said: str, used: set[str]) -> None:
    text = f"a boat\nSteps: 20, Sampler: {sampler}, Seed: 1, Size: 512x512, {said}"

    imported = import_request({"parameters": text})

    outcomes = {note.field: note.outcome for note in imported.notes if note.field in {"eta", "s_churn", "s_noise"}}
    assert {field for field, outcome in outcomes.items() if outcome is Outcome.USED} == used
    assert set(outcomes.values()) <= {Outcome.USED, Outcome.IGNORED}
    assert imported.request_fields.keys() & outcomes.keys() == used
    resolve(GenerationRequest.parse(imported.request_fields), make_model())


def test_every_inpainting_key_is_noted() -> None:
    notes = notes_of(INPAINT)

    assert {"strength", "mask_blur_x", "mask_blur_y", "invert_mask", "inpaint_area", "mask_image"} <= notes.keys()
    assert notes["ControlNet 0"].outcome is Outcome.IGNORED


def test_the_strength_of_a_hires_pass_is_not_the_requests() -> None:
    imported = import_request({"parameters": NEW})

    assert "strength" not in imported.request_fields
    assert "init_image" not in {note.field for note in imported.notes}


@pytest.mark.parametrize(
    ("prompt", "left", "said"),
    [
        ("a <lora:ocean:0.8> boat", "a  boat", {"ocean 0.8"}),
        ("a boat<lora:ocean>", "a boat", {"ocean 1"}),
        ("<lora:sea side:-1.5:0.2>a", "a", {"sea side -1.5 0.2"}),
        ("<lora:x:unet=0.3>a <hypernet:h:1>", "a", {"x 1 0.3"}),
        ("a <b:", "a <b:", set()),
    ],
)
def test_lora_tags_leave_the_prompt_and_are_looked_for(prompt: str, left: str, said: set[str]) -> None:
    imported = import_request({"parameters": f"{prompt}\nSteps: 20, Seed: 1, Size: 512x512"})

    missing = {note.value for note in imported.notes if note.field == "loras" and note.outcome is Outcome.MISSING}
    assert imported.request_fields["prompt"] == left
    assert missing == said


def test_a_lora_is_looked_for_by_name_and_hash() -> None:
    asked = []

    def find_lora(name: str, digest: str) -> FoundLora:
        asked.append((name, digest))
        return FoundLora(name, is_exact=True)

    note = notes_of(NEW, find_lora=find_lora)["loras"]

    assert asked == [("ocean", "0123456789ab"), ("second one", "ba9876543210")]
    assert note.outcome is Outcome.USED


@pytest.mark.parametrize(
    ("prompt", "version", "told"),
    [
        ("[a:b:1.5]", "Version: v1.5.2", True),
        ("[a:b:1.5]", "Version: v1.10.1", False),
        ("[a:b:1.5]", "ENSD: 1", True),
        ("[a:b:0.5]", "Version: v1.5.2", False),
        ("[a:b:15]", "Version: v1.5.2", False),
        ("[a:b:1.5]", "Version: f2.0.1", False),
        ("[a:b:1.5]", "App: SD.Next", True),
    ],
)
def test_the_old_rule_of_prompt_editing_is_told(prompt: str, version: str, told: bool) -> None:
    imported = import_request({"parameters": f"{prompt}\nSteps: 20, Seed: 1, Size: 512x512, {version}"})

    prompts = [note.outcome for note in imported.notes if note.field == "prompt"]
    assert prompts == [Outcome.USED, Outcome.APPROXIMATED][: 1 + told]


def test_half_of_a_surrogate_pair_is_not_taken() -> None:
    imported = import_request({"invokeai_metadata": '{"positive_prompt": "\\ud800", "steps": 3}'})

    assert imported.request_fields == {
        "negative_prompt": "",
        "num_inference_steps": 3,
        "noise_source": "cpu",
        "emphasis": "comfy",
    }
    assert imported.notes[0].outcome is Outcome.IGNORED


def test_what_is_told_of_half_of_a_surrogate_pair_can_be_shown() -> None:
    text = with_pairs(r'Model: "a\ud800", Lora hashes: "b\ud801: 0123456789", Odd\ud802: "\ud803"')

    imported = import_request({"parameters": text})

    assert {"a�", "b� 1"} < {note.value for note in imported.notes}
    for note in imported.notes:
        f"{note.field} {note.value} {note.why}".encode()


def test_a_text_of_thousands_of_loras_is_read_in_a_moment() -> None:
    looked_for: list[str] = []

    imported = import_request(
        {"parameters": f"{'<lora:a:1>' * 6000}\nSteps: 20, Seed: 1"},
        find_lora=lambda name, _: looked_for.append(name),
    )

    assert len(looked_for) <= 200
    assert {note.outcome for note in imported.notes if note.field == "loras"} == {Outcome.MISSING}


def test_our_own_record_comes_before_any_text() -> None:
    made = record(prompt="a boat", strength=None)
    texts = {"studio": native.write(made), "parameters": "other\nSteps: 1, Seed: 1, Size: 64x64"}

    imported = import_request(texts, find_model=lambda name, _: name)

    assert (imported.program, imported.notes) == ("Open Weights Studio", ())
    assert GenerationRequest.parse(imported.request_fields) == made.request.asked()


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ({}, "it carries no metadata"),
        ({"Comment": "made with love"}, "there is only Comment"),
        ({"prompt": "a boat"}, "there is only prompt"),
    ],
)
def test_texts_of_no_program_are_told_in_a_sentence(texts: dict[str, str], told: str) -> None:
    with pytest.raises(NotFound, match=f"no settings of a picture can be read here: {told}"):
        import_request(texts)
    assert read_foreign(texts) is None


def test_the_table_names_each_key_of_a_program_for_one_meaning_of_a_field() -> None:
    for format_ in get_args(Format):
        rows = [(row.field, getattr(row, format_)) for row in MEANINGS if getattr(row, format_)]
        assert len(rows) == len(set(rows))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("noise_schedule", NOISE_SCHEDULES)
def test_every_sampler_and_schedule_of_ours_is_found_by_a1111s_labels(scheduler: str, noise_schedule: str) -> None:
    if noise_schedule in SCHEDULERS[scheduler].noise_schedules:
        labels = f"Sampler: {SCHEDULERS[scheduler].label}, Schedule type: {NOISE_SCHEDULES[noise_schedule]}"
        fields = import_request({"parameters": f"{with_pairs(labels)}, Version: Open Weights Studio 1"}).request_fields
        assert (fields["scheduler"], fields["noise_schedule"]) == (scheduler, noise_schedule)
