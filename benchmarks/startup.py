"""How long until something answers, against a process that imports everything. `python -m benchmarks.startup`.

Each figure is the median of several runs of fresh processes, taken in turn, so that a busy machine slows all alike.
The time on the processor stands beside the time on the clock: only the latter depends on what else the machine does.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.table import print_table

EVERYTHING = "import torch, gradio; from diffusers import StableDiffusionPipeline"
GIVE_UP_SECONDS = 300


@dataclass(frozen=True)
class Start:
    """One start of one process, in seconds."""

    clock: float
    processor: float


def run_once(*arguments: str) -> Start:
    """Run Python to its end."""
    before = os.times()
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    clock = time.perf_counter() - started
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return Start(clock, used)


def first_page() -> Start:
    """Start the server as a user does, pocket model and worker included, and ask for the page until it comes."""
    with tempfile.TemporaryDirectory(prefix="startup-") as outputs, closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        started = time.perf_counter()
        command = [sys.executable, "-m", "studio.cli", "serve", "--port", str(port), "--outputs", outputs]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            _wait_for_page(f"http://127.0.0.1:{port}/", server)
            clock = time.perf_counter() - started
            times = psutil.Process(server.pid).cpu_times()
            server.terminate()
        return Start(clock, times.user + times.system)


def _wait_for_page(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + GIVE_UP_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=GIVE_UP_SECONDS) as answer:
                if answer.status == 200:
                    return
        except urllib.error.URLError:
            time.sleep(0.02)
    raise SystemExit(f"the server gave no page (exit code {server.poll()}); start it by hand to see why")


MEASURES: Mapping[str, tuple[Callable[[], Start], float | None]] = {
    "`import studio`": (lambda: run_once("-c", "import studio"), 0.5),
    "`studio --help`": (lambda: run_once("-m", "studio.cli", "--help"), 0.5),
    "process start to first page": (first_page, 4.0),
    "importing everything (torch, diffusers, gradio)": (lambda: run_once("-c", EVERYTHING), None),
}
"""What is measured, how, and the target in seconds."""


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs: int = parser.parse_args().runs
    os.chdir(Path(__file__).parent.parent)
    taken: dict[str, list[Start]] = {name: [] for name in MEASURES}
    for _ in range(runs + 1):
        for name, (measure, _target) in MEASURES.items():
            taken[name].append(measure())
    medians = {
        name: (statistics.median(s.clock for s in starts[1:]), statistics.median(s.processor for s in starts[1:]))
        for name, starts in taken.items()
    }  # the first round only warms the disk's cache
    whole = next(reversed(medians.values()))
    rows = [
        (
            name,
            f"{clock:.2f} s",
            f"{processor:.2f} s",
            f"{clock / whole[0]:.2f}",
            "" if MEASURES[name][1] is None else f"≤ {MEASURES[name][1]} s",
        )
        for name, (clock, processor) in medians.items()
    ]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"Medians of {runs} runs; {os.cpu_count()} processors, load {load:.1f}\n")
    print_table(("what", "clock", "processor", "of everything", "target"), rows)


if __name__ == "__main__":
    main()
