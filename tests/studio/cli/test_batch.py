"""`studio batch`: files become pictures, bad lines stop everything first, and a stopped command goes on."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from PIL import Image

from studio import JobState, Settings, Studio
from studio.metadata import read
from tests.studio.cli.conftest import Run, Start

SECONDS = 60
FILES = {
    "a.jsonl": '{"prompt": "a", "seed": 1}\n{"prompt": "b", "width": 64}\n',
    "a.csv": "prompt,seed,width\na,1,\nb,,64\n",
    "a.txt": "# two\na --seed 1\n\nb --width 64\n",
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_becomes_pictures(run: Run, studio: Studio, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FILES[name])

    done = run("batch", str(tmp_path / name), "--guidance-scale", "2", "--width", "72")

    assert done.code == 0, done.err
    requests = [read(Path(line)).request for line in done.out.splitlines()]
    assert [(one.prompt, one.width, one.guidance_scale) for one in requests] == [("a", 72, 2), ("b", 64, 2)]
    assert requests[0].seed == 1
    assert studio.gallery.count() == 2


def test_standard_input_and_json(run: Run) -> None:
    done = run("batch", "-", "--json", "--num-images", "2", text=b"\xef\xbb\xbfa\nb\n")

    pictures = [json.loads(line) for line in done.out.splitlines()]
    assert [(one["line"], one["request"]["prompt"]) for one in pictures] == [(1, "a"), (1, "a"), (2, "b"), (2, "b")]
    assert pictures[0].keys() == {"line", "id", "path", "seed", "request", "provenance"}


def test_what_is_likely_not_meant_is_told_with_its_line(run: Run) -> None:
    done = run("batch", "-", text=b"a boat\na car {a|b\na <lora:x cat\na {red|red} (boat\n")

    assert (done.code, done.out.count("\n")) == (0, 4)
    assert done.err.splitlines()[:3] == [
        'line 2: note: prompt: "{a|b": this "{" is never closed, so it is no template and is read as text.',
        'line 3: note: prompt: "<lora:x" is read as text: it is no complete tag.',
        'line 4: note: prompt: "(boat": this "(" is never closed, so it lasts until the end.',
    ]


BAD = "a\nb --width 63\nc --size 64x64\nd __colour__\ne --model gone\nf\n"


def test_bad_lines_are_all_listed_and_nothing_runs(run: Run, studio: Studio) -> None:
    done = run("batch", "-", text=BAD.encode())

    assert (done.code, done.out) == (2, "")
    lines = done.err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["line 2", "line 3", "line 4", "line 5", "error"]
    for line, words in zip(
        lines,
        ("width got 63 64", "size width and height", "__colour__ unknown", "model gone toy", "4 lines of 6 --k"),
        strict=False,
    ):
        assert all(word in line for word in words.split()), line
    assert studio.jobs() == []


def test_the_others_are_made_when_asked(run: Run) -> None:
    done = run("batch", "-", "--keep-going", text=BAD.encode())

    assert done.code == 2
    assert [read(Path(line)).request.prompt for line in done.out.splitlines()] == ["a", "f"]
    assert "could not work; the others are made" in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gone.txt"], ["gone.txt cannot be read"]),
        (["-", "--input-format", "xml"], ["--input-format", "jsonl, csv, text", "xml"]),
        (["-"], ["standard input asks for nothing"]),
        (["-", "--output", "x.png"], ["--output must be a folder", "x.png"]),
        (["-", "--output", "studio.toml"], ["studio.toml is not a folder"]),
    ],
)
def test_what_cannot_be_read_at_all_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studio.toml").touch()

    done = run("batch", *arguments)

    assert (done.code, done.out) == (2, "")
    assert all(word in done.err for word in words), done.err


def test_the_same_command_makes_nothing_twice_and_again_makes_all_anew(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("same\nsame\nother\n")
    first = run("batch", str(file)).out.splitlines()
    assert len(set(first)) == 3

    same = run("batch", str(file))
    assert same.out.splitlines() == first
    assert "0 made, 3 were there before" in same.err

    file.write_text("new\nsame\nother\nsame\n")
    grown = run("batch", str(file)).out.splitlines()
    assert len(grown) == 4
    assert len(set(grown) - set(first)) == 1
    anew = run("batch", str(file), "--again").out.splitlines()
    assert set(anew).isdisjoint(first)
    assert run("batch", str(file)).out.splitlines() == anew
    other = tmp_path / "b.txt"
    other.write_text("same\n")
    assert set(run("batch", str(other)).out.splitlines()).isdisjoint([*first, *anew])


def test_a_picture_whose_file_is_gone_is_made_again(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("a --num-images 3 --seed 5\nb\n")
    first = [Path(line) for line in run("batch", str(file)).out.splitlines()]
    pixels = Image.open(first[1]).tobytes()
    first[1].unlink()

    done = run("batch", str(file))

    again = [Path(line) for line in done.out.splitlines()]
    assert "1 made, 3 were there before" in done.err
    assert len(again) == 4
    assert [path for path in again if not path.is_file()] == []
    assert pixels in [Image.open(path).tobytes() for path in again]


def test_a_random_template_differs_by_picture_and_a_combinatorial_one_is_complete(run: Run, settings: Settings) -> None:
    (settings.home / "wildcards").mkdir()
    (settings.home / "wildcards" / "colour.txt").write_text("red\nblue\n")
    template = "a __colour__ {boat|car}"

    random = run("batch", "-", "--json", "--num-images", "8", "--seed", "1", text=template.encode())
    every = run("batch", "-", "--json", "--combinatorial", "--seed", "5", text=template.encode())

    assert len({json.loads(line)["request"]["prompt"] for line in random.out.splitlines()}) > 1
    requests = [json.loads(line)["request"] for line in every.out.splitlines()]
    assert [one["prompt"] for one in requests] == ["a blue boat", "a blue car", "a red boat", "a red car"]
    assert [one["seed"] for one in requests] == [5, 6, 7, 8]
    assert {one["template"] for one in requests} == {template}


def test_styles_are_applied_to_every_line(run: Run, settings: Settings) -> None:
    (settings.home / "styles.csv").write_text('name,prompt,negative_prompt\nInk,"ink, {prompt}",fog\n')

    done = run("batch", "-", "--json", "--style", "Ink", text=b"a\n")
    unknown = run("batch", "-", "--style", "Oil", text=b"a\n")

    request = json.loads(done.out)["request"]
    assert (request["prompt"], request["negative_prompt"]) == ("ink, a", "fog")
    assert unknown.code == 2
    assert "styles names 'Oil', which is unknown; there are Ink" in unknown.err


def test_combinations_are_those_of_the_styled_prompt(run: Run, settings: Settings) -> None:
    (settings.home / "styles.csv").write_text('name,prompt,negative_prompt\nInk,"{pen|brush}, {prompt}",fog\n')

    done = run("batch", "-", "--json", "--combinatorial", "--style", "Ink", text=b"a {boat|car}\nplain\n")

    requests = [json.loads(line)["request"] for line in done.out.splitlines()]
    styled = {"brush, a boat", "brush, a car", "pen, a boat", "pen, a car", "brush, plain", "pen, plain"}
    assert {one["prompt"] for one in requests} == styled
    assert {one["negative_prompt"] for one in requests} == {"fog"}
    assert [one["template"] for one in requests].count("plain") == 2


def test_output_copies_to_a_folder_and_overwrites_nothing(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "copies"
    arguments = ["batch", "-", "--filename-pattern", "[prompt]/[seed]", "--output", str(folder)]
    text = b"a --seed 1\nb --seed 1\n"

    done = run(*arguments, text=text)

    assert done.out.splitlines() == [str(folder / "1.png"), str(folder / "1-2.png")]
    assert [read(Path(line)).request.prompt for line in done.out.splitlines()] == ["a", "b"]
    assert run(*arguments, text=text).out == done.out
    assert len(list(folder.iterdir())) == 2


def test_a_job_that_fails_leaves_the_others_and_is_tried_again(run: Run, settings: Settings) -> None:
    blocked = settings.outputs_dir / "images" / "b"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("in the way")
    arguments = ["batch", "-", "--filename-pattern", "[prompt]/[seed]"]

    done = run(*arguments, text=b"a\nb\nc\n")
    assert done.code == 1
    assert len(done.out.splitlines()) == 2
    assert "line 2: cannot" in done.err
    assert "1 line failed; the same command tries again" in done.err

    blocked.unlink()
    then = run(*arguments, text=b"a\nb\nc\n")
    assert then.code == 0
    assert len(set(then.out.splitlines()) - set(done.out.splitlines())) == 1


def _started(start: Start, file: Path, studio: Studio, pictures: int, **options: object) -> "object":
    process = start("batch", str(file), "--num-inference-steps", "10", step_seconds=0.02, **options)
    while studio.gallery.count() < pictures:
        assert process.poll() is None
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("pictures", [1, 4])
def test_a_killed_command_goes_on_and_loses_and_doubles_nothing(
    start: Start, run: Run, settings: Settings, tmp_path: Path, pictures: int
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("\n".join(f"{i} --num-images {1 + i % 3}" for i in range(12)))
    with Studio(settings) as studio:
        process = _started(start, file, studio, pictures)
        process.kill()  # type: ignore[attr-defined]
        before, _ = process.communicate(timeout=SECONDS)  # type: ignore[attr-defined]

        done = run("batch", str(file), "--num-inference-steps", "10")

        assert done.code == 0, done.err
        made = [(one.request.prompt, one.index) for one in studio.gallery.page(limit=100)]
        assert sorted(made) == sorted((str(i), k) for i in range(12) for k in range(1 + i % 3))
        assert set(before.splitlines()) <= set(done.out.splitlines())
        assert len(set(done.out.splitlines())) == len(made) == 24
        assert len(studio.jobs()) == 12
        assert {job.state for job in studio.jobs()} == {JobState.DONE}
        assert len(list((settings.outputs_dir / "images").glob("**/*.*"))) == 24


@pytest.mark.skipif(os.name == "nt", reason="there, Ctrl-C reaches the whole console, pytest included")
def test_ctrl_c_cancels_what_is_queued_and_the_same_command_goes_on(
    start: Start, run: Run, settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("\n".join(f"{i} --num-images 2" for i in range(10)))
    with Studio(settings) as studio:
        process = _started(start, file, studio, 3)
        process.send_signal(signal.SIGINT)  # type: ignore[attr-defined]
        out, err = process.communicate(timeout=SECONDS)  # type: ignore[attr-defined]

        assert process.returncode == 130  # type: ignore[attr-defined]
        assert "the same command goes on where it stopped" in err
        assert "Traceback" not in err
        assert {job.state for job in studio.jobs()} == {JobState.DONE, JobState.CANCELLED}

        done = run("batch", str(file), "--num-inference-steps", "10")
        assert done.code == 0, done.err
        assert set(out.splitlines()) <= set(done.out.splitlines())
        assert len(set(done.out.splitlines())) == studio.gallery.count() == 20
        assert len(studio.jobs()) == 10
