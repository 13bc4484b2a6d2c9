"""`studio styles` and `--style`: what there is, and what it becomes."""

import json
from pathlib import Path

import pytest

from studio import Settings
from tests.studio.cli.conftest import Run


@pytest.fixture
def file(settings: Settings) -> Path:
    path = settings.home / "styles.csv"
    path.write_text('name,prompt,negative_prompt\nInk,"ink, {prompt}",fog\nDark,night,\n', encoding="utf-8")
    return path


def test_the_styles_are_listed_with_the_place_of_the_files(run: Run, file: Path) -> None:
    listed, as_json = run("styles"), run("styles", "--json")

    assert listed.out.splitlines()[1].split() == ["Ink", "ink,", "{prompt}", "fog"]
    assert str(file.parent / "styles*.csv") in listed.err
    assert [json.loads(line)["name"] for line in as_json.out.splitlines()] == ["Ink", "Dark"]
    assert json.loads(as_json.out.splitlines()[0])["prompt"] == "ink, {prompt}"


def test_styles_are_applied_in_the_order_given(run: Run, file: Path) -> None:
    done = run("generate", "a boat", "--style", "Dark", "--style", "Ink", "--json")
    unknown = run("generate", "a boat", "--style", "Oil")

    request = json.loads(done.out)["request"]
    assert (request["prompt"], request["negative_prompt"]) == ("ink, a boat, night", "fog")
    assert (request["styles"], request["template"]) == (["Dark", "Ink"], "a boat")
    assert unknown.code == 2
    assert f"styles names 'Oil', which is unknown; there are Dark, Ink in {file.parent}" in unknown.err


def test_a_new_prompt_of_the_second_pass_is_written_out_anew(run: Run, file: Path) -> None:
    small = run("generate", "a boat", "--hires-scale", "1.5", "--hires-prompt", "a {ship|ship}", "--style", "Dark")
    again = run("hires", small.out.strip(), "--json")
    other = run("hires", small.out.strip(), "--prompt", "a {car|car}", "--json")

    requests = [json.loads(done.out)["request"] for done in (again, other)]
    assert [one["hires_prompt"] for one in requests] == ["a ship, night", "a car, night"]
    assert [one["hires_template"] for one in requests] == ["a {ship|ship}", "a {car|car}"]
