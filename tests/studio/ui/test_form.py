"""The form and the request it stands for. Widgets are real; no browser."""

import asyncio
import base64
import io
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from gradio.data_classes import ImageData
from PIL import Image

from pipelines.spec.errors import InvalidRequest
from pipelines.spec.request import GenerationRequest, bounds, field_names
from pipelines.spec.schedulers import SCHEDULERS
from studio import Settings, Studio
from studio.ui.form import LABELS, RequestForm
from studio.ui.masking import mask_input


def make_form(studio: Studio) -> RequestForm:
    async def make() -> RequestForm:  # inside a running loop, as the server does
        with gr.Blocks(analytics_enabled=False):
            return RequestForm(studio)

    return asyncio.run(make())


@pytest.fixture
def form(studio: Studio) -> RequestForm:
    (studio.settings.outputs_dir / "tmp").mkdir()
    return make_form(studio)


def values(form: RequestForm, **given: Any) -> list[Any]:
    """What the page sends: the widgets' first values, some of them changed."""
    return [given.get(name, widget.value) for name, widget in form.widgets.items()]  # type: ignore[attr-defined]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "given.png"
    Image.new("RGB", (64, 48), "teal").save(path)
    return path


def test_every_field_has_a_widget_with_its_own_words(form: RequestForm) -> None:
    assert list(form.widgets) == list(field_names()) == list(LABELS)
    for name, widget in form.widgets.items():
        assert widget.elem_id == name
        if not isinstance(widget, gr.Image):
            assert widget.info.startswith(bounds(name)["description"])  # type: ignore[attr-defined]


def test_untouched_form_asks_for_the_models_defaults(form: RequestForm) -> None:
    assert form.read(values(form, prompt="a boat")) == GenerationRequest(prompt="a boat", model="toy")


def test_empty_widgets_show_what_empty_means(form: RequestForm) -> None:
    shown = {name: form[name].placeholder for name in ("width", "num_inference_steps", "guidance_scale", "strength")}  # type: ignore[attr-defined]

    assert shown == {"width": "128", "num_inference_steps": "4", "guidance_scale": "7", "strength": "0.75"}
    assert form["scheduler"].choices[0] == ("DPM++ 2M (default)", "")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("field", "typed", "meant"),
    [
        ("width", "512", 512),
        ("guidance_scale", "7,5", 7.5),
        ("guidance_scale", " 7 ", 7.0),
        ("seed", str(2**53 + 1), 2**53 + 1),
        ("num_images", "3", 3),
        ("seed", "-1", None),
        ("scheduler", "euler_a", "euler_a"),
        ("output_format", "webp", "webp"),
        ("negative_prompt", "rain", "rain"),
    ],
)
def test_typed_values_are_read_exactly(form: RequestForm, field: str, typed: str, meant: object) -> None:
    assert getattr(form.read(values(form, **{field: typed})), field) == meant


@pytest.mark.parametrize(
    ("field", "typed"),
    [
        ("width", "63"),
        ("width", "512.5"),
        ("height", "tall"),
        ("seed", "-2"),
        ("guidance_scale", "nan"),
        ("seed", "1e3"),
    ],
)
def test_bad_value_is_refused_by_the_fields_name(form: RequestForm, field: str, typed: str) -> None:
    with pytest.raises(InvalidRequest, match=field) as refused:
        form.read(values(form, **{field: typed}))
    assert refused.value.field == field


def test_image_is_stored_as_it_was_given(form: RequestForm, studio: Studio, picture: Path) -> None:
    request = form.read(values(form, init_image=str(picture), strength="0.4"))

    assert request.init_image is not None
    assert studio.inputs.path(request.init_image).read_bytes() == picture.read_bytes()
    assert request.strength == 0.4


def test_strength_without_an_image_is_not_sent(form: RequestForm) -> None:
    assert form.read(values(form, strength="0.4")).strength is None


def test_what_is_no_image_is_refused(form: RequestForm, tmp_path: Path) -> None:
    path = tmp_path / "page.png"
    path.write_text("<html>")

    with pytest.raises(InvalidRequest, match="init_image is not a PNG"):
        form.read(values(form, init_image=str(path)))


def test_written_request_is_read_back_the_same(form: RequestForm, studio: Studio) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), "teal").save(buffer, "JPEG")
    stored = studio.inputs.put(buffer.getvalue())
    request = GenerationRequest(
        prompt="a <b>boat</b>", negative_prompt="rain", model="toy", init_image=stored, mask_image=stored, width=64,
        height=72, num_inference_steps=9, guidance_scale=6.5, strength=0.35, scheduler="euler",
        noise_schedule="exponential", seed=2**60 + 1, num_images=3, output_format="webp",
    )  # fmt: skip

    updates = form.write(request)

    assert form.read([updates[widget]["value"] for widget in form]) == request
    assert updates[form["init_image"]]["value"].endswith(".jpeg")


def test_written_defaults_are_read_back_as_defaults(form: RequestForm) -> None:
    request = GenerationRequest(prompt="a boat", model="toy")

    updates = form.write(request)

    assert form.read([updates[widget]["value"] for widget in form]) == request


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_only_possible_noise_schedules_are_offered(form: RequestForm, scheduler: str) -> None:
    choices = form.hints("toy", scheduler=scheduler)[form["noise_schedule"]]["choices"]

    assert [name for _, name in choices] == ["", *SCHEDULERS[scheduler].noise_schedules]


@pytest.mark.parametrize(("ratio", "size"), [(1, (128, 128)), (3 / 2, (160, 104)), (16 / 9, (168, 96))])
def test_shapes_keep_the_native_area(form: RequestForm, ratio: float, size: tuple[int, int]) -> None:
    assert form.shaped("toy", ratio) == size


def test_form_opens_without_any_model(tmp_path: Path) -> None:
    with Studio(Settings(home=tmp_path, engine="fake", default_model="nowhere")) as studio:
        form = make_form(studio)
        assert form["width"].placeholder == ""  # type: ignore[attr-defined]
        assert form.read(values(form, prompt="a boat")).model is None


@pytest.mark.parametrize(("typed", "meant"), [("7,5", 7.5), ("10,25", 10.25), ("7", 7.0)])
def test_a_decimal_comma_is_a_point(typed: str, meant: float, form: RequestForm) -> None:
    assert form.read(values(form, guidance_scale=typed)).guidance_scale == meant


@pytest.mark.parametrize("typed", ["1,000", "12,000,000", " 1,500 "])
def test_a_comma_between_thousands_is_refused(typed: str, form: RequestForm) -> None:
    with pytest.raises(InvalidRequest, match="guidance_scale"):
        form.read(values(form, guidance_scale=typed))


def write_styles(studio: Studio, text: str) -> None:
    (studio.settings.home / "styles.csv").write_text(f"name,prompt,negative_prompt\n{text}", encoding="utf-8")


def test_the_styles_offered_are_those_of_the_files_at_that_moment(studio: Studio, form: RequestForm) -> None:
    seen = [form.style_choices()["choices"]]
    for text in ('Ink,"ink, {prompt}",\n', "Dark,night,\n"):
        write_styles(studio, text)
        seen.append(form.style_choices()["choices"])
    (studio.settings.home / "styles.csv").write_bytes(b"\xff")

    assert seen == [[], ["Ink"], ["Dark"]]
    assert form.style_choices()["choices"] == []


def test_a_styled_picture_comes_back_as_typed_and_is_not_styled_twice(studio: Studio, form: RequestForm) -> None:
    write_styles(studio, 'Ink,"ink, {prompt}",fog\n')
    (image,) = studio.generate("a boat", styles=["Ink"], seed=1, progress=False)

    def sent_again() -> tuple[GenerationRequest, bytes]:
        updates = form.write(image.request.asked())
        sent = form.read([updates[widget]["value"] for widget in form.widgets.values()])
        return sent, studio.generate(sent, progress=False)[0].image.tobytes()

    as_typed, first = sent_again()
    write_styles(studio, "Other,x,y\n")
    as_ran, second = sent_again()

    assert (as_typed.prompt, as_typed.styles) == ("a boat", ("Ink",))
    assert (as_ran.prompt, as_ran.negative_prompt, as_ran.styles) == ("ink, a boat", "fog", ())
    assert first == second == image.image.tobytes()


def test_what_a_page_kept_of_several_choices_comes_back(form: RequestForm) -> None:
    updates = form.restore({"styles": ["Ink", "Dark"], "loras": ["ink:0.5"]})

    assert updates[form["styles"]]["value"] == ["Ink", "Dark"]
    assert updates[form["loras"]]["value"] == ["ink:0.5"]


def test_a_mask_is_an_upload_or_what_was_painted_and_never_a_file_of_the_servers(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.new("L", (64, 64)).save(secret)
    painted = base64.b64encode(secret.read_bytes()).decode()
    read = mask_input().preprocess

    assert read(None) is None
    assert read(ImageData(path="/uploads/mask.png")) == "/uploads/mask.png"
    assert read(ImageData(url=f"data:image/png;base64,{painted}")) == secret.read_bytes()
    assert read(ImageData(url=str(secret))) != secret.read_bytes()
    assert isinstance(read(ImageData(url="data:,")), bytes)
