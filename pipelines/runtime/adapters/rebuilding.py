"""Full ΔWs that factors make: rebuilt once while LoRAs are worn, as many as there is room for."""

from dataclasses import replace

from pipelines.runtime.adapters.deltas import Decomposed, Delta, DenseDelta, Difference


class Rebuilding:
    """Keeps full ΔWs, the first ones that are asked for.

    Args:
        max_bytes: what they may hold together.
    """

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes

    def of(self, delta: Delta, strength: float) -> tuple[Delta, float]:
        """Return what changes a layer alike, bit for bit, and its strength: without factors if there is room."""
        if self._left > 0 and _has_factors(delta):
            rebuilt, strength_left = _rebuilt(delta, strength)
            self._left -= sum(each.nbytes for each in rebuilt.tensors())
            if self._left >= 0:
                return rebuilt, strength_left
        return delta, strength


def _has_factors(delta: Delta) -> bool:
    if isinstance(delta, Decomposed):
        return _has_factors(delta.inner)
    return isinstance(delta, DenseDelta) and not isinstance(delta.dense, Difference)


def _rebuilt(delta: Delta, strength: float) -> tuple[Delta, float]:
    match delta:
        case DenseDelta():
            return DenseDelta(Difference(delta.dense.weight() * strength)), 1.0
        case Decomposed():
            inner, _ = _rebuilt(delta.inner, 1.0)
            return replace(delta, inner=inner), strength
    return delta, strength
