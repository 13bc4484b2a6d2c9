"""Defaults < studio.toml < STUDIO_* < flags, and sentences for what is wrong."""

from pathlib import Path
from typing import Any

import pytest

from studio import InvalidRequest, Settings, Studio
from studio.settings import default_home

LAYERS: list[tuple[dict[str, str], str, dict[str, Any], int]] = [
    ({}, "", {}, 7860),
    ({}, "port = 7001", {}, 7001),
    ({"STUDIO_PORT": "7002"}, "port = 7001", {}, 7002),
    ({"STUDIO_PORT": "7002"}, "port = 7001", {"port": 7003}, 7003),
    ({"STUDIO_PORT": "7002"}, "", {"port": None}, 7002),
    ({"STUDIO_PORT": ""}, "port = 7001", {}, 7001),
]


@pytest.mark.parametrize(("variables", "toml", "flags", "port"), LAYERS)
def test_flags_win_over_variables_over_the_file_over_defaults(
    variables: dict[str, str],
    toml: str,
    flags: dict[str, Any],
    port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "studio.toml").write_text(toml)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Settings.load(home=tmp_path, **flags).port == port


def test_without_anything_the_defaults_hold(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path)
    assert settings == Settings(home=tmp_path)
    assert (settings.host, settings.devices, settings.engine) == ("127.0.0.1", ("auto",), "diffusers")
    assert settings.outputs_dir == tmp_path / "outputs"
    assert settings.models_dir == tmp_path / "models"
    assert settings.database_url == f"sqlite:///{tmp_path / 'outputs' / 'studio.db'}"


def test_home_can_come_from_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path))
    (tmp_path / "studio.toml").write_text('outputs = "elsewhere"')
    assert Settings.load().outputs_dir == tmp_path / "elsewhere"
    assert Settings.load(outputs=tmp_path / "here").outputs_dir == tmp_path / "here"


def test_devices_in_a_variable_are_separated_by_commas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_DEVICES", "cuda:0, cuda:1")
    assert Settings.load(home=tmp_path).devices == ("cuda:0", "cuda:1")


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("port = 0", "setting port: input should be greater than or equal to 1, got 0; correct it in studio.toml, "),
        ("port = 'x'", "setting port: .*integer.*, got 'x'; correct it in studio.toml, STUDIO_PORT or --port"),
        ("engine = 'magic'", "setting engine: input should be 'diffusers' or 'fake', got 'magic'; correct it"),
        ("devices = []", r"setting devices: .* at least 1 item.*, got \[\]"),
        ("devices = ['cpu', 'cpu']", "setting devices: .*names cpu twice"),
        ("devices = ['cuda', 'cuda:0']", "setting devices: .*names cuda:0 twice"),
        ("devices = ['auto', 'cuda:0']", "setting devices: .*names others beside auto"),
        ("devices = ['../cpu']", "setting devices: .*got '../cpu'"),
        ("prot = 7000", "setting prot: .*got 7000; correct it in studio.toml, STUDIO_PROT or --prot"),
        ("drain_seconds = inf", "setting drain_seconds: .*finite.*, got inf"),
        ("restart_delay = nan", "setting restart_delay: .*, got nan"),
        ("max_worker_deaths = 0", "setting max_worker_deaths: .*STUDIO_MAX_WORKER_DEATHS or --max-worker-deaths"),
        ("port = ", "studio.toml is not valid TOML: "),
        (b"\xff\xfe", "studio.toml is not valid TOML: "),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(toml: str | bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "studio.toml").write_bytes(toml if isinstance(toml, bytes) else toml.encode())
    with pytest.raises(InvalidRequest, match=message):
        Settings.load(home=tmp_path)


def test_a_settings_file_that_cannot_be_read_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "studio.toml").mkdir()
    with pytest.raises(InvalidRequest, match=r"studio.toml cannot be read: "):
        Settings.load(home=tmp_path)


def test_settings_survive_the_journey_to_a_worker(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, devices=("cuda:0", "cpu"), outputs=tmp_path / "ünï code", drain_seconds=0)
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


def test_folders_start_at_the_file_that_names_them_or_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    (home / "studio.toml").write_text('outputs = "out"\nmodels = "~/models"')
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "user"))

    settings = Settings.load(home="../home")
    monkeypatch.chdir(tmp_path)

    assert settings.outputs_dir.resolve() == home / "out"
    assert settings.models_dir == tmp_path / "user" / "models"
    monkeypatch.setenv("STUDIO_OUTPUTS", "mine")
    assert Settings.load(home=home, models="~").outputs_dir == tmp_path / "mine"
    assert Settings.load(home=home, models="~").models_dir == tmp_path / "user"


def test_a_folder_of_nobody_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"~nobody-of-that-name/x: .*; write the folder out"):
        Settings.load(home=tmp_path, outputs="~nobody-of-that-name/x")


@pytest.mark.parametrize("name", ["what?", "50% #1", "ünï code", "a&b=c"])
def test_the_database_lies_in_outputs_whatever_that_is_called(name: str, settings: Settings) -> None:
    outputs = settings.home / name
    with Studio(settings.model_copy(update={"outputs": outputs})) as studio:
        assert studio.gallery.count() == 0
    assert (outputs / "studio.db").is_file()


def test_cuda_is_the_first_card(tmp_path: Path) -> None:
    assert Settings.load(home=tmp_path, devices="cuda,cuda:1").devices == ("cuda:0", "cuda:1")


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_a_checkout_is_its_own_home() -> None:
    assert (default_home() / "pyproject.toml").is_file()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:7860"),
        ("localhost", "http://localhost:7860"),
        ("::1", "http://[::1]:7860"),
        ("[::1]", "http://[::1]:7860"),
    ],
)
def test_an_address_of_colons_stands_in_brackets(host: str, url: str) -> None:
    assert Settings(host=host).url == url
