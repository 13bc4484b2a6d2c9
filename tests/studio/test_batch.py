"""Every format of batch files, and what cannot be read in them: the line, the field, the value, the way out."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.batch import Format, guess_format, read


def asked(text: str, kind: Format) -> list[tuple[int, Any]]:
    return [(line.number, str(line.error) if line.error else dict(line.fields)) for line in read(text, kind)]


def test_json_lines_are_taken_as_they_are() -> None:
    text = '{"prompt": "a boat\\n", "seed": 7}\n\n{"guidance_scale": 2}\r\n'

    assert asked(text, Format.JSONL) == [(1, {"prompt": "a boat\n", "seed": 7}), (3, {"guidance_scale": 2})]


def test_csv_cells_are_read_as_their_field_holds_them() -> None:
    text = 'prompt,seed,guidance_scale,negative_prompt\r\n"a, ""b""\nc",7,2.5,\r\n,,,\r\nd,,,fog\r\n'

    assert asked(text, Format.CSV) == [
        (3, {"prompt": 'a, "b"\nc', "seed": 7, "guidance_scale": 2.5}),
        (5, {"prompt": "d", "negative_prompt": "fog"}),
    ]


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("a boat", {"prompt": "a boat"}),
        ("a boat --seed 7 --num-inference-steps=20", {"prompt": "a boat", "seed": 7, "num_inference_steps": 20}),
        ("it's a -- boat - (x:1.2), 50%", {"prompt": "it's a -- boat - (x:1.2), 50%"}),
        ("a --negative-prompt fog, rain --width 64", {"prompt": "a", "negative_prompt": "fog, rain", "width": 64}),
        ('--prompt "a boat" --seed 1', {"prompt": "a boat", "seed": 1}),
        ("a --guidance_scale 2", {"prompt": "a", "guidance_scale": 2.0}),
        ("a --steps 20 --seed -1", {"prompt": "a", "num_inference_steps": 20, "seed": -1}),
        (
            '--prompt "a" --negative_prompt "fog" --sampler_name "Euler a" --cfg_scale 7 --subseed 5 --batch_size 2',
            {
                **{"prompt": "a", "negative_prompt": "fog", "scheduler": "Euler a", "guidance_scale": 7.0},
                **{"variation_seed": 5, "num_images": 2},
            },
        ),
        (
            'a --sampler_name "DPM++ 2M Karras"',
            {"prompt": "a", "scheduler": "dpmpp_2m", "noise_schedule": "karras"},
        ),
        (
            'a --scheduler "Karras" --sampler_name "DPM++ 2M"',
            {"prompt": "a", "scheduler": "DPM++ 2M", "noise_schedule": "Karras"},
        ),
        ("a --scheduler heun", {"prompt": "a", "scheduler": "heun"}),
        ("a --n_iter 3 --batch_size 2", {"prompt": "a", "num_images": 6}),
        ("a --n_iter 3", {"prompt": "a", "num_images": 3}),
        (
            "a --restore_faces false --tiling False --do_not_save_samples false --do_not_save_grid true --seed 1",
            {"prompt": "a", "seed": 1},
        ),
        (
            "a --subseed -1 --subseed_strength 0.5 --seed_resize_from_w 64 --seed_resize_from_h 128",
            {
                **{"prompt": "a", "variation_seed": -1, "variation_strength": 0.5},
                **{"seed_resize_width": 64, "seed_resize_height": 128},
            },
        ),
        ("a --seed_resize_from_w 0 --seed_resize_from_h -1", {"prompt": "a"}),
        (r"a --init-image C:\my pictures\in.png", {"prompt": "a", "init_image": r"C:\my pictures\in.png"}),
    ],
)
def test_a_line_of_text_is_a_prompt_and_options(line: str, fields: dict[str, Any]) -> None:
    assert asked(f"# a comment\n\n{line}\n", Format.TEXT) == [(3, fields)]


@pytest.mark.parametrize(
    ("kind", "text", "number", "words"),
    [
        (Format.JSONL, "{}\n{", 2, ["is not JSON", "one JSON object a line"]),
        (Format.JSONL, "[1]", 1, ["JSON object", "[1]"]),
        (Format.CSV, "prompt,steps\na,1\n", 1, ["'steps'", "num_inference_steps"]),
        (Format.CSV, "prompt,colour\na,1\n", 1, ["'colour'", "negative_prompt"]),
        (Format.CSV, "prompt\na, b\n", 2, ["more cells", "quote"]),
        (Format.CSV, "prompt,seed\na,x\n", 2, ["seed", "whole number", "'x'"]),
        (Format.TEXT, "a --size 64x64", 1, ["'size'", "say width and height"]),
        (Format.TEXT, "a --steps 9 --num-inference-steps 9", 1, ["num_inference_steps is given twice"]),
        (Format.TEXT, "a --ar 16:9", 1, ["'ar'", "there are prompt"]),
        (Format.TEXT, "a --restore_faces true", 1, ["--restore_faces true", "not restored here", "leave it out"]),
        (Format.TEXT, "a --tiling true", 1, ["--tiling", "seam", "leave it out"]),
        (Format.TEXT, "a --do_not_save_samples true", 1, ["every picture is kept"]),
        (Format.TEXT, "a --do_not_save_grid false", 1, ["no grids"]),
        (Format.TEXT, 'a --outpath_samples "out/x"', 1, ["--outpath_samples out/x", "--output FOLDER"]),
        (Format.TEXT, "a --outpath_grids x", 1, ["no grids"]),
        (Format.TEXT, "a --prompt_for_display x", 1, ["--prompt_for_display", "leave it out"]),
        (Format.TEXT, "a --sampler_index 3", 1, ["--sampler_index 3", "--sampler_name"]),
        (Format.TEXT, "a --n_iter 2 --n_iter 3", 1, ["n_iter is given twice"]),
        (Format.TEXT, "a --n_iter 2 --num-images 3", 1, ["num_images is given twice"]),
        (Format.TEXT, "a --n_iter few --batch_size 2", 1, ["num_images", "a whole number", "few × 2"]),
        (Format.TEXT, '--prompt "a car', 1, ['prompt opens a quote that is never closed: "a car; close it']),
        (Format.TEXT, 'a --negative_prompt "fog --seed 1', 1, ["negative_prompt opens a quote"]),
        (Format.TEXT, "a --seed", 1, ["seed has no value", "--seed VALUE"]),
        (Format.TEXT, "a --seed 1 --seed 2", 1, ["seed is given twice"]),
        (Format.TEXT, 'a --sampler_name "Euler Karras" --scheduler Beta', 1, ["noise_schedule is given twice"]),
        (Format.TEXT, "a --guidance-scale high", 1, ["guidance_scale", "a number", "'high'"]),
    ],
)
def test_a_line_that_cannot_be_read_says_why(kind: Format, text: str, number: int, words: list[str]) -> None:
    bad = [line for line in read(text, kind) if line.error]

    assert [line.number for line in bad] == [number]
    assert all(word in str(bad[0].error) for word in words), str(bad[0].error)


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("a.jsonl", "", Format.JSONL),
        ("A.NDJSON", "", Format.JSONL),
        ("a.csv", "{}", Format.CSV),
        ("a.txt", "{}", Format.TEXT),
        ("-", '\n{"prompt": "a"}\n', Format.JSONL),
        ("-", "{a|b} boat", Format.TEXT),
        ("-", "", Format.TEXT),
    ],
)
def test_the_format_follows_from_name_and_text(name: str, text: str, kind: Format) -> None:
    assert guess_format(name, text) is kind


@given(st.text(max_size=80), st.sampled_from(Format))
def test_any_text_is_read_or_refused_line_by_line(text: str, kind: Format) -> None:
    lines = read(text, kind)

    assert all(1 <= line.number <= text.count("\n") + text.count("\r") + 1 for line in lines)
