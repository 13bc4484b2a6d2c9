"""A1111's infotext of many programs and years, read; and what our own writer wrote, read back."""

import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipelines.spec.errors import InvalidRequest
from pipelines.spec.loras import LoraSpec, ResolvedLora
from pipelines.spec.request import GenerationRequest, bounds, field_names
from pipelines.spec.resolve import resolve
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.templates import TEMPLATES, is_template
from pipelines.spec.values import Task
from studio.metadata import FoundLora, Outcome, Record, a1111, a1111_writing, import_request
from tests.pipelines.spec.conftest import make_model
from tests.pipelines.spec.test_request import REQUESTS

NEW = (
    "masterpiece, a lighthouse <lora:ocean:0.8>,\nat night\nNegative prompt: blurry, (dark:1.2)\nlowres\n"
    "Steps: 28, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 1234567890, Size: 832x1216, "
    "Model hash: 31e35c80fc, Model: sd_xl_base_1.0, VAE hash: 235745af8d, VAE: sdxl_vae.safetensors, "
    "Denoising strength: 0.4, Clip skip: 2, RNG: CPU, Hires upscale: 1.5, Hires steps: 10, "
    'Hires upscaler: 4x-UltraSharp, Hires prompt: "a lighthouse, sharp: very", '
    'Lora hashes: "ocean: 0123456789ab, second one: ba9876543210", TI hashes: "easynegative: c74b4e810b03", '
    'Hashes: {"model":"31e35c80fc","lora:ocean":"0123456789"}, Version: v1.10.1'
)
INPAINT = (
    "a hat\nSteps: 20, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7, Seed: 5, Size: 512x512, "
    "Model hash: 6ce0161689, Model: v1-5-pruned-emaonly, Denoising strength: 0.75, Mask blur: 4, "
    'Mask mode: Inpaint not masked, Inpaint area: Only masked, ControlNet 0: "Module: canny, Model: control_canny '
    '[d14c016b], Weight: 1", Version: v1.7.0'
)
VARIATION = (
    "fox\nSteps: 12, Sampler: DDIM, CFG scale: 7, Seed: 9, Size: 512x512, Variation seed: 77, "
    "Variation seed strength: 0.25, Seed resize from: 256x384, ENSD: 31337, Eta: 0.67"
)
FORGE = (
    "a cat\nSteps: 20, Sampler: Euler, Schedule type: Simple, CFG scale: 1, Distilled CFG Scale: 3.5, Seed: 3, "
    "Size: 896x1152, Model hash: c161224931, Model: flux1-dev-bnb-nf4-v2, "
    "Version: f2.0.1v1.10.1-previous-659-gc055f2d4, Diffusion in Low Bits: Automatic (fp16 LoRA), Module 1: ae"
)
SDNEXT = (
    "a dog\nNegative prompt: ugly\nSteps: 20, Size: 1024x1024, Sampler: DPM++ 2M, CFG scale: 6, Seed: 4, "
    "App: SD.Next, Version: a5b77b8, Pipeline: StableDiffusionXLPipeline, Operations: txt2img, "
    "Model: juggernautXL, Model hash: aeb7e9e689, Parser: Full parser"
)

CASES: list[tuple[str, str, str, str, dict[str, str]]] = [
    (
        NEW,
        "A1111",
        "masterpiece, a lighthouse <lora:ocean:0.8>,\nat night",
        "blurry, (dark:1.2)\nlowres",
        {
            "Sampler": "DPM++ 2M",
            "Size-1": "832",
            "Size-2": "1216",
            "Hires prompt": "a lighthouse, sharp: very",
            "Lora hashes": "ocean: 0123456789ab, second one: ba9876543210",
            "TI hashes": "easynegative: c74b4e810b03",
            "Hashes": '{"model":"31e35c80fc","lora:ocean":"0123456789"}',
            "Version": "v1.10.1",
        },
    ),
    (INPAINT, "A1111", "a hat", "", {"Mask mode": "Inpaint not masked", "Inpaint area": "Only masked"}),
    (VARIATION, "A1111", "fox", "", {"Seed resize from-1": "256", "Seed resize from-2": "384", "ENSD": "31337"}),
    (FORGE, "Forge", "a cat", "", {"Distilled CFG Scale": "3.5", "Diffusion in Low Bits": "Automatic (fp16 LoRA)"}),
    (SDNEXT, "SD.Next", "a dog", "ugly", {"Steps": "20", "Size-1": "1024", "Parser": "Full parser"}),
    (  # before 1.9 the schedule ended the sampler's name; the hash had 8 digits
        "old\nSteps: 20, Sampler: DPM++ 2M SDE Karras, CFG scale: 7, Seed: 1, Size: 512x512, Model hash: 7460a6fa",
        "A1111",
        "old",
        "",
        {"Sampler": "DPM++ 2M SDE", "Schedule type": "Karras", "Model hash": "7460a6fa"},
    ),
    (  # before 1.0 Size was the final size
        "old\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 1024x768, Denoising strength: 0.7, "
        "First pass size: 0x0",
        "A1111",
        "old",
        "",
        {"Size-1": "640", "Size-2": "448", "Hires resize-1": "1024", "Hires resize-2": "768"},
    ),
    (
        "old\nSteps: 20, Sampler: Euler a, Seed: 1, Size: 1024x768, First pass size: 512x384",
        "A1111",
        "old",
        "",
        {"Size-1": "512", "Size-2": "384", "Hires resize-1": "1024", "Hires resize-2": "768"},
    ),
    ("Steps: 5, Seed: 1, Size: 64x64", "A1111", "", "", {"Steps": "5", "Seed": "1"}),
    ("Negative prompt: no\nSteps: 5, Seed: 1, Size: 64x64", "A1111", "", "no", {"Steps": "5"}),
    ("time: noon, place: sea", "A1111", "time: noon, place: sea", "", {}),  # two pairs are prose
    ("a, b\nNegative prompt: c", "A1111", "a, b", "c", {}),
    ("a\r\nNegative prompt: c\r\nSteps: 5, Seed: 1, Size: 64x64\r\n", "A1111", "a", "c", {"Size-2": "64"}),
    ('x\nSteps: 5, Seed: 1, Model: "a\\"b, c", Size: 8x8', "A1111", "x", "", {"Model": 'a"b, c', "Size-1": "8"}),
    ('x\nSteps: 5, Seed: 1, Model: "bad \\q, json"', "A1111", "x", "", {"Model": '"bad \\q, json"'}),
    ("x\nSteps: 5, Seed: 1, Size: 8x8, Hashes: {broken", "A1111", "x", "", {"Hashes": "{broken"}),
    ("x\nSteps: 5, Seed: 1, CFG scale: 2, Version: Fooocus v2.5.0", "Fooocus", "x", "", {"CFG scale": "2"}),
]


@pytest.mark.parametrize(("text", "program", "prompt", "negative_prompt", "pairs"), CASES)
def test_infotexts(text: str, program: str, prompt: str, negative_prompt: str, pairs: dict[str, str]) -> None:
    foreign = a1111.read({"parameters": text})

    assert foreign is not None
    assert (foreign.program, foreign.prompt, foreign.negative_prompt) == (program, prompt, negative_prompt)
    assert foreign.pairs.items() >= pairs.items()
    assert bool(foreign.pairs) == bool(pairs)


@pytest.mark.parametrize(
    ("below", "template", "negative"),
    [
        ("\nTemplate: a __colour__ fox", "a __colour__ fox", None),
        (
            "\nTemplate: a {red|blue} fox,\nin the snow\nNegative Template: {fog|rain}",
            "a {red|blue} fox,\nin the snow",
            "{fog|rain}",
        ),
        ("\nNegative Template: {fog|rain}", None, "{fog|rain}"),
    ],
)
def test_templates_below_the_settings_as_dynamic_prompts_writes_them(
    below: str, template: str | None, negative: str | None
) -> None:
    found = a1111.read({"parameters": VARIATION + below})

    assert found is not None
    assert (found.prompt, found.pairs["Steps"]) == ("fox", "12")
    assert (found.pairs.get("Template"), found.pairs.get("Negative template")) == (template, negative)
    fields = import_request({"parameters": VARIATION + below}).request_fields
    assert (fields.get("prompt"), fields.get("template"), fields.get("negative_template")) == (
        "fox",
        template,
        negative,
    )


def test_a_prompt_may_have_a_line_that_begins_with_template() -> None:
    found = a1111.read({"parameters": f"a poster\nTemplate: of a {VARIATION}"})

    assert found is not None
    assert found.prompt == "a poster\nTemplate: of a fox"


def test_pairs_keep_their_order() -> None:
    foreign = a1111.read({"parameters": FORGE})

    assert foreign is not None
    assert list(foreign.pairs)[:5] == ["Steps", "Sampler", "Schedule type", "CFG scale", "Distilled CFG Scale"]


@pytest.mark.parametrize(
    ("text", "key", "default"),
    [
        (FORGE, "RNG", "GPU"),
        (FORGE, "Clip skip", ""),
        (SDNEXT, "Schedule type", "Automatic"),
        (NEW, "Hires sampler", "Use same sampler"),
        (NEW, "Hires checkpoint", "Use same checkpoint"),
        (NEW, "Hires resize-1", "0"),
        (INPAINT, "Masked content", "original"),
        (INPAINT, "Masked area padding", "32"),
        (FORGE, "Hires sampler", ""),
        (FORGE, "Mask mode", ""),
    ],
)
def test_absent_keys_mean_what_a1111_means_by_them(text: str, key: str, default: str) -> None:
    foreign = a1111.read({"parameters": text})

    assert foreign is not None
    assert key not in foreign.pairs
    assert foreign.get(key) == default


def test_hashes_by_name() -> None:
    foreign = a1111.read({"parameters": NEW})

    assert foreign is not None
    assert a1111.hashes(foreign.pairs, "Lora hashes") == {"ocean": "0123456789ab", "second one": "ba9876543210"}
    assert a1111.hashes(foreign.pairs, "Hashes") == {"model": "31e35c80fc", "lora:ocean": "0123456789"}


SOFT_FIELDS = tuple(name for name in field_names() if name.startswith("soft_"))
MASK_FIELDS = (
    *("invert_mask", "mask_blur_x", "mask_blur_y", "masked_content", "inpaint_area", "mask_padding", "mask_mode"),
    *SOFT_FIELDS,
)
LINE = st.text(st.characters(codec="utf-8", exclude_characters="\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\0<>"))


def _notes(resolved: ResolvedRequest) -> dict[str, str | None]:
    """Return the templates that tell more than their text, and a note on each text that looks like one."""
    notes: dict[str, str | None] = {}
    for field, note in TEMPLATES.items():
        text, template = getattr(resolved, field), getattr(resolved, note)
        stands = text.strip() if text and is_template(text) else None
        notes[note] = template if template and template != text else stands
    return notes


def _resolved(loras: tuple[LoraSpec, ...]) -> tuple[ResolvedLora, ...]:
    """Return LoRAs as they are applied, all of them from one file."""
    both = [(lora, lora.weight if lora.text_encoder_weight is None else lora.text_encoder_weight) for lora in loras]
    return tuple(
        ResolvedLora(**{**lora.model_dump(), "text_encoder_weight": weight}, sha256="0" * 64) for lora, weight in both
    )


@hypothesis_settings(max_examples=100)
@given(request=REQUESTS, prompt=LINE, negative_prompt=LINE)
def test_what_we_write_reads_back_as_the_same_fields(
    request: GenerationRequest, prompt: str, negative_prompt: str
) -> None:
    asked = request.model_copy(
        update={"prompt": f"a{prompt}", "negative_prompt": f"b{negative_prompt}", "seed": 1, "num_images": 1}
    )
    hires_model = make_model(name=asked.hires_model) if asked.hires_model else None
    input_size = (640, 480) if asked.init_image else None
    try:
        (resolved,) = resolve(asked, make_model(), input_size=input_size, hires_model=hires_model)
    except InvalidRequest:  # few: where a field that is not given inherits what is refused
        assume(False)
    made = resolved.model_copy(update={"loras": _resolved(asked.loras)})
    text = a1111_writing.write(Record("0123456789abcdef", 0, 1.0, made, {}))

    imported = import_request(
        {"parameters": text},
        find_model=lambda name, _: name,
        find_lora=lambda name, _: FoundLora(name, True),
        find_upscaler=lambda name: name,
    )

    images = {"init_image": resolved.init_image, "mask_image": resolved.mask_image}
    again = GenerationRequest.parse({**imported.request_fields, **images, "output_format": resolved.output_format})
    stripped = {"prompt": resolved.prompt.strip(), "negative_prompt": resolved.negative_prompt.strip()}
    stripped |= {"styles": (), **_notes(resolved)}
    unused = {name: bounds(name)["default"] for name in MASK_FIELDS} if resolved.task is not Task.INPAINT else {}
    if resolved.mask_mode != "soft":
        unused |= {name: bounds(name)["default"] for name in SOFT_FIELDS}
    if resolved.inpaint_area != "only_masked":
        unused["mask_padding"] = 32
    if ", ENSD: " not in text.rpartition("\n")[2]:
        unused["eta_noise_seed_delta"] = 0
    assert imported.program == "Open Weights Studio"
    assert _resolved(again.loras) == made.loras
    expected = resolved.model_copy(update={**stripped, **unused})
    assert resolve(again, make_model(), input_size=(640, 480), hires_model=hires_model) == (expected,)


@hypothesis_settings(max_examples=300)
@given(
    st.text()
    | st.lists(
        st.sampled_from(
            ["Steps", "Size", "Seed", "Sampler", "Schedule type", "Negative prompt", "Hashes", "Hires checkpoint",
             "First pass size", "Denoising strength", "Clip skip", "Mask blur", "Eta", ": ", ", ", "\n", '"', "\\", "{",
             "}", "0x0", "9" * 50, "1e999", "nan", "-1", "7", "DPM++ 2M Karras", "<lora:a:1>", "<lora:b:x:>", "ü"]
        )
    ).map("".join)
)  # fmt: skip
def test_any_text_is_read_without_an_error(text: str) -> None:
    imported = import_request({"parameters": text, "prompt": text}) if text.strip() else None

    assert imported is None or GenerationRequest.parse(imported.request_fields)


@pytest.mark.parametrize(
    "piece", [" ", "a", "a:", 'a: "', '\\"', "a: \\", ", ", "[", "<lora:", "Hashes: {", '"a": ', "\n", "9", "0x"]
)
@pytest.mark.timeout(20)
def test_long_nonsense_is_read_quickly(piece: str) -> None:
    for text in (f"x{piece * 100_000}", f"x\nSteps: 1, Seed: 2, Size: 8x8, {piece * 100_000}"):
        import_request({"parameters": text})


SDNEXT_HIRES = (
    "a dog\nSteps: 20, Size: 128x128, Sampler: {sampler}, Seed: 4, CFG scale: 6, App: SD.Next, "
    "Operations: txt2img; hires, Refine: True, {hires}"
)
PAINTED = "Hires steps: 5, Hires strength: 0.3, Hires sampler: Default, Hires CFG scale: 4, Hires upscaler: Lanczos"


@pytest.mark.parametrize(
    ("hires", "fields"),
    [
        (f"Hires scale: 2, Hires size: 256x256, {PAINTED}", {"hires_scale": 2.0}),
        (f"Hires fixed: 192x256, Hires size: 192x256, {PAINTED}", {"hires_width": 192, "hires_height": 256}),
        (f"Hires size: 192x256, {PAINTED}", {"hires_width": 192, "hires_height": 256}),
        (f"Hires scale: 2, Hires force: True, {PAINTED}", {"hires_scale": 2.0}),
    ],
)
def test_the_second_pass_of_sdnext(hires: str, fields: dict[str, int]) -> None:
    text = SDNEXT_HIRES.format(sampler="Euler", hires=hires)

    imported = import_request({"parameters": text})

    second = {name: value for name, value in imported.request_fields.items() if name.startswith("hires_")}
    others = {"hires_steps": 5, "hires_strength": 0.3, "hires_guidance_scale": 4.0, "hires_upscaler": "lanczos"}
    assert second == {**fields, **others}
    assert not [note for note in imported.notes if note.outcome is Outcome.IGNORED and note.field != "VAE"]
    resolve(GenerationRequest.parse(imported.request_fields), make_model())


def test_what_sdnext_only_enlarged_is_not_painted_again() -> None:
    hires = "Hires upscaler: RealESRGAN 4x, Hires scale: 2, Hires size: 256x256"

    imported = import_request({"parameters": SDNEXT_HIRES.format(sampler="Euler", hires=hires)})

    assert not [name for name in imported.request_fields if name.startswith("hires_")]
    told = {note.field: note.value for note in imported.notes if "studio upscale" in note.why}
    assert told == {"Postprocess upscale by": "2", "Postprocess upscaler": "RealESRGAN 4x"}


@pytest.mark.parametrize(
    ("sampler", "scheduler", "outcome"),
    [
        ("Euler", "euler", Outcome.USED),
        ("Heun", "heun", Outcome.USED),
        ("LMSD", "lms", Outcome.USED),
        ("DPM++ 2M", "dpmpp_2m", Outcome.USED),
        ("UniPC", "unipc", Outcome.APPROXIMATED),
        ("DDIM", "ddim", Outcome.APPROXIMATED),
        ("KDPM2", "dpm2", Outcome.APPROXIMATED),
        ("DPM SDE", "dpmpp_sde", Outcome.APPROXIMATED),
        ("DPM++ SDE", None, Outcome.MISSING),
        ("PNDM", None, Outcome.MISSING),
        ("Euler FlowMatch", None, Outcome.MISSING),
    ],
)
@pytest.mark.parametrize("mark", ["App: SD.Next", "Backend: Diffusers", "Pipeline: StableDiffusionPipeline"])
def test_samplers_of_sdnext(sampler: str, scheduler: str | None, outcome: Outcome, mark: str) -> None:
    imported = import_request({"parameters": f"a dog\nSteps: 20, Size: 128x128, Sampler: {sampler}, Seed: 4, {mark}"})

    (note,) = [note for note in imported.notes if note.field == "scheduler"]
    assert imported.request_fields.get("scheduler") == scheduler
    assert note.outcome is outcome
