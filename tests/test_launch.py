"""`launch.py`: what it decides, what it says when something fails, and one real installation of a tiny project."""

import ast
import base64
import hashlib
import http.server
import os
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

import launch

LAUNCH = Path(launch.__file__)
CPU = launch.CPU_INDEX


# --- What the user asked -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], launch.Order(("serve",))),
        (["generate", "a boat", "--seed", "7"], launch.Order(("generate", "a boat", "--seed", "7"))),
        (["--torch-index", CPU], launch.Order(("serve",), CPU)),
        ([f"--torch-index={CPU}", "doctor"], launch.Order(("doctor",), CPU)),
        (["generate", "--torch-index", "x"], launch.Order(("generate", "--torch-index", "x"))),
        (["--port", "8000"], launch.Order(("serve", "--port", "8000"))),
        (["--torch-index", CPU, "--listen"], launch.Order(("serve", "--listen"), CPU)),
        (["--version"], launch.Order(("--version",))),
    ],
)
def test_only_a_leading_torch_index_is_ours(arguments: list[str], expected: launch.Order) -> None:
    assert launch.read_order(arguments, {}) == expected


def test_who_reads_only_the_first_lines_hears_of_no_trouble() -> None:
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, str(LAUNCH), "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ
    )
    assert process.stdout is not None
    process.stdout.close()

    assert process.communicate(timeout=60)[1] == b""


def test_environment_names_the_torch_index_and_the_option_wins() -> None:
    environ = {"STUDIO_TORCH_INDEX": "https://example.org/a"}
    assert launch.read_order(["doctor"], environ).torch_index == "https://example.org/a"
    assert launch.read_order(["--torch-index", CPU], environ).torch_index == CPU


def test_torch_index_without_address_is_refused() -> None:
    with pytest.raises(launch.Problem, match="needs the address"):
        launch.read_order(["--torch-index"], {})


def test_arguments_become_the_command(tmp_path: Path) -> None:
    studio, python = (str(launch.program(tmp_path, name)) for name in ("studio", "python"))
    assert launch.Order(("generate", "a boat")).command(tmp_path) == [studio, "generate", "a boat"]
    assert launch.Order(("test", "-k", "jobs")).command(tmp_path) == [python, "-m", "pytest", "-k", "jobs"]
    assert launch.Order(("test",)).extra == "test"
    assert launch.Order(("serve",)).extra == ""


# --- Which Python --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [(3, 6, 15), (3, 10, 13), (3, 14, 0)])
def test_unsupported_python_is_refused_in_a_sentence(version: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(SystemExit, match=rf"needs Python 3.11, 3.12 or 3.13; this is Python 3\.{version[1]} "):
        runpy.run_path(str(LAUNCH))


def test_old_pythons_can_parse_the_file() -> None:
    ast.parse(LAUNCH.read_text(), feature_version=(3, 7))


# --- Which torch ---------------------------------------------------------------------------------------------------


def make_checkout(root: Path, *, torch: str | None = None) -> Path:
    """A checkout whose environment has this torch and nothing else."""
    library = root / ".venv" / "lib" / "python3.11" / "site-packages"
    library.mkdir(parents=True)
    if torch:
        (library / f"torch-{torch}.dist-info").mkdir()
    (root / "pyproject.toml").write_text('dependencies = ["torch>=2.10"]\n')
    (root / "constraints.txt").write_text("torch==2.13.0\n")
    return root


@pytest.mark.parametrize(
    ("installed", "kept"),
    [
        (None, False),
        ("2.9.1+cu128", False),
        ("1.13.1", False),
        ("2.10.0", True),
        ("2.13.0+cpu", True),
        ("2.14.1+rocm7.1", True),
        ("3.0.0", True),
    ],
)
def test_torch_in_the_projects_range_is_kept(installed: str | None, kept: bool, tmp_path: Path) -> None:
    root = make_checkout(tmp_path, torch=installed)
    assert launch.installed_torch(root) == installed
    assert launch.keeps_torch(root, order=launch.Order(("serve",))) is kept


def test_another_index_asked_for_replaces_torch(tmp_path: Path) -> None:
    root = make_checkout(tmp_path, torch="2.13.0+cpu")
    launch.Stamp(torch_index=CPU).write(root)
    assert launch.keeps_torch(root, order=launch.Order(("serve",), CPU))
    assert not launch.keeps_torch(root, order=launch.Order(("serve",), launch.CUDA_INDEX))


@pytest.mark.parametrize(
    ("platform", "nvidia", "index"),
    [
        ("linux", False, CPU),
        ("linux", True, None),
        ("win32", False, None),
        ("win32", True, launch.CUDA_INDEX),
        ("darwin", False, None),
    ],
)
def test_index_follows_from_the_machine(platform: str, nvidia: bool, index: str | None) -> None:
    assert launch.default_index(platform, nvidia=nvidia) == index


def test_reachable_is_what_answers() -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200 if self.path == "/whl/cpu/torch/" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        answers = [launch.is_reachable(f"{address}/whl/cpu"), launch.is_reachable(f"{address}/elsewhere")]
        server.shutdown()
        thread.join()
    assert answers == [True, False]
    assert not launch.is_reachable(address)


# --- What is up to date --------------------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    root = make_checkout(tmp_path, torch="2.13.0")
    (root / ".venv" / "pyvenv.cfg").write_text("version = 3.11.7\n")
    for name in ("python", "studio"):
        program = launch.program(root, name)
        program.parent.mkdir(exist_ok=True)
        program.touch()
    launch.Stamp(fingerprint=launch.fingerprint(root), extras=("",), torch_index=CPU).write(root)
    return root


@pytest.mark.parametrize(
    ("order", "ready"),
    [
        (launch.Order(("serve",)), True),
        (launch.Order(("serve",), CPU), True),
        (launch.Order(("serve",), launch.CUDA_INDEX), False),
        (launch.Order(("test",)), False),
    ],
)
def test_ready_is_what_was_completed(order: launch.Order, ready: bool, installed: Path) -> None:
    assert launch.is_ready(installed, order=order) is ready


@pytest.mark.parametrize("path", ["pyproject.toml", "constraints.txt", ".venv/pyvenv.cfg"])
def test_a_change_asks_for_an_installation(path: str, installed: Path) -> None:
    (installed / path).write_text("changed")
    assert not launch.is_ready(installed, order=launch.Order(("serve",)))


@pytest.mark.parametrize("name", ["python", "studio"])
def test_a_missing_program_asks_for_an_installation(name: str, installed: Path) -> None:
    launch.program(installed, name).unlink()
    assert not launch.is_ready(installed, order=launch.Order(("serve",)))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"unknown": 1}'])
def test_a_damaged_stamp_asks_for_an_installation(text: str, installed: Path) -> None:
    (installed / launch.STAMP).write_text(text)
    assert not launch.is_ready(installed, order=launch.Order(("serve",)))


def test_a_moved_folder_asks_for_an_installation(installed: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(installed, tmp_path / "moved")
    assert not launch.is_ready(moved, order=launch.Order(("serve",)))


# --- What it says when something fails -----------------------------------------------------------------------------

LOGS = [
    ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "The disk is full"),
    ("ERROR: Could not install packages due to an OSError: [Errno 13] Permission denied: '/x'", "could not be written"),
    ("OSError: [WinError 32] The process cannot access the file: 'studio.exe'", "close programs that use .venv"),
    ("The virtual environment was not created successfully because ensurepip is not\navailable.", "python3-venv"),
    (
        "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]')): Max retries exceeded",
        "certificate was not accepted",
    ),
    (
        "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError: Failed to establish a new "
        "connection: [Errno -3] Temporary failure in name resolution': /simple/torch/\n"
        "ERROR: No matching distribution found for torch==2.13.0",
        "could not be reached",
    ),
    ("pip._vendor.urllib3.exceptions.ReadTimeoutError: HTTPSConnectionPool: Read timed out.", "could not be reached"),
    ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "PIP_NO_CACHE_DIR=1"),
    ("ERROR: ResolutionImpossible: for help visit https://pip.pypa.io/", "A pinned version is not to be had"),
    ("ERROR: No matching distribution found for torch==2.13.0", "A pinned version is not to be had"),
    ("error: subprocess-exited-with-error\n  Failed to build wheel for scipy", "had to be compiled"),
    ("Segmentation fault", "not one that this program knows"),
]


@pytest.mark.parametrize(("log", "sentence"), LOGS)
def test_failures_become_sentences(log: str, sentence: str) -> None:
    assert sentence in launch.diagnose(log)


def test_every_cure_is_tried_above() -> None:
    assert set(launch.CURES.values()) < {launch.diagnose(log) for log, _ in LOGS}


@pytest.mark.parametrize(
    ("index", "platform", "brings"),
    [
        (None, "linux", True),
        (None, "win32", False),
        (None, "darwin", False),
        (CPU, "linux", False),
        (f"{CPU}/", "win32", False),
        (launch.CUDA_INDEX, "win32", True),
        ("https://download.pytorch.org/whl/rocm7.1", "linux", True),
    ],
)
def test_the_size_follows_from_what_is_installed(index: str | None, platform: str, brings: bool) -> None:
    assert launch.brings_cuda(index, platform) is brings


def test_the_log_of_a_failed_environment_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho ensurepip is not available\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    with (tmp_path / "lock").open("w") as lock, pytest.raises(launch.Problem, match="lacks its venv") as raised:
        launch.make_environment(tmp_path, lock=lock.fileno())

    log = Path(str(raised.value).rpartition("The whole log: ")[2])
    assert log.read_text() == "ensurepip is not available\n"


def test_short_disk_is_refused_before_anything_is_downloaded(tmp_path: Path) -> None:
    launch.check_disk(tmp_path, (0.0, 0.0))
    with pytest.raises(launch.Problem, match=r"has [\d.]+ GB free; the installation needs about \d+\.\d GB"):
        launch.check_disk(tmp_path, (1e6, 1e6))


def run_phase(code: str, *, log: Path) -> None:
    with log.with_suffix(".lock").open("w") as lock:
        launch.run_phase("Phase", [sys.executable, "-c", code], log=log, lock=lock.fileno())


def test_a_phase_is_one_line_and_its_output_goes_to_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_phase("print('chatter')", log=tmp_path / "log")
    out, err = capsys.readouterr()
    assert (out, (tmp_path / "log").read_text()) == ("", "chatter\n")
    assert err == "  Phase ... 0 s\n"


def test_a_failed_phase_shows_only_its_own_tail(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("earlier: Permission denied\n")
    with pytest.raises(launch.Problem, match="The disk is full") as raised:
        run_phase("raise SystemExit('No space left on device')", log=tmp_path / "log")
    assert "    No space left on device" in str(raised.value)
    assert "earlier" not in str(raised.value)


def test_a_killed_phase_speaks_of_memory(tmp_path: Path) -> None:
    with pytest.raises(launch.Problem, match="memory"):
        run_phase(f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})", log=tmp_path / "log")


def test_one_installation_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_checkout(tmp_path)
    entered = threading.Event()

    def second() -> None:
        with launch.locked(root):
            entered.set()

    with launch.locked(root):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(timeout=1)
    thread.join(timeout=10)
    assert entered.is_set()
    assert capsys.readouterr().err.count("Another launch.py is installing here") == 1


# --- A real installation, of a tiny project, without a network -----------------------------------------------------

STUDIO = """
import sys

def main():
    print("studio", *sys.argv[1:])
    sys.exit(7)
"""
PYTEST = "import sys; print('pytest', *sys.argv[1:]); sys.exit(5)"
# A build backend that needs nothing: it wraps a path to the checkout and the `studio` script into a wheel.
BACKEND = """
import os, sys, zipfile

INFO = "tiny_studio-1.dist-info"
METADATA = "Metadata-Version: 2.1\\nName: tiny-studio\\nVersion: 1\\nRequires-Dist: torch>=2.10\\n"
METADATA += "Provides-Extra: test\\n"
METADATA += "Requires-Dist: pytest; extra == 'test'\\n"

def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "tiny_studio-1-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        wheel.writestr("tiny_studio.pth", os.getcwd())
        wheel.writestr(f"{INFO}/METADATA", METADATA)
        wheel.writestr(f"{INFO}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{INFO}/entry_points.txt", "[console_scripts]\\nstudio = tiny_studio:main\\n")
        wheel.writestr(f"{INFO}/RECORD", "")
    return name

build_wheel = build_editable
"""
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "tiny-studio"
version = "1"
dependencies = ["torch>=2.10"]
optional-dependencies = { test = ["pytest"] }
scripts = { studio = "tiny_studio:main" }
"""


def write_wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> None:
    info = f"{name}-{version}.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{path},sha256={digest},{len(text)}\n"
            wheel.writestr(path, text)
        wheel.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")


class Checkout:
    """A tiny project beside a copy of launch.py, and the folder of wheels that stands for the package index."""

    def __init__(self, root: Path, *, wheels: Path) -> None:
        self.root = root
        root.mkdir()
        shutil.copy(LAUNCH, root)
        (root / "tiny_studio.py").write_text(STUDIO)
        (root / "backend.py").write_text(BACKEND)
        (root / "pyproject.toml").write_text(PROJECT)
        (root / "constraints.txt").write_text("torch==2.13.0\npytest==9.0.0\n")
        for version in ("2.13.0", "2.99.0"):
            write_wheel(wheels, "torch", version, {"torch/__init__.py": f"version = {version!r}"})
        write_wheel(wheels, "pytest", "9.0.0", {"pytest/__init__.py": "", "pytest/__main__.py": PYTEST})
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
        self.environ |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run launch.py from another folder than its own."""
        command = [sys.executable, str(self.root / "launch.py"), *arguments]
        return subprocess.run(
            command, cwd=self.root.parent, env=self.environ | environ, capture_output=True, text=True, check=False
        )

    @property
    def torch(self) -> Path:
        return next((self.root / ".venv").glob("lib/python3.*/site-packages/torch-*.dist-info"))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout(
        tmp_path_factory.mktemp("checkout") / "a folder with spaces", wheels=tmp_path_factory.mktemp("wheels")
    )


def test_the_first_run_installs_and_hands_over(checkout: Checkout) -> None:
    shutil.rmtree(checkout.root / ".venv", ignore_errors=True)
    done = checkout.run("generate", "a red boat", "--seed", "7")
    assert (done.returncode, done.stdout) == (7, "studio generate a red boat --seed 7\n"), done.stderr
    assert [line.rpartition(" ... ")[0].strip() for line in done.stderr.splitlines() if " ... " in line] == [
        "Making the environment .venv",
        "Installing torch (a large download)",
        "Installing the studio and its libraries",
    ]
    assert checkout.torch.name == "torch-2.13.0.dist-info"


def test_the_second_run_is_silent_and_quick(checkout: Checkout) -> None:
    checkout.run("serve")
    started = time.monotonic()
    done = checkout.run()
    assert (done.returncode, done.stdout, done.stderr) == (7, "studio serve\n", "")
    assert time.monotonic() - started < 2  # 0.2 s on an idle machine


def test_the_tests_run_with_their_extra(checkout: Checkout) -> None:
    checkout.run("serve")
    done = checkout.run("test", "-k", "jobs")
    assert (done.returncode, done.stdout) == (5, "pytest -k jobs\n"), done.stderr
    assert "Installing torch" not in done.stderr
    assert checkout.run("serve").stderr == checkout.run("test").stderr == ""


def test_a_changed_pin_installs_again_but_keeps_torch(checkout: Checkout) -> None:
    checkout.run("serve")
    constraints = checkout.root / "constraints.txt"
    before = constraints.read_text()
    constraints.write_text(before.replace("2.13.0", "2.99.0"))
    done = checkout.run("serve")
    constraints.write_text(before)
    assert done.returncode == 7, done.stderr
    assert "Installing the studio" in done.stderr
    assert checkout.torch.name == "torch-2.13.0.dist-info"


def test_what_an_interrupted_pip_left_is_repaired(checkout: Checkout) -> None:
    checkout.run("serve")
    (checkout.torch / "INSTALLER").unlink()
    (checkout.torch.parent / "torch" / "__init__.py").unlink()
    (checkout.root / launch.STAMP).unlink()
    done = checkout.run("serve")
    assert done.returncode == 7, done.stderr
    assert "Making" not in done.stderr
    assert (checkout.torch.parent / "torch" / "__init__.py").exists()


def test_a_build_that_cannot_be_had_is_told(checkout: Checkout) -> None:
    checkout.run("serve")
    shutil.rmtree(checkout.torch)
    (checkout.root / launch.STAMP).unlink()
    done = checkout.run("serve", https_proxy="http://127.0.0.1:9")
    assert done.returncode == 7, done.stderr
    if launch.default_index(sys.platform, nvidia=launch.has_nvidia()):
        assert "cannot be reached, so torch comes from PyPI: about" in done.stderr


def test_an_environment_without_pip_is_made_anew(checkout: Checkout) -> None:
    checkout.run("serve")
    shutil.rmtree(checkout.torch.parent / "pip")
    (checkout.root / launch.STAMP).unlink()
    done = checkout.run("serve")
    assert done.returncode == 7, done.stderr
    assert "Making the environment" in done.stderr


def test_a_failure_is_told_without_a_traceback(checkout: Checkout) -> None:
    checkout.run("serve")
    launch.Stamp().write(checkout.root)
    done = checkout.run(
        "test", PIP_FIND_LINKS="", PIP_NO_INDEX="0", PIP_INDEX_URL="http://127.0.0.1:9/", PIP_RETRIES="1"
    )
    assert done.returncode == 1
    assert "failed. The package index could not be reached." in done.stderr
    assert "Traceback" not in done.stderr
    assert not launch.Stamp.read(checkout.root).extras  # nothing counts as complete
    assert checkout.run("serve").returncode == 7


def test_a_folder_that_cannot_be_written_is_told_without_a_traceback(tmp_path: Path) -> None:
    shutil.copy(LAUNCH, tmp_path)
    (tmp_path / "pyproject.toml").mkdir()
    done = subprocess.run([sys.executable, tmp_path / "launch.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_help_explains_itself_before_anything_is_installed(tmp_path: Path) -> None:
    shutil.copy(LAUNCH, tmp_path)
    done = subprocess.run(
        [sys.executable, tmp_path / "launch.py", "--help"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "--torch-index" in done.stdout
    assert not (tmp_path / ".venv").exists()
