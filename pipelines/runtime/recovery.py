"""Second attempts: after NaN in float32, after lack of memory in pieces. What has no remedy becomes a sentence."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TypeVar

from pipelines.runtime.device import describe_device
from pipelines.runtime.guards import BaseChanged, NotFinite, Stage, is_out_of_memory, release_memory
from pipelines.runtime.loading import Components, ModelCache, Precision
from pipelines.spec.errors import NotANumber, OutOfMemory
from pipelines.spec.loras import ResolvedLora
from pipelines.spec.model import Model

Result = TypeVar("Result")
GIB = 1024**3


class Attempts:
    """Runs the work of one job on one model, again where the cause of a failure can be removed.

    Args:
        models: gives the model, checked once against its files, and remembers its precision.
        model: which one.
        device: name of the device, for messages.
        forget: drops what else is kept in memory and can be read again.
    """

    def __init__(self, models: ModelCache, model: Model, *, device: str, forget: Callable[[], None]) -> None:
        self._models = models
        self._forget = forget
        self._model = model
        self._device = device
        self._components: Components | None = None
        self._loras: tuple[ResolvedLora, ...] = ()
        self._precision: Precision | None = None
        self.reduced_memory = False
        """Whether the job ran out of memory once; it stays careful from then on."""

    def wear(self, loras: tuple[ResolvedLora, ...]) -> None:
        """Say what the next pictures wear. What overflows under it is no fault of the model, which stays what it is."""
        if loras != self._loras:
            self._loras = loras
            if self._precision is not None:
                self._precision = None
                self.rest()

    def run(self, work: Callable[[Components, int], Result], *, at_once: int = 1) -> Result:
        """Return what `work` returns for the loaded model and the number of pictures it may work on at once.

        Lack of memory halves that number first: no picture is made differently because it had company.

        Raises:
            NotANumber: NaN or infinity, even in float32.
            OutOfMemory: even in reduced-memory mode.
            BaseChanged: the weights in memory were written to. They are dropped: the next work loads them again.
        """
        while True:
            trouble: Stage | str
            try:
                self._components = self._components or self._models.get(self._model, precision=self._precision)
                with self._memory_mode(self._components):
                    return work(self._components, at_once)
            except BaseChanged:
                self.rest()
                self._models.drop(self._model)
                raise
            except NotFinite as error:
                trouble = error.stage
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                traceback.clear_frames(error.__traceback__)
                trouble = str(error).partition("\n")[0] or type(error).__name__
            # Out here no error, and so no frame of the failed attempt, holds on to memory.
            self._components = None
            if isinstance(trouble, Stage):
                self._upcast(trouble)
            elif at_once > 1:
                at_once //= 2
                self._make_room()
            else:
                self._reduce_memory(trouble)

    def rest(self) -> None:
        """Let go of the model, so that the cache may drop it for another."""
        self._components = None

    def _memory_mode(self, components: Components) -> AbstractContextManager[None]:
        if not self.reduced_memory:
            return nullcontext()
        return reduced_memory(components, give_up=partial(self._models.drop, self._model))

    def _upcast(self, stage: Stage) -> None:
        self._precision = self._models.upcast(self._model, stage, for_good=not self._loras)
        if self._precision is not None:
            return
        failed = f"the {stage} of model {self._model.name} produced NaN or infinity in float32"
        if not self._loras:
            raise NotANumber(f"{failed}; its weights are damaged: download the model again or choose another")
        raise NotANumber(
            f"{failed} with {' and '.join(map(_shown, self._loras))}, most likely since that is too strong: "
            "take weights nearer to 0, or leave it out"
        )

    def _make_room(self) -> None:
        self._models.keep_only(self._model)
        self._forget()
        release_memory(describe_device(self._device).device)

    def _reduce_memory(self, reason: str) -> None:
        self._make_room()
        device = describe_device(self._device)
        if self.reduced_memory:
            raise OutOfMemory(
                f"{device.name} has {device.free_bytes / GIB:.1f} of {device.total_bytes / GIB:.1f} GiB free and could "
                f"not hold this picture with model {self._model.name}, even in reduced-memory mode; "
                f"make width and height smaller or close other programs (torch: {reason})"
            )
        self.reduced_memory = True


def run_alone(work: Callable[[], Result], *, models: ModelCache, device: str, forget: Callable[[], None]) -> Result:
    """Return what work returns that needs no model of the cache: where memory is short, again without any in it.

    Args:
        work: what to do.
        models: make room; nobody else may hold on to one.
        device: name of the device, for messages.
        forget: drops what else is kept in memory and can be read again.

    Raises:
        OutOfMemory: even then.
    """
    reason = ""
    for _ in range(2):
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)
            reason = str(error).partition("\n")[0] or type(error).__name__
        models.keep_only(None)
        forget()
        release_memory(describe_device(device).device)
    full = describe_device(device)
    raise OutOfMemory(
        f"{full.name} has {full.free_bytes / GIB:.1f} of {full.total_bytes / GIB:.1f} GiB free and could not hold the "
        f"upscaler with this picture; choose lanczos or a smaller model file, or close other programs (torch: {reason})"
    )


def _shown(lora: ResolvedLora) -> str:
    weights = f"{lora.weight:g}"
    if lora.text_encoder_weight != lora.weight:
        weights += f" (text encoders {lora.text_encoder_weight:g})"
    return f"LoRA {lora.name!r} at weight {weights}"


@contextmanager
def reduced_memory(components: Components, *, give_up: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Within it the VAE works tile by tile and, beside an accelerator, the text encoders rest on the processor.

    Tiles are blended where they meet: a picture larger than one tile differs slightly from an undivided pass.

    Args:
        components: the loaded model.
        give_up: drops it, where a full accelerator does not take all of it back: nothing could be made with it.
    """
    components.vae.enable_tiling()
    for encoder in components.text_encoders:
        encoder.to("cpu")
    try:
        yield
    finally:
        components.vae.disable_tiling()
        try:
            for encoder in components.text_encoders:
                encoder.to(components.device)
        except BaseException:
            give_up()
            raise
