"""What the studio's road costs over a bare loop of the same components: `python -m benchmarks.overhead`.

Three roads paint pictures of the pocket model from the same noise: a bare diffusers loop; the engine; and the whole
studio, from a job in the database to published files with record, thumbnail and row. They take turns at going first, so
that a busy machine slows all alike. The bare loop is given the encoded prompt, which the engine remembers as well; it
denoises and decodes a batch at once. The pictures must be the same up to rounding. The time on the processor stands
beside the time on the clock: only the latter depends on what else the machine does. A job of several batches
(`--batches 4`) says how many pictures a second come out; one of a single batch also waits until the last is published.
"""

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from benchmarks.table import print_table
from pipelines.engines.diffusers_engine import DiffusersEngine
from pipelines.spec.engine import Inputs
from pipelines.spec.model import Model
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import resolve
from pipelines.spec.resolved import ResolvedRequest
from studio.settings import Settings
from studio.storage import Storage
from studio.store import find_model
from studio.worker import Machines, load_trainer, run_job

TARGET = 1.03
SAME = 1.0
"""How far pictures may be apart on average, of 255: the roads round at other places."""
PROMPT = "a red house on a green hill at night"


@dataclass(frozen=True)
class Taken:
    """Seconds for all pictures."""

    clock: float
    processor: float


class Road(Protocol):
    """One way to the pictures."""

    def paint(self) -> list[Image.Image]:
        """Return the pictures."""
        ...


class BareLoop:
    """What one would write by hand: load, loop, decode."""

    def __init__(self, folder: Path, requests: Sequence[ResolvedRequest], *, batch_size: int) -> None:
        request = requests[0]
        self._requests = requests
        self._batch_size = batch_size
        self._unet = _load(UNet2DConditionModel, folder / "unet", dtype=torch.float32)
        self._vae = _load(AutoencoderKL, folder / "vae", dtype=torch.float32)
        self._scheduler = _load(EulerDiscreteScheduler, folder / "scheduler", timestep_spacing="linspace")
        tokenizer = _load(CLIPTokenizer, folder / "tokenizer")
        encoder = _load(CLIPTextModel, folder / "text_encoder", dtype=torch.float32)
        texts = [request.negative_prompt, request.prompt]
        tokens = [tokenizer(text, padding="max_length", max_length=77, return_tensors="pt") for text in texts]
        with torch.inference_mode():
            embeds = [encoder(each.input_ids)[0] for each in tokens]
        self._prompt_embeds = torch.cat([each.repeat(batch_size, 1, 1) for each in embeds])

    def paint(self) -> list[Image.Image]:
        starts = range(0, len(self._requests), self._batch_size)
        batches = [self._requests[start : start + self._batch_size] for start in starts]
        return [image for batch in batches for image in self._paint(batch)]

    @torch.inference_mode()
    def _paint(self, requests: Sequence[ResolvedRequest]) -> list[Image.Image]:
        request, scheduler, unet, vae = requests[0], self._scheduler, self._unet, self._vae
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        shape = (1, 4, request.height // factor, request.width // factor)
        generators = [torch.Generator("cpu").manual_seed(each.seed) for each in requests]
        latents = torch.cat([torch.randn(shape, generator=generator) for generator in generators])
        scheduler.set_timesteps(request.num_inference_steps)
        latents = latents * scheduler.sigmas[0]
        for timestep in scheduler.timesteps:
            batch = scheduler.scale_model_input(torch.cat([latents, latents]), timestep)
            unconditional, conditional = unet(batch, timestep, self._prompt_embeds, return_dict=False)[0].chunk(2)
            prediction = unconditional + request.guidance_scale * (conditional - unconditional)
            latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
        decoded = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        pixels = (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
        return [Image.fromarray(each) for each in (pixels * 255).round().astype(np.uint8)]


class EngineRoad:
    """The engine alone."""

    def __init__(self, model: Model, requests: Sequence[ResolvedRequest], engine: DiffusersEngine) -> None:
        self._requests = requests
        self._inputs = Inputs(model)
        self._engine = engine

    def paint(self) -> list[Image.Image]:
        return [each.image for each in self._engine.generate(self._requests, self._inputs, lambda step: None)]


class StudioRoad:
    """A job in the database, run by the worker's code, published in the gallery."""

    def __init__(self, outputs: Path, request: GenerationRequest, engine: DiffusersEngine) -> None:
        self._request = request
        self._storage = Storage.open(Settings(outputs=outputs))
        self._machines = Machines(lambda: engine, lambda: load_trainer("cpu"))

    def paint(self) -> list[Image.Image]:
        job = self._storage.jobs.claim("cpu", job_id=self._storage.jobs.submit(self._request).id)
        assert job is not None
        run_job(job, storage=self._storage, machines=self._machines, drain=threading.Event())
        return [each.image for each in self._storage.gallery.of_job(job.id)]


def _load(component: Any, folder: Path, **options: Any) -> Any:
    return component.from_pretrained(folder, local_files_only=True, **options)


def measure(paint: Callable[[], list[Image.Image]]) -> Taken:
    """Return the time the pictures take."""
    clock, processor = time.perf_counter(), time.process_time()
    paint()
    return Taken(time.perf_counter() - clock, time.process_time() - processor)


def main() -> None:
    """Print one table for each size of batch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--images", type=int, nargs="+", default=[1, 4], help="sizes of batches")
    parser.add_argument("--batches", type=int, default=1, help="how many of them a job has")
    parser.add_argument("--side", type=int, default=128, help="width and height of the pictures")
    arguments = parser.parse_args()
    for num_images in arguments.images:
        compare(num_images, batches=arguments.batches, runs=arguments.runs, side=arguments.side)


def compare(batch_size: int, *, batches: int, runs: int, side: int) -> None:
    """Print one table."""
    asked = GenerationRequest(
        prompt=PROMPT,
        seed=7,
        num_inference_steps=20,
        scheduler="euler",
        num_images=batch_size * batches,
        width=side,
        height=side,
    )
    with tempfile.TemporaryDirectory() as folder:
        model = find_model("pocket", Path(folder))
        requests = resolve(asked, model)
        engine = DiffusersEngine(device="cpu", batch_size=batch_size)
        roads: dict[str, Road] = {
            "bare loop": BareLoop(model.path, requests, batch_size=batch_size),
            "engine": EngineRoad(model, requests, engine),
            "studio": StudioRoad(Path(folder), asked, engine),
        }
        first, *others = (np.asarray([np.asarray(image, int) for image in road.paint()]) for road in roads.values())
        if any(np.abs(first - other).mean() > SAME for other in others):
            raise SystemExit("the roads give different pictures: the comparison would mean nothing")
        turns = []
        for run in range(runs):
            order = list(roads)[run % 3 :] + list(roads)[: run % 3]
            turns.append({name: measure(roads[name].paint) for name in order})

    size = f"{requests[0].width}×{requests[0].height}"
    print(f"{batches} time(s) {batch_size} at once, {size}, {requests[0].num_inference_steps} steps with guidance;")
    print(f"{torch.get_num_threads()} thread(s), median of {runs} turns; target of both ratios ≤ {TARGET}.\n")
    print_table(("time on the", *roads, "engine / bare", "studio / bare"), [_row(turns, name) for name in _CLOCKS])
    print()


_CLOCKS = ("clock", "processor")


def _row(turns: list[dict[str, Taken]], clock: str) -> list[str]:
    seconds = [{name: getattr(taken, clock) for name, taken in turn.items()} for turn in turns]
    medians = [statistics.median(turn[name] for turn in seconds) for name in seconds[0]]
    ratios = [statistics.median(turn[name] / turn["bare loop"] for turn in seconds) for name in ("engine", "studio")]
    return [clock, *(f"{value:.3f} s" for value in medians), *(f"{ratio:.3f}" for ratio in ratios)]


if __name__ == "__main__":
    main()
