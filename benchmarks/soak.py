"""Whether memory stays flat over hundreds of images, in the serving and in the worker process.

`python -m benchmarks.soak --images 300 [--engine diffusers]`
"""

import argparse
import tempfile
import threading
from pathlib import Path

import numpy as np
import psutil

from benchmarks.table import print_table
from pipelines.spec.request import GenerationRequest
from studio.core import Studio
from studio.settings import Settings
from studio.storage import worker_lock
from studio.supervisor import Supervisor

TARGET_KB = 50
PROMPTS = 20
"""So many different ones: encoded prompts are kept, in 128 MiB at most; until that is full it looks like a leak."""
WARM_UP = 0.2
"""The first part of the run, in which caches fill, is not counted."""


def slope(samples: list[tuple[int, int]]) -> float:
    """Return kilobytes per image from (images so far, resident bytes), by least squares after the warm-up."""
    counted = np.array([s for s in samples if s[0] >= WARM_UP * samples[-1][0]], dtype=float)
    return float(np.polyfit(counted[:, 0], counted[:, 1] / 1000, 1)[0])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--engine", choices=("diffusers", "fake"), default="diffusers")
    parser.add_argument("--steps", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(outputs=Path(folder), engine=arguments.engine, port=7999)
        web, worker = soak(settings, images=arguments.images, steps=arguments.steps)
    print_table(
        ("process", "first MB", "last MB", f"kB per image (target < {TARGET_KB})"),
        [
            (name, f"{samples[0][1] / 1e6:.0f}", f"{samples[-1][1] / 1e6:.0f}", f"{slope(samples):.1f}")
            for name, samples in (("web", web), ("worker", worker))
        ],
    )


def soak(settings: Settings, *, images: int, steps: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Serve, make the images one job each, and return samples of both processes: (images so far, resident bytes)."""
    from studio.api.app import create_app

    supervisor = Supervisor(settings)
    with Studio(settings) as studio:
        app = create_app(studio)
        supervisor.start()
        try:
            for seed in range(images):
                prompt = f"a boat {seed % PROMPTS}"
                request = GenerationRequest(prompt=prompt, seed=seed, num_inference_steps=steps)
                studio.submit(request)
            return _sample(studio, app=app, images=images)
        finally:
            supervisor.stop()


def _sample(studio: Studio, *, app: object, images: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    assert isinstance(app, FastAPI)
    web: list[tuple[int, int]] = []
    worker: list[tuple[int, int]] = []
    client = TestClient(app, base_url="http://127.0.0.1")
    pause = threading.Event()
    while (done := studio.gallery.count()) < images:
        if done:
            assert client.get("/api/v1/jobs").status_code == 200  # the web process works too
            web.append((done, psutil.Process().memory_info().rss))
            pid = int(worker_lock(studio.settings, studio.settings.devices[0]).holder()["pid"])
            worker.append((done, psutil.Process(pid).memory_info().rss))
        pause.wait(0.5)
    return web, worker


if __name__ == "__main__":
    main()
