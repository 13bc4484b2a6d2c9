"""`studio loras`, and LoRAs on the command line."""

import json

import pytest

from studio import Settings
from tests.studio.cli.conftest import Run
from tests.studio.lora_files import write_lora_file


@pytest.fixture(autouse=True)
def loras(settings: Settings) -> None:
    folder = settings.home / "loras"
    metadata = {"ss_output_name": "sea side", "ss_tag_frequency": '{"x": {"boat": 2}}', "evil": "\x1b[2J"}
    write_lora_file(folder / "sea.safetensors", metadata=metadata)
    (folder / "broken.safetensors").write_bytes(b"")


def test_loras_are_listed_and_those_that_are_broken_say_why(run: Run) -> None:
    done = run("loras")

    assert done.code == 0
    (line,) = [line for line in done.out.splitlines() if line.startswith("sea")]
    assert " ".join(line.split()) == "sea Stable Diffusion 1.x LoRA 8 U-Net 1, text encoder 1 0.0 MiB boat"
    assert "broken cannot be used: broken.safetensors is no safetensors file" in done.err


def test_loras_as_json(run: Run) -> None:
    listed = {each["name"]: each for each in map(json.loads, run("loras", "--json").out.splitlines())}

    assert listed["sea"]["layers"] == {"U-Net": 1, "text encoder": 1}
    assert listed["sea"]["sha256"] is None
    assert listed["broken"]["problem"].startswith("broken.safetensors is no safetensors file")


def test_one_lora_is_shown_with_its_hashes(run: Run) -> None:
    done = run("loras", "show", "sea side")
    shown = json.loads(run("loras", "show", "sea", "--json").out)

    assert done.code == 0
    assert ["sha256", shown["sha256"]] in [line.split() for line in done.out.splitlines()]
    assert "\x1b" not in done.out
    assert shown["metadata"]["ss_output_name"] == "sea side"


def test_a_broken_lora_is_shown_with_its_reason(run: Run) -> None:
    done = run("loras", "show", "broken")

    assert done.code == 1
    assert done.err.startswith("error: LoRA broken cannot be used: broken.safetensors is no safetensors file")
    assert "training:" not in done.out


def test_an_unknown_lora_is_told(run: Run) -> None:
    done = run("loras", "show", "see")

    assert (done.code, done.err[:53]) == (2, "error: LoRA 'see' is not installed; did you mean sea?")


def test_options_before_show_are_refused(run: Run) -> None:
    assert "must stand behind show" in run("loras", "--json", "show", "sea").err


def test_loras_are_chosen_by_an_option_and_by_a_tag(run: Run) -> None:
    done = run("generate", "a boat", "--lora", "sea:0.5:0.25:start=0.2", "--seed", "1", "--json")
    tagged = run("generate", "a boat <lora:sea:0.5:0.25:start=0.2>", "--seed", "1", "--json")

    (lora,) = json.loads(done.out)["request"]["loras"]
    assert (lora["text_encoder_weight"], lora["weight"], lora["start"]) == (0.5, 0.25, 0.2)
    assert json.loads(tagged.out)["request"] == json.loads(done.out)["request"]


def test_what_cannot_be_applied_is_told_before_anything_runs(run: Run) -> None:
    assert run("generate", "a boat", "--lora", "see").err.startswith(
        "error: LoRA 'see' is not installed; did you mean sea? `studio loras` lists all"
    )
    assert run("generate", "a boat", "--lora", "sea:x").err == (
        "error: loras names 'sea:x': weight must be a number such as 0.8, got 'x'\n"
    )
    assert run("jobs").out.count("\n") <= 1


def test_how_much_of_a_lora_was_applied_is_told_once_beside_the_paths(run: Run) -> None:
    done = run("generate", "a boat <lora:sea:0.5>", "--num-images", "2")

    assert done.err.count("LoRA sea: applied 1/1: drawing 1\n") == 1
    assert [line.rpartition(".")[2] for line in done.out.splitlines()] == ["png", "png"]


def test_a_read_picture_names_its_loras(run: Run) -> None:
    path = run("generate", "a boat", "--lora", "sea:0.5").out.strip()

    read = run("read", path).out

    assert "loras                sea:0.5 [" in read
    assert "\nused:\n  loras sea:0.5: as it is\n" in read


def test_a_line_of_a_batch_names_loras(run: Run) -> None:
    done = run("batch", "-", "--json", text=b'a boat --loras sea:0.5\na car --loras ["sea:0.25"]\n')

    requests = [json.loads(line)["request"] for line in done.out.splitlines()]
    assert [request["loras"][0]["weight"] for request in requests] == [0.5, 0.25]
