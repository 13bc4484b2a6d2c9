"""What an installation brings: dependencies pinned, within their range and freely licensed; every data file shipped."""

import importlib
import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = [Requirement(text) for text in PROJECT["dependencies"]]
PINNED_EXTRAS = [Requirement(text) for extra in ("test", "dev") for text in EXTRAS[extra]]


def read_pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pins}


PINS = read_pins()


def required_everywhere(requirements: list[Requirement]) -> dict[str, list[Requirement]]:
    """Everything that these bring along on this platform, as far as it is installed here."""
    found: dict[str, list[Requirement]] = {}
    todo = list(requirements)
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if requirement in found.setdefault(name, []):
            continue
        found[name].append(requirement)
        for text in importlib.metadata.requires(name) or []:
            further = Requirement(text)
            extras = requirement.extras or {""}
            if further.marker is None or any(further.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(further)
    return found


@pytest.mark.parametrize("requirement", DIRECT + PINNED_EXTRAS, ids=str)
def test_direct_dependencies_are_pinned_within_their_range(requirement: Requirement) -> None:
    assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)])


def test_everything_that_is_brought_along_is_pinned() -> None:
    brought = required_everywhere(DIRECT + [Requirement(text) for text in EXTRAS["test"]])
    optional = {name for name in brought if name.startswith(("nvidia-", "cuda-"))} | {"triton"}
    assert set(brought) - optional <= set(PINS)
    for name in set(brought) - optional:
        for requirement in brought[name]:
            assert requirement.specifier.contains(PINS[name], prereleases=True), requirement


def test_pins_name_public_versions_once() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) == len(PINS)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line) for line in lines)
    assert not [name for name in PINS if name.startswith(("nvidia-", "cuda-")) or name == "triton"]


@pytest.mark.parametrize(
    ("name", "flawed"),
    [
        ("torch", "2.9.1"),  # CVE-2026-24747: memory corruption while reading weights
        ("pillow", "12.2.0"),  # CVE-2026-54058 and others: decoders
    ],
)
def test_versions_with_known_flaws_are_out_of_range(name: str, flawed: str) -> None:
    requirement = next(item for item in DIRECT if item.name == name)
    assert flawed not in requirement.specifier


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda requirement: requirement.name)
def test_direct_dependencies_are_permissively_licensed(requirement: Requirement) -> None:
    metadata = importlib.metadata.metadata(requirement.name)
    classifiers = [text for text in metadata.get_all("Classifier") or [] if text.startswith("License ::")]
    named = (metadata.get("License") or "").partition("\n")[0]  # some put the whole text there
    licences = metadata.get("License-Expression") or f"{named} {classifiers}"
    assert re.search(r"Apache|MIT|BSD|HPND|ISC", licences), licences[:200]
    assert not re.search(r"\b[AL]?GPL|GNU ", licences), licences[:200]


def test_our_own_licence_is_apache() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0" in text
    assert "END OF TERMS AND CONDITIONS" in text


@pytest.mark.parametrize("package", ["studio", "pipelines"])
def test_every_data_file_is_shipped(package: str) -> None:
    folder = ROOT / package
    shipped = {
        path for pattern in PYPROJECT["tool"]["setuptools"]["package-data"][package] for path in folder.glob(pattern)
    }
    data = {path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert data <= shipped


def test_every_folder_with_code_is_a_package() -> None:
    folders = {path.parent for package in ("studio", "pipelines") for path in (ROOT / package).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_the_console_script_exists() -> None:
    module, _, function = PROJECT["scripts"]["studio"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_launch_and_project_agree_on_the_pythons() -> None:
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    assert "if not (3, 11) <= sys.version_info[:2] <= (3, 13):" in (ROOT / "launch.py").read_text()
