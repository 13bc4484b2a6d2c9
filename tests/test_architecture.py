"""The rules of the house, executable: who may import whom, one field on every surface, documents that are true."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from fastapi.testclient import TestClient

import studio
from pipelines.spec.request import GenerationRequest, field_names
from pipelines.spec.resolved import ResolvedRequest
from studio import Settings, Studio
from studio.api import create_app
from studio.metadata import read_texts
from tests.studio.conftest import write_model

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate")


def test_imports_go_down() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    if not program.exists():  # the gate runs it too; users who run the tests need not have it
        assert (ROOT / ".ci" / "run").read_text().count("lint-imports")
        return
    result = subprocess.run([program, "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        ("studio, pipelines.spec.resolve, pipelines.spec.engine", (*HEAVY, "gradio", "sqlalchemy", "fastapi")),
        ("studio.cli", (*HEAVY, "gradio", "sqlalchemy", "fastapi", "numpy")),
        ("studio.core, studio.worker, studio.supervisor, studio.doctor", (*HEAVY, "gradio", "fastapi")),
        ("studio.core, studio.api.app, studio.ui.app", HEAVY),
    ],
)
def test_the_torch_wall(modules: str, forbidden: tuple[str, ...]) -> None:
    program = f"import sys, {modules}\nprint(*sys.modules)"

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()

    assert set(forbidden).isdisjoint(loaded)


def _on_the_command_line(_: Studio) -> set[str]:
    from studio.cli import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return {parameter.name for parameter in commands["generate"].params}


def _as_floats(rules: Any) -> Any:
    """FastAPI writes bounds as floating-point numbers."""
    match rules:
        case dict():
            return {key: _as_floats(value) for key, value in rules.items()}
        case list():
            return [_as_floats(value) for value in rules]
        case int():
            return float(rules)
    return rules


def _in_openapi(studio: Studio) -> set[str]:
    from studio.api.app import create_app

    schema = create_app(studio, ui=False).openapi()["components"]["schemas"]["GenerationRequest"]
    for name, rules in GenerationRequest.model_json_schema()["properties"].items():
        served = schema["properties"][name]
        rules = json.loads(json.dumps(rules).replace("#/$defs/", "#/components/schemas/"))
        assert _as_floats(served) == _as_floats({key: value for key, value in rules.items() if key in served})
        assert rules.keys() - served.keys() <= {"default"}
    return set(schema["properties"])


def _in_the_browser(studio: Studio) -> set[str]:
    from studio.ui.form import RequestForm

    return set(RequestForm(studio).widgets)


def _in_the_record(studio: Studio) -> set[str]:
    image = studio.generate("a boat", seed=1, num_inference_steps=1, progress=False)[0]
    record = json.loads(read_texts(image.path)["studio"])
    assert record["request"].keys() == ResolvedRequest.model_fields.keys()
    return {*record["request"], "num_images"}  # a record is of one image


@pytest.mark.parametrize("surface", [_on_the_command_line, _in_openapi, _in_the_browser, _in_the_record])
def test_every_field_on_every_surface(surface: Callable[[Studio], set[str]], tmp_path: Path) -> None:
    write_model(tmp_path / "models" / "toy")
    with Studio(Settings(home=tmp_path, engine="fake", default_model="toy")) as opened:
        assert set(field_names()) <= surface(opened)


def test_the_public_names_are_sorted_and_there() -> None:
    assert studio.__all__ == sorted(studio.__all__)
    assert all(getattr(studio, name).__name__ == name for name in studio.__all__)


def test_nothing_leaves_the_machine_by_default() -> None:
    program = "import studio, os, json; print(json.dumps(dict(os.environ)))"
    loud = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "GRADIO_ALLOWED_PATHS": "/", "PATH": os.environ["PATH"]}

    variables = json.loads(
        subprocess.run([sys.executable, "-c", program], env=loud, cwd=ROOT, capture_output=True, check=True).stdout
    )

    assert variables.items() >= studio.environment.SILENT.items()
    assert variables.keys().isdisjoint(studio.environment.UNSAFE)


def test_exceptions_are_caught_narrowly() -> None:
    """`except Exception` stands where a worker runs jobs or warms up and, raising again, around third-party loaders."""
    broad = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in ("studio", "pipelines")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler)
        and isinstance(node.type, ast.Name)
        and node.type.id in {"Exception", "BaseException"}
        and not any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
    ]

    assert {place.partition(":")[0] for place in broad} == {"studio/worker.py"}


# --- README: every block marked python runs; every `studio` and `launch.py generate` line of a bash block runs;
# --- every curl line of a sh block is answered.


def _blocks(language: str) -> Iterator[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    yield from re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def _commands() -> list[str]:
    lines = [line.partition("#")[0].strip() for block in _blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line and line not in {"python launch.py", "python launch.py test"}]


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of somebody who follows the README in an empty folder with the pocket model."""
    home = tmp_path_factory.mktemp("home")
    return {**os.environ, "STUDIO_HOME": str(home), "NO_COLOR": "1"}


@pytest.mark.slow
@pytest.mark.parametrize("block", list(_blocks("python")))
def test_readme_python_runs(block: str, newcomer: dict[str, str]) -> None:
    result = subprocess.run([sys.executable, "-c", block], env=newcomer, cwd=ROOT, capture_output=True, check=False)

    assert result.returncode == 0, result.stderr.decode()


@pytest.mark.slow
@pytest.mark.parametrize("line", _commands())
def test_readme_commands_run(line: str, newcomer: dict[str, str], tmp_path: Path) -> None:
    """Placeholders of the README (a picture of the user's, a picture made earlier, its own texts) are made first."""
    with Studio(Settings(home=Path(newcomer["STUDIO_HOME"]))) as opened:
        made = opened.gallery.page(limit=1) or opened.generate("a boat", num_inference_steps=2, progress=False)
    arguments = shlex.split(line.replace("python launch.py", "studio").replace(" --watch", ""))
    shutil.copy(made[0].path, tmp_path / "car.png")
    for text in _blocks("text"):
        (tmp_path / text.partition("\n")[0].removeprefix("# ")).write_text(text)
    arguments = [str(made[0].path) if argument.startswith("outputs/images/") else argument for argument in arguments]

    result = subprocess.run(
        [sys.executable, "-m", "studio.cli", *arguments[1:]],
        env={**newcomer, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stderr


def test_readme_requests_are_answered(tmp_path: Path) -> None:
    lines = [line.partition("#")[0] for block in _blocks("sh") for line in block.splitlines()]
    write_model(tmp_path / "models" / "toy")
    ids: dict[str, str] = {}
    with Studio(Settings(home=tmp_path, engine="fake", default_model="toy", devices=("cpu",))) as opened:
        client = TestClient(create_app(opened, ui=False), base_url="http://127.0.0.1:7860")
        for line in lines:
            _, url, *options = shlex.split(line)
            for word, known in ids.items():
                url = url.replace(word, known)
            posted = json.loads(options[1]) if "--json" in options else None

            answer = client.request("POST" if posted else "GET", url, json=posted)

            assert answer.is_success, answer.text
            if posted:
                ids["JOB"] = opened.wait(answer.json()["id"]).id
            elif "job_id" in url:
                ids["IMAGE"] = answer.json()["images"][0]["id"]
        assert answer.content == opened.gallery.get(ids["IMAGE"]).path.read_bytes()


def test_readme_names_files_that_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")

    named = re.findall(r"\]\(([\w./-]+)\)|`((?:studio|tests|benchmarks|pipelines)/[\w./-]+)`", text)

    missing = [a or b for a, b in named if not (ROOT / (a or b)).exists()]
    assert missing == []
