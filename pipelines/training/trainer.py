"""The trainer: reads, predicts, refuses; then steps, checkpoints, pictures; at the end one file."""

import hashlib
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipelines.runtime.device import DeviceInfo, describe_device
from pipelines.runtime.guards import NotFinite, is_out_of_memory, release_memory
from pipelines.runtime.loading import Components, ModelCache
from pipelines.spec.buckets import Size
from pipelines.spec.errors import InvalidRequest, NotANumber, OutOfMemory
from pipelines.spec.material import Material, validation_name
from pipelines.spec.model import Model
from pipelines.spec.trainer import Demand, TrainedLora, TrainingPlan, TrainingStep
from pipelines.spec.training import TrainingRequest
from pipelines.training import checkpoint, memory
from pipelines.training.adapters import Adapter
from pipelines.training.captions import CaptionEncoder
from pipelines.training.curve import LossCurve, Point
from pipelines.training.files import write_safetensors
from pipelines.training.latents import LatentCache
from pipelines.training.memory import Moment
from pipelines.training.metadata import Story, describe
from pipelines.training.objective import Objective
from pipelines.training.optimization import Average, check_optimizer, learning_rate_share, make_optimizer
from pipelines.training.pace import Pace
from pipelines.training.painting import STRENGTHS, SWEEP_NAME, forget_pictures, paint, save_row, save_sweep, swept

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
AUTOCAST = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class LoraTrainer:
    """Trains LoRAs for Stable Diffusion 1.x and XL; see `pipelines.spec.trainer.Trainer`.

    Every training loads a model of its own, so that nobody else's is changed.

    Args:
        device: "auto", "cpu", "mps", "cuda:0", …
    """

    def __init__(self, *, device: str = "auto") -> None:
        self._device = describe_device(device)

    def plan(self, request: TrainingRequest, model: Model) -> TrainingPlan:
        """Read the data set, predict, and refuse what cannot work."""
        material = _read(request, model, self._device)
        largest = max(material.batches.sizes, key=lambda size: size[0] * size[1])
        dtype = _dtype(request, self._device)
        predicted = memory.predict(material, size=largest, dtype=dtype)
        device = describe_device(str(self._device.device))
        if predicted.least_bytes > device.total_bytes:
            raise _too_much(predicted, request, largest, device)
        with _autocast(request, device.device):
            pace = Pace.measure(model, largest, rows=request.batch_size, device=device.device, dtype=dtype)
        steps = material.num_steps * predicted.step_flops
        demand = Demand(
            predicted.num_parameters,
            predicted.peak_bytes,
            device.free_bytes,
            seconds=pace.seconds(steps + predicted.other_flops),
            share_of_steps=steps / (steps + predicted.other_flops),
        )
        return replace(material.plan(), demand=demand)

    def train(
        self,
        request: TrainingRequest,
        model: Model,
        *,
        folder: Path,
        output: Path,
        resume: bool,
        on_step: Callable[[TrainingStep], bool],
    ) -> TrainedLora:
        """Train, and write the LoRA; see `pipelines.spec.trainer.Trainer.train`."""
        material = _read(request, model, self._device)
        models = ModelCache(
            self._device.device, dtype=_dtype(request, self._device), max_bytes=self._device.total_bytes
        )
        try:
            return _Run(material, models.get(model), folder).go(output, resume=resume, on_step=on_step)
        except NotFinite as error:
            raise NotANumber(f"the model produced NaN while training ({error}); try mixed_precision no") from error
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(
                f"{self._device.name} could not hold batch_size {request.batch_size}; take a smaller batch_size or "
                "resolution, or gradient_checkpointing; unchanged, existing: resume goes on from the last checkpoint"
            ) from error


class _Stopped(Exception):
    """`on_step` said to stop."""


class _Run:
    """One training from its first step, or the checkpoint's, to the file."""

    def __init__(self, material: Material, components: Components, folder: Path) -> None:
        request = self._request = material.request
        self._material, self._components, self._folder = material, components, folder
        self._adapter = Adapter.inject(request, components)
        _prepare(components, request)
        parameters = self._adapter.parameters()
        scaler = torch.amp.GradScaler(components.device.type, enabled=request.mixed_precision == "fp16")
        optimizer = make_optimizer(request, self._adapter)
        self._state = checkpoint.State(parameters, optimizer, Average(parameters, request.ema_decay), scaler)
        self._identity = checkpoint.Identity(request, components.fingerprint, _hash(material))
        examples, batches = material.dataset.examples, material.batches
        captions = CaptionEncoder(components, clip_skip=material.clip_skip, is_trained=request.train_text_encoder)
        self._objective = Objective(
            request, components, examples, batches, LatentCache(examples, batches.sizes, components), captions
        )

    def go(self, output: Path, *, resume: bool, on_step: Callable[[TrainingStep], bool]) -> TrainedLora:
        """Do the steps that are left, and write the file."""
        self._folder.mkdir(parents=True, exist_ok=True)
        done, started_at = 0, time.time()
        if resume:
            done, started_at = checkpoint.load(self._folder, self._state, identity=self._identity)
        forget_pictures(self._folder, after=done)
        curve, num_steps = LossCurve(self._folder, resumed_at=done), self._material.num_steps
        told = TrainingStep(done, num_steps, curve.loss, None)

        def tell(step: TrainingStep) -> None:
            if not on_step(step):
                raise _Stopped

        with suppress(_Stopped):
            tell(told)
            while done < num_steps:
                began = time.monotonic()
                loss, rate = self._step(done)
                done += 1
                curve.add(Point(done, loss, rate, time.monotonic() - began))
                if _is_due(done, self._request.save_every) and done < num_steps:
                    self._save_checkpoint(done, started_at)
                told = replace(told, step=done, loss=curve.loss, eta=curve.eta(num_steps - done))
                tell(told)
                if _is_due(done, self._request.validation_every) and done < num_steps:
                    told = self._show(told, tell)
        self._save_checkpoint(done, started_at)
        curve.draw()
        with self._state.average.in_place():
            self._write(output, steps=done, started_at=started_at)
        if done == num_steps:
            with suppress(_Stopped):
                told = self._show(told, tell)
                told = self._sweep(told, tell)
        return TrainedLora(output, done, num_steps, curve.loss, self._folder, told.note)

    def _step(self, step: int) -> tuple[float, float]:
        """Do one step; return its loss and the U-Net's learning rate."""
        request, state = self._request, self._state
        share = learning_rate_share(request, step, self._material.num_steps)
        for group in state.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * share
        total = 0.0
        for part in range(request.gradient_accumulation_steps):
            with _autocast(request, self._components.device):
                loss = self._objective.loss(step * request.gradient_accumulation_steps + part)
            loss = loss / request.gradient_accumulation_steps
            total += loss.item()
            scaled: Any = state.scaler.scale(loss)  # its `backward` carries no types
            scaled.backward()
        if not math.isfinite(total):
            raise NotANumber(
                f"the loss of step {step + 1} is {total}; take a smaller learning_rate than {request.learning_rate:g}"
                " or mixed_precision no"
            )
        state.scaler.unscale_(state.optimizer)
        if request.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(list(state.parameters.values()), request.max_grad_norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        state.average.follow(step + 1)
        return total, request.learning_rate * share

    def _save_checkpoint(self, step: int, started_at: float) -> None:
        checkpoint.save(self._folder, self._state, step=step, started_at=started_at, identity=self._identity)

    def _show(self, told: TrainingStep, tell: Callable[[TrainingStep], None]) -> TrainingStep:
        """Paint the validation pictures."""
        path, shown = self._folder / validation_name(told.step), self._material.shown

        def paint_row() -> None:
            work = f"painting pictures ({{}} of {len(shown)})"
            save_row(path, paint(shown, self._components, _telling(work, told, tell)))

        problem = self._trouble(paint_row)
        if problem:
            return replace(told, note=f"the pictures after step {told.step} could not be painted: {problem}")
        return replace(told, picture=path)

    def _sweep(self, told: TrainingStep, tell: Callable[[TrainingStep], None]) -> TrainingStep:
        """Paint what is learnt at every strength."""
        path, shown = self._folder / SWEEP_NAME, swept(self._material.shown)

        def paint_sheet() -> None:
            on_step = _telling(f"painting strengths ({{}} of {len(shown) * len(STRENGTHS)})", told, tell)
            save_sweep(path, shown, components=self._components, adapter=self._adapter, on_step=on_step)

        problem = self._trouble(paint_sheet)
        if problem:
            return replace(told, note=f"{told.note and f'{told.note}; '}{SWEEP_NAME} could not be painted: {problem}")
        return told

    def _trouble(self, paint: Callable[[], None]) -> str:
        """Paint what is learnt. No training fails for its pictures: return what went wrong, empty for nothing."""
        try:
            with self._state.average.in_place():
                paint()
        except NotFinite as error:
            problem = f"the model produced NaN ({error})"
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            problem = "out of memory"
        else:
            return ""
        release_memory(self._components.device)
        return problem

    def _write(self, output: Path, *, steps: int, started_at: float) -> None:
        material = self._material
        tensors = self._adapter.to_kohya(dtype=DTYPES[self._request.save_dtype])
        broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
        if broken:
            raise NotANumber(f"{broken[0]} does not fit into {self._request.save_dtype}; take save_dtype float32")
        story = Story(
            request=self._request,
            model=material.model,
            dataset=material.dataset,
            plan=material.batches,
            resolution=material.resolution,
            clip_skip=material.clip_skip,
            prediction_type=self._components.prediction_type,
            base_fingerprint=self._components.fingerprint,
            steps=steps,
            num_steps=material.num_steps,
            started_at=started_at,
            finished_at=time.time(),
        )
        write_safetensors(output, tensors, describe(story, tensors))


def _telling(work: str, told: TrainingStep, tell: Callable[[TrainingStep], None]) -> Callable[[int], None]:
    """Return what tells which picture is painted. How long that takes is not measured."""
    return lambda number: tell(replace(told, eta=None, note=work.format(number)))


def _read(request: TrainingRequest, model: Model, device: DeviceInfo) -> Material:
    """Read the data set and refuse what cannot work, on this device either."""
    check_optimizer(request, device.device)
    if request.mixed_precision == "fp16" and device.kind == "cpu":
        raise InvalidRequest("mixed_precision fp16 needs a graphics card; choose bf16 or no", field="mixed_precision")
    return Material.read(request, model)


def _too_much(predicted: memory.Prediction, request: TrainingRequest, size: Size, device: DeviceInfo) -> InvalidRequest:
    """Return the refusal, with a way out that leads there."""
    at = f"at {size[0]}×{size[1]}"
    what, way_out, field = {
        Moment.STEP: (
            f"batch_size {request.batch_size} {at}",
            "take a smaller batch_size or resolution, or gradient_checkpointing",
            "batch_size",
        ),
        Moment.ENCODING: (f"encoding a picture {at}", "take a smaller resolution", "resolution"),
    }[predicted.moment]
    return InvalidRequest(
        f"{what} needs about {predicted.least_bytes / 2**30:.1f} GiB, and {device.name} has "
        f"{device.total_bytes / 2**30:.1f} GiB; {way_out}",
        field=field,
    )


def _prepare(components: Components, request: TrainingRequest) -> None:
    if not request.gradient_checkpointing:
        return
    components.unet.enable_gradient_checkpointing()
    if request.train_text_encoder:
        for encoder in components.text_encoders:
            encoder.activation_checkpointing_enable()
            encoder.train()  # transformers keeps everything otherwise; these encoders have no dropout


def _hash(material: Material) -> str:
    """Return what changes with the data set: names, captions, sizes and bytes of its pictures."""
    digest = hashlib.sha256()
    for each in material.dataset.examples:
        name = each.path.relative_to(material.dataset.folder).as_posix()
        digest.update(f"{name}\0{each.caption}\0{each.width}×{each.height}\0".encode())
        digest.update(hashlib.sha256(each.path.read_bytes()).digest())
    return digest.hexdigest()


def _dtype(request: TrainingRequest, device: DeviceInfo) -> torch.dtype:
    """Return what the frozen models run in: half precision pays on cards only."""
    autocast = AUTOCAST[request.mixed_precision]
    return torch.float32 if autocast is None or device.kind == "cpu" else autocast


def _autocast(request: TrainingRequest, device: torch.device) -> AbstractContextManager[object]:
    dtype = AUTOCAST[request.mixed_precision]
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def _is_due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
