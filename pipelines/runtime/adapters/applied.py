"""LoRAs on, and provably off again: hooks beside the layers, never a changed weight."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from pipelines.runtime.adapters.deltas import Delta
from pipelines.runtime.adapters.layers import Layers, Place, is_within
from pipelines.runtime.adapters.loaded import LoadedLora
from pipelines.runtime.adapters.placing import moved
from pipelines.runtime.adapters.rebuilding import Rebuilding
from pipelines.runtime.embeddings import BundledEmbedding
from pipelines.spec.errors import LoraError
from pipelines.spec.loras import ResolvedLora


class _Part(NamedTuple):
    """One delta on one layer, with what it counts."""

    delta: Delta
    weight: float
    start: float
    end: float


_Acting = Mapping[Place, tuple[_Part, ...]]
"""What one LoRA changes."""


class AppliedLoras:
    """What is applied at the moment.

    Args:
        loras: what is asked, with what was loaded for it.
        passes: how many steps each pass over the picture has: LoRAs may hold for a part of them.

    Raises:
        LoraError: one of them would change nothing.
    """

    def __init__(self, loras: Sequence[tuple[ResolvedLora, LoadedLora]] = (), *, passes: Sequence[int] = (1,)) -> None:
        self._share: float | None = None
        """Of the steps that are done; None before the first, when all LoRAs hold, whatever their range."""
        acting = [_acting(asked, loaded, passes) for asked, loaded in loras]
        self._parts: dict[Place, list[_Part]] = {}
        for each in acting:
            for place, parts in each.items():
                self._parts.setdefault(place, []).extend(parts)
        self.audits: Mapping[str, str] = {
            asked.name: loaded.audit(each) for (asked, loaded), each in zip(loras, acting, strict=True)
        }
        """Name of each LoRA -> how much of it acts, and where."""
        self.embeddings: Mapping[str, BundledEmbedding] = {
            name: BundledEmbedding(asked.sha256, vectors)
            for asked, loaded in loras
            for name, vectors in loaded.embeddings.items()
        }
        """What they bring for words of prompts."""
        self.on_text_encoders = tuple(
            (loaded.stamp, asked.text_encoder_weight)
            for asked, loaded in loras
            if asked.text_encoder_weight and any(not place.is_in_denoiser for place in loaded.deltas)
        )
        """What encoded prompts depend on."""
        self.on_unet = tuple(
            (asked.sha256, tuple(sorted((name, bool(factor)) for name, factor in asked.block_weights.items())))
            for asked, _ in loras
            if asked.weight
        )
        """What the shapes of the U-Net's work depend on."""

    def at_step(self, step: int, num_steps: int) -> None:
        """Say how many of the steps are done: LoRAs may hold for a part of them."""
        self._share = _share(step, num_steps)

    @contextmanager
    def hooked(self, layers: Layers, *, max_rebuilt_bytes: int = 0) -> Iterator[None]:
        """Within it the layers act as base weight + Σ weight · ΔW.

        Args:
            layers: of the model.
            max_rebuilt_bytes: what ΔWs of the denoiser may hold, so that factors need not make them at every step.
        """
        handles: list[RemovableHandle] = []
        in_denoiser, in_text_encoders = Rebuilding(max_rebuilt_bytes), Rebuilding(0)
        try:
            for place, parts in self._parts.items():
                layer = layers[place]
                # in reduced-memory mode the text encoders are elsewhere than when the LoRA was loaded
                near = [part._replace(delta=moved(part.delta, layer.weight.device)) for part in parts]
                rebuilding = in_denoiser if place.is_in_denoiser else in_text_encoders
                handles.append(layer.register_forward_hook(self._adding(near, rebuilding)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _adding(self, parts: list[_Part], rebuilding: Rebuilding) -> Any:
        """Return what a layer calls after its own work."""

        def add(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            total = output
            for index, part in enumerate(parts):
                if self._share is None or _holds(part, self._share):
                    delta, weight = rebuilding.of(part.delta, part.weight)
                    parts[index] = part._replace(delta=delta, weight=weight)
                    total = total + delta.change(layer, inputs[0], output, weight)
            return total

        return add


def _acting(asked: ResolvedLora, loaded: LoadedLora, passes: Sequence[int]) -> _Acting:
    """Return what a LoRA changes, in any step of any pass.

    Raises:
        LoraError: nothing at all.
    """
    weights = {place: _weight(asked, place) for place in loaded.deltas}
    shares = [_share(step, num_steps) for num_steps in passes for step in range(num_steps)]
    acting = {
        place: tuple(_part(asked, place, delta, weight) for delta in loaded.deltas[place])
        for place, weight in weights.items()
        if weight and (not place.is_in_denoiser or any(_holds(asked, share) for share in shares))
    }
    if acting or loaded.embeddings:
        return acting
    if any(weights.values()):
        steps = " and ".join(map(str, passes))
        reason = f"of {steps} steps none begins from {asked.start:g} to {asked.end:g} of them; choose a wider range"
    else:
        parts = " and ".join(sorted({place.part.replace("_", " ") for place in weights}))
        reason = f"its file changes {parts} only, where every weight asked for is 0; give it a weight there"
    raise LoraError(f"LoRA {asked.name!r} would change nothing: {reason}, or leave it out")


def _part(asked: ResolvedLora, place: Place, delta: Delta, weight: float) -> _Part:
    """Return a delta as it is asked for: ranges are of the denoiser's steps."""
    return _Part(delta, weight, asked.start, asked.end) if place.is_in_denoiser else _Part(delta, weight, 0.0, 1.0)


def _share(step: int, num_steps: int) -> float:
    """Return which share of the steps is done; the last holds for whatever comes behind it."""
    return min(step / num_steps, 1 - 1e-9)


def _holds(range_: _Part | ResolvedLora, share: float) -> bool:
    return range_.start <= share < range_.end


def _weight(asked: ResolvedLora, place: Place) -> float:
    """Return what a LoRA counts on a layer: of all block names that the layer's begins with, the longest holds."""
    if not place.is_in_denoiser:
        return asked.text_encoder_weight
    fitting = [name for name in asked.block_weights if is_within(place.path, name)]
    factor = asked.block_weights[max(fitting, key=len)] if fitting else 1.0
    return asked.weight * factor
