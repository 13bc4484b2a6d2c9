"""Set the studio up and start it: `python launch.py`. Needs a Python and nothing else; knows nothing of the studio.

Everything goes into `.venv` beside this file. When that is up to date, this only hands its arguments over.
"""

import sys

# What stands above this line runs, and what stands below parses, on Pythons down to 3.6.
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit(
        f"The studio needs Python 3.11, 3.12 or 3.13; this is Python {sys.version_info[0]}.{sys.version_info[1]} "
        f"({sys.executable}).\n"
        "Install one of them from https://www.python.org/downloads/ or with your package manager, and run this file\n"
        "with it, for example: python3.12 launch.py     (Windows: py -3.12 launch.py)"
    )

import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HELP = """\
usage: python launch.py [--torch-index URL] [COMMAND ...]

  python launch.py                        start the studio on http://127.0.0.1:7860 (the same as `serve`)
  python launch.py --port 7861            the same with an option of `serve`
  python launch.py generate "a red boat"  any other command of the studio
  python launch.py test [PYTEST ARGS]     install what the tests need, and run them

The first run makes .venv beside this file and installs the versions listed in constraints.txt. A later run installs
only if pyproject.toml or constraints.txt changed. An interrupted run goes on where it stopped. To start afresh,
delete .venv. Nothing is installed outside it, and nothing about you or this machine is sent anywhere.

  --torch-index URL   take torch from this package index, for a GPU that the standard build does not serve, for example
                      https://download.pytorch.org/whl/cu126 (older NVIDIA drivers) or .../whl/xpu (Intel); for AMD see
                      https://pytorch.org/get-started/locally/. STUDIO_TORCH_INDEX in the environment does the same.
                      Without it: the CPU build on Linux without an NVIDIA driver, the CUDA build on Windows with one,
                      and PyPI's build elsewhere. A torch already in .venv that is new enough is kept.
"""
VENV = ".venv"
LOG = ".venv/launch.log"
STAMP = ".venv/launch.json"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CUDA_INDEX = "https://download.pytorch.org/whl/cu130"
PROBE_SECONDS = 4
TAIL_LINES = 15
GIGABYTE = 10**9
# Gigabytes (in .venv, downloaded), measured on Linux, with some air.
SIZE_WITH_CUDA = (6.5, 3.5)
SIZE_WITHOUT_CUDA = (2.3, 0.6)
SIZE_BESIDE_TORCH = (1.0, 0.4)
# What pip or venv prints, and what to do about it; the first that matches counts.
CURES = {
    r"No space left on device|Errno 28\b|WinError 112\b|not enough space": (
        "The disk is full. Free some space (TMPDIR names the folder for downloads), then run this again."
    ),
    r"Permission denied|Errno 13\b|WinError (5|32)\b|Read-only file system": (
        "A file could not be written. Put this folder where you may write, close programs that use .venv, and do not "
        "mix runs as administrator with runs as yourself (deleting .venv starts afresh)."
    ),
    r"ensurepip is not\s+available|No module named '?(venv|ensurepip)": (
        "This Python lacks its venv module. On Debian or Ubuntu: sudo apt install python3-venv. Then run this again."
    ),
    r"CERTIFICATE_VERIFY_FAILED|SSLError": (
        "The package index's certificate was not accepted. Check this machine's clock; behind a company proxy, name "
        "its certificate: PIP_CERT=/path/to/ca.pem."
    ),
    r"NameResolution|name resolution|getaddrinfo failed|Name or service not known|new connection|[Tt]imed out|"
    r"ProxyError|Connection (refused|reset|aborted|broken)|Network is unreachable|Max retries|IncompleteRead": (
        "The package index could not be reached. Check the network (behind a proxy: set HTTPS_PROXY; with a mirror: "
        "set PIP_INDEX_URL), then run this again: it goes on where it stopped."
    ),
    r"DO NOT MATCH THE HASHES|BadZipFile|Wheel .* is invalid": (
        "A download arrived damaged. Run this again with PIP_NO_CACHE_DIR=1 in the environment."
    ),
    r"No matching distribution found|is not a supported wheel|ResolutionImpossible|conflicting dependencies": (
        "A pinned version is not to be had. Either it has no build for this system (supported are 64-bit Linux and "
        "Windows, and macOS on Apple silicon; with --torch-index, the index may lack it), or something else that pip "
        "was told asks for another version: look at `pip config list` and at PIP_* in the environment."
    ),
    r"subprocess-exited-with-error|Failed (building|to build)|Microsoft Visual C\+\+": (
        "A package had to be compiled here and could not be: it has no build for this system. Try Python 3.12."
    ),
}


class Problem(Exception):
    """A failure told in sentences, with the way out."""


@dataclass(frozen=True)
class Order:
    """What the command line asks: what to set up, and what to start then."""

    arguments: tuple[str, ...]
    torch_index: str | None = None

    @property
    def extra(self) -> str:
        return "test" if self.arguments[0] == "test" else ""

    def command(self, root: Path) -> list[str]:
        """Return the program that follows, and its arguments."""
        if self.extra:
            return [str(program(root, "python")), "-m", "pytest", *self.arguments[1:]]
        return [str(program(root, "studio")), *self.arguments]


@dataclass(frozen=True)
class Stamp:
    """What is installed: which extras ("" is the studio itself), of what, and torch from which index."""

    fingerprint: str = ""
    extras: Sequence[str] = ()
    torch_index: str | None = None

    @classmethod
    def read(cls, root: Path) -> "Stamp":
        try:
            return cls(**json.loads((root / STAMP).read_text()))
        except (FileNotFoundError, TypeError, ValueError):
            return cls()

    def write(self, root: Path) -> None:
        (root / STAMP).write_text(json.dumps(asdict(self)))


def read_order(arguments: Sequence[str], environ: Mapping[str, str]) -> Order:
    """Split this file's own option from what is handed over."""
    torch_index = environ.get("STUDIO_TORCH_INDEX") or None
    rest = list(arguments)
    if rest and rest[0].partition("=")[0] == "--torch-index":
        torch_index = rest.pop(0).partition("=")[2] or (rest.pop(0) if rest else None)
        if torch_index is None:
            raise Problem("--torch-index needs the address of a package index; see python launch.py --help")
    if not rest or (rest[0].startswith("-") and rest[0] != "--version"):  # options alone are those of `serve`
        rest = ["serve", *rest]
    return Order(arguments=tuple(rest), torch_index=torch_index)


def program(root: Path, name: str) -> Path:
    """Return the path of a program in the environment."""
    return root / VENV / ("Scripts" if os.name == "nt" else "bin") / (f"{name}.exe" if os.name == "nt" else name)


def records(root: Path) -> list[Path]:
    """Return the folders in which pip keeps what it knows of each installed package."""
    return [*(root / VENV).glob("lib/python3.*/site-packages/*.dist-info"), *(root / VENV).glob("Lib/*/*.dist-info")]


def fingerprint(root: Path) -> str:
    """Return a hash of all that an installation follows from."""
    paths = [root / "pyproject.toml", root / "constraints.txt", root / VENV / "pyvenv.cfg"]
    parts = [str(root).encode(), *(path.read_bytes() for path in paths if path.exists())]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def is_ready(root: Path, *, order: Order) -> bool:
    """Tell whether an earlier run completed what is asked and nothing changed since."""
    stamp = Stamp.read(root)
    return (
        order.extra in stamp.extras
        and order.torch_index in (None, stamp.torch_index)
        and stamp.fingerprint == fingerprint(root)
        and all(program(root, name).exists() for name in ("python", "studio"))
    )


def installed_torch(root: Path) -> str | None:
    """Return the version of torch in the environment, such as "2.13.0+cpu"."""
    return next((path.stem.partition("-")[2] for path in records(root) if path.name.startswith("torch-")), None)


def keeps_torch(root: Path, *, order: Order) -> bool:
    """Tell whether the installed torch is within the project's range and from the index that was asked for."""
    installed = installed_torch(root)
    floor = re.search(r'"torch>=([\d.]+)"', (root / "pyproject.toml").read_text())
    if installed is None or floor is None or order.torch_index not in (None, Stamp.read(root).torch_index):
        return False
    numbers = [[int(part) for part in re.findall(r"\d+", text)] for text in (installed.partition("+")[0], floor[1])]
    return numbers[0] >= numbers[1]


def has_nvidia() -> bool:
    """Tell whether an NVIDIA driver is on this machine."""
    signs = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/usr/lib/wsl/lib/nvidia-smi")
    return shutil.which("nvidia-smi") is not None or any(Path(sign).exists() for sign in signs)


def is_reachable(index: str) -> bool:
    """Tell whether a package index answers; asks it nothing but its page for torch."""
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{index}/torch/", method="HEAD"), timeout=PROBE_SECONDS):
            return True
    except (OSError, ValueError):
        return False


def default_index(platform: str, *, nvidia: bool) -> str | None:
    """Return the index whose torch suits this machine better than PyPI's, if there is one."""
    if platform == "linux":
        return None if nvidia else CPU_INDEX
    return CUDA_INDEX if platform == "win32" and nvidia else None


def brings_cuda(index: str | None, platform: str) -> bool:
    """Tell whether torch from an index (None: PyPI) comes with gigabytes of libraries for graphics cards."""
    if index is None:
        return platform == "linux"
    return platform != "darwin" and not index.rstrip("/").endswith("/cpu")


def diagnose(output: str) -> str:
    """Return the sentence that belongs to the output of a failed pip or venv."""
    unknown = "The reason is not one that this program knows; the last lines of the log may tell."
    return next((cure for pattern, cure in CURES.items() if re.search(pattern, output)), unknown)


def say(text: str, *, end: str = "\n") -> None:
    """Speak on standard error: standard output belongs to the command that follows."""
    print(text, end=end, file=sys.stderr, flush=True)


def run_phase(title: str, command: Sequence[str], *, log: Path, lock: int) -> None:
    """Run one command with its output in the log, and show one line with the time it takes.

    `lock` is the lock's file descriptor: a pip that outlives this process holds on to it until it is done.
    """
    environ = {name: value for name, value in os.environ.items() if name not in ("PIP_TARGET", "PIP_PREFIX")}
    environ |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_USER": "0"}
    started = time.monotonic()
    live = "\r" if sys.stderr.isatty() else ""
    with log.open("ab") as output:
        offset = output.tell()
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environ,
            pass_fds=() if os.name == "nt" else (lock,),
        )
        try:
            while child.poll() is None:
                if live:
                    say(f"{live}  {title} ... {time.monotonic() - started:.0f} s", end="")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=0.5)
        finally:
            child.terminate()
            child.wait()
    say(f"{live}  {title} ... {time.monotonic() - started:.0f} s")
    if child.returncode:
        text = log.read_bytes()[offset:].decode(errors="replace")
        cure = "It was killed, perhaps for want of memory." if child.returncode == -9 else diagnose(text)
        tail = "\n".join(f"    {line}" for line in text.splitlines()[-TAIL_LINES:])
        raise Problem(f"{title} failed. {cure}\n\n{tail}\n\nThe whole log: {log}")


def check_disk(root: Path, gigabytes: tuple[float, float]) -> None:
    """Refuse to begin what would fill a disk: so much goes into .venv, and so much into the folder for downloads."""
    sizes = dict(zip((root, Path(tempfile.gettempdir())), gigabytes, strict=True))
    for folder in sizes:
        needed = sum(size for other, size in sizes.items() if other.stat().st_dev == folder.stat().st_dev)
        free = shutil.disk_usage(folder).free / GIGABYTE
        if free < needed:
            raise Problem(
                f"The disk that holds {folder} has {free:.1f} GB free; the installation needs about {needed:.1f} GB. "
                "Free some space there, then run this again."
            )


@contextlib.contextmanager
def locked(root: Path) -> Iterator[int]:
    """Let one installation at a time into this folder; the kernel drops the lock of a process that dies."""
    with (root / "pyproject.toml").open("r+b") as file:
        for attempt in itertools.count():
            if _lock(file.fileno()):
                break
            if attempt == 0:
                say("Another launch.py is installing here; waiting for it ...")
            time.sleep(0.5)
        yield file.fileno()


def _lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, 2**30, os.SEEK_SET)  # beyond the end: on Windows a locked byte cannot be read
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def make_environment(root: Path, *, lock: int) -> None:
    """Make .venv unless a working one is there, and remove what an interrupted pip left half-written."""
    code = "import pip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))"
    python = program(root, "python")
    if not python.exists() or subprocess.run([python, "-I", "-c", code], capture_output=True, check=False).returncode:
        descriptor, name = tempfile.mkstemp(prefix="studio-venv-", suffix=".log")  # .venv is cleared meanwhile
        os.close(descriptor)
        command = [sys.executable, "-m", "venv", "--clear", str(root / VENV)]
        run_phase("Making the environment .venv", command, log=Path(name), lock=lock)
        Path(name).unlink()
    for record in records(root):
        if not (record / "INSTALLER").exists():  # pip writes it after all other files of a package
            shutil.rmtree(record)


def prepare(root: Path, *, order: Order) -> None:
    """Bring .venv up to date with the project; quick and silent when it is."""
    if is_ready(root, order=order):
        return
    with locked(root) as lock:
        if not is_ready(root, order=order):
            started = time.monotonic()
            say(f"Setting the studio up in {root / VENV} (later starts skip this)")
            install(root, order=order, lock=lock)
            say(f"Ready after {time.monotonic() - started:.0f} s.")


def install(root: Path, *, order: Order, lock: int) -> None:
    """Make the environment, install torch unless a suitable one is there, then everything else."""
    make_environment(root, lock=lock)
    constraints = (root / "constraints.txt").read_text()
    before = Stamp.read(root)
    index = order.torch_index or before.torch_index
    pip = [str(program(root, "python")), "-I", "-m", "pip", "install", "--progress-bar=off"]
    if keeps_torch(root, order=order):
        check_disk(root, SIZE_BESIDE_TORCH)
    else:
        best = order.torch_index or default_index(sys.platform, nvidia=has_nvidia())
        index = best if order.torch_index or (best and is_reachable(best)) else None
        size = SIZE_WITH_CUDA if brings_cuda(index, sys.platform) else SIZE_WITHOUT_CUDA
        if best and not index:
            say(f"{best} cannot be reached, so torch comes from PyPI: about {size[1]} GB in all.")
        check_disk(root, size)
        # Only torch itself comes from there; what it needs comes with the studio's own libraries.
        source = (
            ["--index-url", index, "--no-deps", "--force-reinstall"] if index else ["-c", str(root / "constraints.txt")]
        )
        pinned = re.findall(r"(?m)^torch==\S+", constraints)
        run_phase("Installing torch (a large download)", [*pip, *pinned, *source], log=root / LOG, lock=lock)
        Stamp(torch_index=index).write(root)
    pins = root / VENV / "launch-constraints.txt"
    version = (installed_torch(root) or "").partition("+")[0]
    pins.write_text(re.sub(r"(?m)^torch==.*$", f"torch=={version}", constraints))
    source = ["--extra-index-url", order.torch_index] if order.torch_index else []
    title = "Installing the studio and its libraries" + (", and what the tests need" if order.extra else "")
    target = f"{root}[{order.extra}]" if order.extra else str(root)
    run_phase(title, [*pip, "-c", str(pins), *source, "-e", target], log=root / LOG, lock=lock)
    now = fingerprint(root)
    extras = {"", order.extra, *(before.extras if before.fingerprint == now else ())}
    Stamp(fingerprint=now, extras=sorted(extras), torch_index=index).write(root)


def start(command: Sequence[str]) -> int:
    """Become the command, so that its signals and exit code are its own."""
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONPATH")}
    if os.name != "nt":
        os.execve(command[0], list(command), environ)
    child = subprocess.Popen(command, env=environ)
    while True:
        with contextlib.suppress(KeyboardInterrupt):  # the child gets its own
            return child.wait()


def main(arguments: Sequence[str]) -> int:
    """Run; return the exit code."""
    root = Path(__file__).resolve().parent
    try:
        if arguments[:1] in (["-h"], ["--help"]):
            print(HELP, flush=True)
            return start([str(program(root, "studio")), "--help"]) if program(root, "studio").exists() else 0
        order = read_order(arguments, os.environ)
        prepare(root, order=order)
        if order.extra:
            os.chdir(root)
        return start(order.command(root))
    except Problem as problem:
        say(f"\n{problem}")
        return 1
    except BrokenPipeError:  # who reads our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        say(f"\n{diagnose(str(error))}\n    {error}")
        return 1
    except KeyboardInterrupt:
        say("\nStopped. Run this again to go on.")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
