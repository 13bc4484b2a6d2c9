"""LoRAs on, and provably off again: hooks beside the layers, never a changed weight."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from pipelines.runtime.adapters.deltas import Delta
from pipelines.runtime.adapters.layers import Layers, Place
from pipelines.runtime.adapters.loaded import LoadedLora, moved
from pipelines.runtime.embeddings import BundledEmbedding
from pipelines.spec.loras import ResolvedLora


class _Part(NamedTuple):
    """One delta on one layer, with what it counts."""

    delta: Delta
    weight: float
    start: float
    end: float


class AppliedLoras:
    """What is applied at the moment.

    Args:
        loras: what is asked, with what was loaded for it.
    """

    def __init__(self, loras: Sequence[tuple[ResolvedLora, LoadedLora]] = ()) -> None:
        self._share: float | None = None
        """Of the steps that are done; None before the first, when all LoRAs hold, whatever their range."""
        self._parts = _by_place(loras)
        self.audits: Mapping[str, str] = {asked.name: loaded.audit for asked, loaded in loras}
        """Name of each LoRA -> how many of its keys were applied, and where."""
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
        self._share = min(step / num_steps, 1 - 1e-9)

    @contextmanager
    def hooked(self, layers: Layers) -> Iterator[None]:
        """Within it the layers act as base weight + Σ weight · ΔW."""
        handles: list[RemovableHandle] = []
        try:
            for place, parts in self._parts.items():
                layer = layers[place]
                # in reduced-memory mode the text encoders are elsewhere than when the LoRA was loaded
                near = [(part, moved(part.delta, layer.weight.device)) for part in parts]
                handles.append(layer.register_forward_hook(self._adding(near)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _adding(self, parts: Sequence[tuple[_Part, Delta]]) -> Any:
        """Return what a layer calls after its own work."""

        def add(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            total = output
            for part, delta in parts:
                if self._share is None or part.start <= self._share < part.end:
                    total = total + delta.change(layer, inputs[0], output, part.weight)
            return total

        return add


def _by_place(loras: Sequence[tuple[ResolvedLora, LoadedLora]]) -> Mapping[Place, list[_Part]]:
    parts: dict[Place, list[_Part]] = {}
    for asked, loaded in loras:
        for place, deltas in loaded.deltas.items():
            weight = _weight(asked, place)
            start, end = (asked.start, asked.end) if place.is_in_denoiser else (0.0, 1.0)
            if weight:
                parts.setdefault(place, []).extend(_Part(delta, weight, start, end) for delta in deltas)
    return parts


def _weight(asked: ResolvedLora, place: Place) -> float:
    """Return what a LoRA counts on a layer: of all block names that the layer's begins with, the longest holds."""
    if not place.is_in_denoiser:
        return asked.text_encoder_weight
    fitting = [name for name in asked.block_weights if f"{place.path}.".startswith(f"{name}.")]
    factor = asked.block_weights[max(fitting, key=len)] if fitting else 1.0
    return asked.weight * factor
