"""LoRAs in the form."""

import asyncio
from pathlib import Path

import gradio as gr
import pytest

from pipelines.spec.errors import InvalidRequest
from pipelines.spec.request import GenerationRequest
from studio import Settings, Studio
from studio.ui import markup
from studio.ui.sending import Sender
from studio.ui.tabs import generate
from studio.ui.tabs.generate import GenerateTab
from tests.studio.lora_files import write_lora_file
from tests.studio.ui.test_form import make_form, values


@pytest.fixture(autouse=True)
def loras(settings: Settings) -> Path:
    folder = settings.home / "loras"
    write_lora_file(folder / "sea.safetensors")
    write_lora_file(folder / "ink.safetensors", {"unet.x.lora_A.weight": (4, 8)})
    write_lora_file(folder / "large.safetensors", {"lora_te2_x.lora_down.weight": (4, 8)})
    (folder / "broken.safetensors").write_bytes(b"")
    return folder


def make_sender(studio: Studio) -> tuple[Sender, GenerateTab]:
    async def make() -> tuple[Sender, GenerateTab]:  # inside a running loop, as the server does
        with gr.Blocks(analytics_enabled=False) as page:
            making = generate.build(studio, page)
            return Sender(studio, gr.Tabs(), making), making

    return asyncio.run(make())


def choices(studio: Studio) -> set[str]:
    return {name for name, _ in make_form(studio)["loras"].choices}  # type: ignore[attr-defined]


def test_the_form_offers_what_fits_the_model(studio: Studio, loras: Path) -> None:
    assert {"sea", "ink"} <= choices(studio)
    assert choices(studio).isdisjoint({"large", "broken"})


def test_a_new_file_is_offered_when_the_page_is_opened_again(studio: Studio, loras: Path) -> None:
    form = make_form(studio)
    write_lora_file(loras / "new.safetensors")

    assert "new" in form.lora_choices("toy")["choices"]


def test_a_chosen_name_counts_wholly_and_a_typed_weight_as_typed(studio: Studio) -> None:
    form = make_form(studio)

    request = form.read(values(form, prompt="a boat", loras=["sea", "ink:0.5:0.25:end=0.5"]))

    assert request == GenerationRequest.parse(
        {"prompt": "a boat", "model": "toy", "loras": ["sea", "ink:0.5:0.25:end=0.5"]}
    )


def test_a_written_request_is_read_back_the_same(studio: Studio) -> None:
    form = make_form(studio)
    texts = ["sea:-1.5", "ink:0.5:0.25:start=0.2:end=0.5:block.mid_block=0.5"]
    request = GenerationRequest.parse({"prompt": "a boat", "model": "toy", "seed": 1, "num_images": 2, "loras": texts})

    written = form.write(request)

    assert written[form["loras"]]["value"] == texts
    shown = {name: update["value"] for name in form.widgets if (update := written[form[name]])}
    assert form.read(list(shown.values())) == request


def test_what_cannot_be_read_is_refused_by_the_fields_name(studio: Studio) -> None:
    form = make_form(studio)

    with pytest.raises(InvalidRequest, match="loras names 'sea:much': weight must be a number") as refused:
        form.read(values(form, loras=["sea:much"]))
    assert refused.value.field == "loras"


def test_the_gallery_sends_loras_by_their_hash_and_says_what_changed(studio: Studio, loras: Path) -> None:
    (image,) = studio.generate("a boat", loras=["sea"], seed=1, progress=False)
    sender, making = make_sender(studio)
    path = loras / "sea.safetensors"

    path.rename(loras / "renamed.safetensors")
    renamed = sender.from_gallery(sender.settings, image.id)
    write_lora_file(path, value=1.0)
    (loras / "renamed.safetensors").unlink()
    changed = sender.from_gallery(sender.settings, image.id)

    assert renamed[making.form["loras"]]["value"] == ["renamed:1"]
    assert renamed[making.complaint] == ""
    assert changed[making.form["loras"]]["value"] == ["sea:1"]
    assert "sea is another file: its hash is not" in changed[making.complaint]


def test_a_picture_that_is_read_names_its_loras_as_they_are_typed(studio: Studio) -> None:
    read = markup.imported(studio.read_text("a boat <lora:sea:0.8>\nSteps: 4, Seed: 1, Size: 64x64"))

    assert "<dd>sea:0.8</dd>" in read


def test_the_card_of_what_cannot_be_used_says_why(studio: Studio) -> None:
    card = markup.lora_cards(lora for lora in studio.loras() if lora.name == "broken")

    assert '<span class="reason">' in card
    assert next(lora.problem for lora in studio.loras() if lora.name == "broken") in card


def test_the_gallery_says_what_was_applied(studio: Studio) -> None:
    image = studio.generate("a boat <lora:sea:0.5:0.25>", progress=False)[0]

    assert "<dt>LoRAs</dt><dd>sea:0.5:0.25 (applied 1/1: drawing 1)</dd>" in markup.settings(image)
