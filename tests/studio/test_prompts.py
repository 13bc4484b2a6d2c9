"""Templates become prompts: deterministic, A1111's syntax untouched, and never a word of the template left behind."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.spec.errors import InvalidRequest
from pipelines.spec.request import GenerationRequest
from studio import Studio, metadata
from studio.prompts import Templates


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "wildcards"
    (folder / "animals").mkdir(parents=True)
    (folder / "colour.txt").write_text("\ufeff# a comment\nred\n\nblue\n", encoding="utf-8")
    (folder / "animals" / "pet.txt").write_text("cat\n__colour__ dog, 100% #1 [a|b]\n", encoding="utf-8")
    (folder / "weighted.txt").write_text("1::rare\n0::never\n", encoding="utf-8")
    (folder / "places.yaml").write_text("place:\n  land: [hill]\n  water:\n  - 3::sea\n  - lake\n", encoding="utf-8")
    (folder / "times.json").write_text(json.dumps({"time": ["night", "noon"]}), encoding="utf-8")
    (folder / "circle.txt").write_text("__circle__\n", encoding="utf-8")
    (folder / "notes.md").write_text("not a list", encoding="utf-8")
    return folder


@pytest.fixture
def templates(folder: Path) -> Templates:
    return Templates(folder)


@pytest.mark.parametrize(
    ("template", "possible"),
    [
        ("a {red|blue} boat", {"a red boat", "a blue boat"}),
        ("{1::a|0::b}", {"a"}),
        ("{2$$ and $$a|b}", {"a and b", "b and a"}),
        ("{|a}", {"", "a"}),
        ("__colour__", {"red", "blue"}),
        ("__animals/pet__", {"cat", "red dog, 100% #1 [a|b]", "blue dog, 100% #1 [a|b]"}),
        ("__pet__", {"cat", "red dog, 100% #1 [a|b]", "blue dog, 100% #1 [a|b]"}),
        ("__col*__", {"red", "blue"}),
        ("__weighted__", {"rare"}),
        ("__place/land__ __place/water__", {"hill sea", "hill lake"}),
        ("__time__", {"night", "noon"}),
        ("${c=!{red|blue}}${c} on ${c}", {"red on red", "blue on blue"}),
        ("\\{a|b\\} \\__c", {"{a|b} __c"}),
        ("{[a|b]|c}", {"[a|b]", "c"}),
    ],
)
def test_a_template_becomes_what_it_says(templates: Templates, template: str, possible: set[str]) -> None:
    seen = set(templates.expand(template, seeds=range(60)))

    assert seen == possible


A1111 = "  (a:1.2), ((b)) [c] [d|e] [f:g:0.5] <lora:x:0.8>\tAND 100% #1 $5 \\(x\\) BREAK\n "


def test_other_programs_syntax_passes_through_untouched(templates: Templates) -> None:
    assert templates.expand(f"{A1111}{{x}}{A1111}", seeds=[1]) == [f"{A1111}x{A1111}"]


@given(st.text(alphabet=st.characters(exclude_characters="{}_$\\", exclude_categories=["Cs", "Co"]), max_size=50))
def test_text_beside_a_choice_is_kept(text: str) -> None:
    assert Templates(Path("nowhere")).expand(f"{text}{{x}}", seeds=[1]) == [f"{text}x"]


@given(st.text(alphabet="ab{}|_$:=!@~%#1 \\*/.,()[]-", max_size=30))
def test_any_template_is_expanded_or_refused(text: str) -> None:
    try:
        (prompt,) = Templates(Path("nowhere")).expand(text, seeds=[1])
    except InvalidRequest:
        return
    assert "{" not in prompt or "\\{" in text


def test_the_same_seed_gives_the_same_prompt(folder: Path) -> None:
    template = "{a|b|c} __colour__ __pet__ {2$$x|y|z}"

    first, second = (Templates(folder).expand(template, seeds=range(20)) for _ in range(2))

    assert first == second
    assert len(set(first)) > 10


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("a __colur__ boat", ["__colur__", "unknown", "colour"]),
        ("a __../secret__", ["unknown"]),
        ("{a|b", ["balance", "\\{"]),
        ("a} {b|c}", ["unbalanced }"]),
        ("a __ b", ["balance", "\\__"]),
        ("${v}", ["variable v is not defined", "${name=value}"]),
        ("__circle__", ["names itself"]),
        ("{0::a|0::b}", ["greater than zero"]),
        ("{100$$" + "x" * 4000 + "|" + "y" * 4000 + "}" + "z{a}" * 90, ["8000 is the most"]),
    ],
)
def test_what_cannot_be_expanded_is_refused_with_a_way_out(
    templates: Templates, template: str, words: list[str]
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        templates.expand(template, seeds=range(10))

    assert refused.value.field == "prompt"
    assert all(word in str(refused.value) for word in words), str(refused.value)


def test_combinations_are_all_there_once(templates: Templates) -> None:
    made = templates.combinations("{a|a|b} {2$$x|y} __colour__ __weighted__ 100%")

    assert len(made) == len(set(made)) == 2 * 2 * 2
    assert "b y,x red rare 100%" in made


def test_as_many_as_may_be_are_made(templates: Templates) -> None:
    assert len(templates.combinations("{0|1|2|3|4|5|6|7|8|9}, " * 4)) == 10_000


def test_a_variable_that_remembers_one_choice_has_each_of_them_once(templates: Templates) -> None:
    made = templates.combinations("${x=!{a|b}}${y=!${x}{1|2}}${x} ${y} {c|d}")

    assert made == [f"{x} {x}{y} {end}" for x in "ab" for y in "12" for end in "cd"]


def test_no_combination_at_all_is_refused(templates: Templates) -> None:
    with pytest.raises(InvalidRequest, match="has no combination"):
        templates.combinations("{2$$a|a}")


def test_too_many_combinations_are_refused(templates: Templates) -> None:
    with pytest.raises(InvalidRequest, match="more than 10000 combinations"):
        templates.combinations("{0|1|2|3|4|5|6|7|8|9}" * 5)


@pytest.mark.parametrize(
    ("name", "content"), [("bad.txt", b"\xff\xfe"), ("bad.json", b"{"), ("bad.yaml", b"a: [b"), ("bad.yaml", b"\xff")]
)
def test_a_word_list_that_cannot_be_read_is_named(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)

    with pytest.raises(InvalidRequest, match=rf"{name} cannot be read"):
        Templates(folder)


LAUGHS = "${a=xx}" + "".join(f"${{{b}=${{{a}}}${{{a}}}}}" for a, b in pairwise("abcdefghijklmnopqrst")) + "${t}"


@pytest.mark.parametrize("template", [LAUGHS, "{" * 4000, "{a|" * 300 + "}" * 300])
def test_a_template_that_grows_without_end_is_refused_soon(template: str) -> None:
    with pytest.raises(InvalidRequest, match=r"grows too large|nested too deeply"):
        Templates(Path("nowhere")).combinations(template)


def test_a_random_prompt_that_grows_without_end_is_refused_soon(templates: Templates) -> None:
    with pytest.raises(InvalidRequest, match="grows too large"):
        templates.expand(LAUGHS, seeds=[1])


def test_each_picture_has_its_own_expansion_and_keeps_the_template(studio: Studio) -> None:
    images = studio.generate("a {red|blue|green|black} boat", seed=1, num_images=8, progress=False)

    assert len({image.request.prompt for image in images}) > 1
    assert {image.request.template for image in images} == {"a {red|blue|green|black} boat"}
    assert "Template: " in metadata.read_texts(images[3].path)["parameters"]
    (again,) = studio.generate(images[3].request.asked(), progress=False)
    assert again.request == images[3].request
    assert again.image.tobytes() == images[3].image.tobytes()


def test_an_unknown_wildcard_is_told_with_what_is_near(tmp_path: Path) -> None:
    for name in ("colours", "animals"):
        (tmp_path / f"{name}.txt").write_text("one", encoding="utf-8")

    with pytest.raises(InvalidRequest, match=r"__colour__, which is unknown; did you mean __colours__\? All are in "):
        Templates(tmp_path).expand("a __colour__ boat", seeds=[1])
    with pytest.raises(InvalidRequest, match=r"__zzz__, which is unknown; there are animals, colours in "):
        Templates(tmp_path).expand("a __zzz__ boat", seeds=[1])


def test_an_unknown_wildcard_is_refused_before_a_job_exists(studio: Studio) -> None:
    with pytest.raises(InvalidRequest, match=r"__colour__, which is unknown; .*wildcards holds no word lists"):
        studio.submit(GenerationRequest(prompt="a __colour__ boat"))
    assert studio.jobs() == []
