"""Allocations that truly fail: the process is not allowed to grow, as on a full machine.

Each test has a process of its own: in an old one, free room lies about in its heap, and nobody knows how much.
"""

import ctypes
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipelines.engines.diffusers_engine import DiffusersEngine
from pipelines.spec.engine import GeneratedImage, Inputs
from pipelines.spec.errors import OutOfMemory
from pipelines.spec.model import Model
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import resolve
from tests.pipelines import tiny_models

if sys.platform != "linux":
    pytest.skip("only Linux limits the address space of a process", allow_module_level=True)

import resource

MIB = 1024**2
M_MMAP_THRESHOLD = -3


@contextmanager
def room(extra_bytes: int) -> Iterator[None]:
    """Let the process grow by so much and no more."""
    ctypes.CDLL(None).malloc_trim(0)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + extra_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def paint(engine: DiffusersEngine, model: Model, *, side: int) -> GeneratedImage:
    request = GenerationRequest(
        prompt="a red house", seed=7, width=side, height=side, num_inference_steps=1, guidance_scale=1.0
    )
    (result,) = engine.generate(resolve(request, model), Inputs(model), lambda step: None)
    return result


def build_lean(folder: Path) -> Model:
    """Build a model whose memory goes into decoding: no self-attention, tiles of 256 pixels."""
    # Blocks of a megabyte come from the kernel and go back to it, so that none is found free later.
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MIB)
    return tiny_models.build_sd1(
        folder / "lean",
        vae={"sample_size": 256, "mid_block_add_attention": False},
        unet={"only_cross_attention": True},
    )


def in_its_own_process(test: Callable[[Path], None], folder: Path) -> None:
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as processes:
        processes.submit(test, folder).result()


def once(folder: Path) -> None:
    engine, lean = DiffusersEngine(device="cpu"), build_lean(folder)
    paint(engine, lean, side=64)

    with room(150 * MIB):  # from 60 or, on some processors, 120 to 200 MiB the tiles fit and the whole does not
        careful = paint(engine, lean, side=1024)
    usual = paint(engine, lean, side=1024)

    assert careful.provenance["reduced_memory"] is True
    assert "reduced_memory" not in usual.provenance, "the next job starts afresh"
    difference = np.abs(np.asarray(careful.image, dtype=int) - np.asarray(usual.image, dtype=int))
    assert difference.mean() < 8, "tiles are blended, so the picture is nearly the same"


def twice(folder: Path) -> None:
    engine, lean = DiffusersEngine(device="cpu"), build_lean(folder)
    before = paint(engine, lean, side=64).image.tobytes()

    with room(8 * MIB), pytest.raises(OutOfMemory, match=r"\d GiB free.* make width and height smaller"):
        paint(engine, lean, side=1024)

    assert paint(engine, lean, side=64).image.tobytes() == before


def test_running_out_of_memory_once_is_survived_in_pieces(tmp_path: Path) -> None:
    in_its_own_process(once, tmp_path)


def test_running_out_of_memory_twice_is_an_error_with_numbers_and_advice(tmp_path: Path) -> None:
    in_its_own_process(twice, tmp_path)
