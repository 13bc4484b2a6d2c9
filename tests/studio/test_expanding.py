"""Styles and templates of a request: what runs, what is kept of what was typed, and the same picture again."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipelines.spec.errors import InvalidRequest
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import resolve
from pipelines.spec.templates import TEMPLATES
from studio import Studio
from studio.expanding import write_out
from studio.metadata import Outcome, a1111_keys, import_request, read_texts
from studio.prompts import Templates
from studio.styles import Style, Styles
from tests.pipelines.spec.conftest import make_model

CSV = """name,prompt,negative_prompt
Ink,"ink, {prompt}, on {rough|smooth} paper","colour, {photo|film}"
Dark,"night, fog",
"""
PAPERS = ("rough", "smooth")
HIRES = {"hires_scale": 2.0, "hires_prompt": "a {red|blue} boat, sharp", "hires_negative_prompt": "{rain|hail}"}


@pytest.fixture
def styled(studio: Studio) -> Studio:
    write_styles(studio, CSV)
    return studio


def write_styles(studio: Studio, text: str) -> None:
    (studio.settings.home / "styles.csv").write_text(text, encoding="utf-8")


def make(studio: Studio, **fields: Any) -> Any:
    (image,) = studio.generate({"prompt": "a {red|blue} boat", "seed": 3, **fields}, progress=False)
    return image


def test_styles_come_before_templates_and_what_was_typed_stays(styled: Studio) -> None:
    request = make(styled, styles=["Dark", "Ink"], negative_prompt="{a|a}").request

    assert request.prompt in {f"ink, a {c} boat, night, fog, on {p} paper" for c in ("red", "blue") for p in PAPERS}
    assert request.negative_prompt in {"a, colour, photo", "a, colour, film"}
    assert (request.styles, request.template, request.negative_template) == (
        ("Dark", "Ink"),
        "a {red|blue} boat",
        "{a|a}",
    )


@pytest.mark.parametrize("fields", [{}, HIRES, {"prompt": ""}, {"prompt": "", "styles": ["Dark"]}])
def test_a_styled_picture_again_is_the_same_and_styled_once(styled: Studio, fields: dict[str, Any]) -> None:
    image = make(styled, **{"styles": ["Ink", "Dark"], **fields})
    write_styles(styled, "name,prompt,negative_prompt\nOther,x,y\n")

    again = make(styled, **image.request.asked().model_dump())

    assert again.request == image.request
    assert again.image.tobytes() == image.image.tobytes()
    assert styled.verify(image.path, progress=False).is_exact


def test_an_older_records_braces_stand_as_they_ran(studio: Studio) -> None:
    """A record without templates of its negative prompts is of a time, or a machine, that did not expand them."""
    request = make(studio, prompt="a boat", negative_prompt="b").request
    then = request.model_copy(update={"negative_prompt": "{fog|rain}"})

    assert make(studio, **then.asked().model_dump()).request.negative_prompt == "{fog|rain}"


def test_all_texts_are_expanded_and_what_begins_alike_draws_alike(studio: Studio) -> None:
    pictures = list(
        studio.generate("a {red|blue} boat", seed=1, num_images=8, **HIRES, negative_prompt="{x|y}", progress=False)
    )

    requests = [picture.request for picture in pictures]
    assert {one.hires_prompt for one in requests} == {"a red boat, sharp", "a blue boat, sharp"}
    assert all(one.hires_prompt == f"{one.prompt}, sharp" for one in requests)
    assert {one.negative_prompt for one in requests} == {"x", "y"}
    assert {one.hires_negative_prompt for one in requests} == {"rain", "hail"}
    assert {one.hires_template for one in requests} == {HIRES["hires_prompt"]}
    assert {one.hires_negative_template for one in requests} == {HIRES["hires_negative_prompt"]}


def test_a_variable_of_the_prompt_has_its_value_in_the_other_texts(studio: Studio) -> None:
    texts = {"hires_prompt": "sharp, ${c}", "negative_prompt": "no {x|y|z} ${c}", "hires_scale": 2.0}
    prompt = "${c=!{red|green|blue}}a ${c} boat"

    pictures = list(studio.generate(prompt, seed=1, num_images=12, **texts, progress=False))

    colours = [picture.request.prompt.split()[1] for picture in pictures]
    assert set(colours) == {"red", "green", "blue"}
    assert [picture.request.hires_prompt for picture in pictures] == [f"sharp, {colour}" for colour in colours]
    assert [picture.request.negative_prompt.split()[2] for picture in pictures] == colours


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        (
            {"styles": ["Inc"]},
            "styles",
            r"names 'Inc', which is unknown; did you mean Ink\? `studio styles` lists all of .*styles\*\.csv",
        ),
        ({"styles": ["Ink", "Ink"]}, "styles", "names 'Ink' twice"),
        (
            {"styles": ["Ink"], "negative_prompt": "x" * 7995},
            "negative_prompt",
            "with styles Ink, and 8000 is the most",
        ),
        ({"negative_prompt": "__nothing__"}, "negative_prompt", "names the wildcard __nothing__, which is unknown"),
        ({**HIRES, "hires_prompt": "${v}"}, "hires_prompt", "variable v is not defined"),
    ],
)
def test_what_cannot_be_written_out_is_refused_by_name(
    styled: Studio, fields: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words) as refused:
        make(styled, **fields)

    assert refused.value.field == field
    assert styled.jobs() == []


def test_without_a_file_the_refusal_says_where_it_is_looked_for(studio: Studio) -> None:
    with pytest.raises(InvalidRequest, match=r"'Ink', which is unknown; there is none in .*styles\*\.csv"):
        make(studio, styles=["Ink"])


TEXTS = st.text("ab ,", max_size=6) | st.sampled_from(["a {b|c|d}", "${x=!{b|c|d}}${x}", "{2$$a|b|c}", "{prompt}"])


@hypothesis_settings(max_examples=60)
@given(
    texts=st.fixed_dictionaries({field: TEXTS for field in TEMPLATES}),
    names=st.lists(st.sampled_from(["Ink", "Dark"]), unique=True),
    seed=st.integers(0, 2**32),
)
def test_writing_out_is_deterministic_and_done_once(texts: dict[str, str], names: list[str], seed: int) -> None:
    styles = Styles(Path("nowhere"))
    styles.by_name = {
        "Ink": Style("Ink", "ink, {prompt}, on {rough|smooth} paper", "colour, {photo|film}"),
        "Dark": Style("Dark", "night, fog", ""),
    }
    templates = Templates(Path("nowhere"))

    def run(request: GenerationRequest) -> Any:
        pictures = resolve(request, make_model())
        return write_out(pictures, styles=lambda: styles, templates=lambda: templates)

    request = GenerationRequest.parse({**texts, "styles": names, "seed": seed, "num_images": 3, "hires_scale": 2.0})

    first, second = run(request), run(request)

    assert first == second
    for one in first:
        assert run(one.asked()) == (one,)


def test_a_styled_picture_is_edited_as_it_was_typed_until_its_style_changes(styled: Studio) -> None:
    asked = make(styled, styles=["Ink"], negative_prompt="").request.asked()

    typed = styled.as_typed(asked)
    write_styles(styled, CSV.replace("ink,", "pen,"))
    stands = styled.as_typed(asked)

    assert (typed.prompt, typed.template, typed.styles) == ("a {red|blue} boat", None, ("Ink",))
    assert (typed.negative_prompt, typed.negative_template) == ("", None)
    assert (stands.prompt, stands.template, stands.styles) == (asked.prompt, "a {red|blue} boat", ())


# What the picture says


def test_a1111_reads_prompts_that_hold_the_styles(styled: Studio) -> None:
    image = make(styled, styles=["Ink", "Dark"], **HIRES)
    text = read_texts(image.path)[a1111_keys.KEY]

    imported = import_request({a1111_keys.KEY: text}, find_model=lambda name, _: name)

    assert text.startswith(image.request.prompt)
    assert 'Styles: "Ink, Dark", Template: a {red|blue} boat' in text
    note = next(note for note in imported.notes if note.field == "styles")
    assert (note.value, note.outcome, note.why) == ("Ink, Dark", Outcome.USED, "the prompts hold what these styles add")
    again = make(styled, **imported.request_fields)
    unstyled = {"styles": (), "negative_template": None}
    assert again.request == image.request.model_copy(update=unstyled)


def test_braces_of_another_programs_prompts_are_text() -> None:
    text = "a {red} boat\nNegative prompt: {{bad}}\nSteps: 20, Sampler: Euler, Seed: 1, Size: 512x512"

    fields = import_request({a1111_keys.KEY: text}).request_fields

    assert (fields["template"], fields["negative_template"]) == ("a {red} boat", "{{bad}}")


@pytest.mark.parametrize(("names", "expected"), [(("Ink", "Dark"), "Ink, Dark"), ((), "None")])
def test_file_names_may_hold_the_styles(styled: Studio, names: tuple[str, ...], expected: str) -> None:
    settings = styled.settings.model_copy(update={"filename_pattern": "[styles]/[prompt_no_styles]-[seed]"})
    with Studio(settings) as studio:
        image = make(studio, styles=names, prompt="a boat")

    assert image.path.relative_to(settings.outputs_dir / "images").as_posix() == f"{expected}/a_boat-3.png"
