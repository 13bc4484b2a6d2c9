"""Styles are read from A1111's files, applied as it does, and taken off again."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.spec.errors import InvalidRequest
from studio.styles import Style, Styles

CSV = """name,prompt,negative_prompt
# heading,ignored,ignored
Ink,"ink drawing, {prompt}, on paper",colour
Dark,"night, fog",
"Soft, warm",{prompt} in warm light,harsh
Plain,,
,nameless,
"""


@pytest.fixture
def styles(tmp_path: Path) -> Styles:
    (tmp_path / "styles.csv").write_text(f"\ufeff{CSV}", encoding="utf-8")
    (tmp_path / "styles_old.csv").write_text("name,text\nOld,oil paint\n", encoding="utf-8")
    return Styles(tmp_path)


def test_files_are_read_as_a1111_writes_them(styles: Styles) -> None:
    assert list(styles.by_name) == ["Ink", "Dark", "Soft, warm", "Plain", "Old"]
    assert styles.by_name["Old"] == Style("Old", "oil paint", "")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], ("a boat", "blurry")),
        (["Ink"], ("ink drawing, a boat, on paper", "blurry, colour")),
        (["Dark"], ("a boat, night, fog", "blurry")),
        (["Dark", "Ink"], ("ink drawing, a boat, night, fog, on paper", "blurry, colour")),
        (["Plain", "Old"], ("a boat, oil paint", "blurry")),
    ],
)
def test_styles_are_inserted_or_appended(styles: Styles, names: list[str], expected: tuple[str, str]) -> None:
    assert styles.apply(names, prompt="a boat", negative_prompt="blurry") == expected


def test_an_empty_prompt_takes_the_style_alone(styles: Styles) -> None:
    assert styles.apply(["Dark"], prompt="") == ("night, fog", "")


@given(
    st.lists(st.sampled_from(["Ink", "Dark", "Soft, warm", "Old"]), unique=True),
    st.text("ab ,", max_size=8).map("x".__add__),
)
def test_what_was_applied_can_be_taken_off(names: list[str], text: str) -> None:
    styles = Styles(Path("nowhere"))
    styles.by_name = {
        "Ink": Style("Ink", "ink drawing, {prompt}, on paper", "colour"),
        "Dark": Style("Dark", "night, fog", ""),
        "Soft, warm": Style("Soft, warm", "{prompt} in warm light", "harsh"),
        "Old": Style("Old", "oil paint", ""),
    }
    prompt = text.strip(" ,")

    styled = styles.apply(names, prompt=prompt, negative_prompt="blurry")

    assert styles.remove(prompt=styled[0], negative_prompt=styled[1]) == (names, prompt, "blurry")


def test_a_style_whose_negative_piece_is_missing_was_not_applied(styles: Styles) -> None:
    untouched = {"prompt": "ink drawing, a boat, on paper", "negative_prompt": "blurry"}

    names, prompt, negative_prompt = styles.remove(**untouched)

    assert "Ink" not in names
    assert (prompt, negative_prompt) == tuple(untouched.values())


def test_an_unknown_style_is_refused_with_those_that_exist(styles: Styles) -> None:
    message = r"styles names 'Drak', which is unknown; did you mean Dark\? `studio styles` lists all of .*styles\*\.csv"
    with pytest.raises(InvalidRequest, match=message) as refused:
        styles.apply(["Drak"], prompt="a boat")
    assert refused.value.field == "styles"


def test_of_many_styles_some_are_told_and_how_to_see_all(tmp_path: Path) -> None:
    rows = "".join(f"style {number:02},ink\n" for number in range(12))
    (tmp_path / "styles.csv").write_text(f"name,prompt\n{rows}", encoding="utf-8")

    with pytest.raises(InvalidRequest, match=r"there are style 00, .*, style 09 and 2 more, see `studio styles`, in "):
        Styles(tmp_path).apply(["zzz"], prompt="a boat")


@pytest.mark.parametrize(("content", "words"), [(b"\xff", "UTF-8"), (b"a,b\n1,2\n", "need the columns name, prompt")])
def test_a_file_that_is_no_styles_file_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "styles.csv").write_bytes(content)

    with pytest.raises(InvalidRequest, match=rf"styles\.csv.*{words}"):
        Styles(tmp_path)
