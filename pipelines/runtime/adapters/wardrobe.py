"""The LoRAs of every loaded model: fetched, applied while a picture is made, and the model proved unchanged."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from pipelines.runtime.adapters.applied import AppliedLoras
from pipelines.runtime.adapters.base_weights import BaseWeights
from pipelines.runtime.adapters.layers import Layers
from pipelines.runtime.adapters.loaded import MAX_BYTES, LoraCache
from pipelines.runtime.guards import BaseChanged
from pipelines.runtime.loading import Components
from pipelines.spec.errors import LoraError
from pipelines.spec.lora_tags import listed_at
from pipelines.spec.loras import LoraFile, ResolvedLora


class Wardrobe:
    """Keeps what is loaded for each model as long as the model is.

    Args:
        max_bytes: what the loaded LoRAs of one model may hold together.
    """

    def __init__(self, *, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._caches: WeakKeyDictionary[Components, LoraCache] = WeakKeyDictionary()
        self._bases: WeakKeyDictionary[Components, BaseWeights] = WeakKeyDictionary()

    @contextmanager
    def wear(
        self,
        components: Components,
        loras: Sequence[ResolvedLora],
        files: Mapping[str, LoraFile],
        *,
        passes: Sequence[int],
        max_rebuilt_bytes: int = 0,
    ) -> Iterator[AppliedLoras]:
        """Within it the model acts with the LoRAs; afterwards it is bit for bit what it was, whatever happened.

        Args:
            components: the loaded model.
            loras: what is asked; those that count nothing are not loaded.
            files: of all of them, by `ResolvedLora.sha256`.
            passes: how many steps each pass over the picture has.
            max_rebuilt_bytes: see `AppliedLoras.hooked`.

        Raises:
            LoraError: one cannot be loaded, names a block that is not there or would change nothing; none is applied.
            BaseChanged: something has changed the model's own weights, whatever else went wrong.
        """
        counting = [each for each in loras if each.weight or each.text_encoder_weight]
        if not counting:
            yield AppliedLoras()
            return
        cache = self._cache(components)
        for each in counting:
            _check_blocks(each, cache.layers, model_name=components.name)
        base = self._bases[components]
        applied = AppliedLoras([(each, cache.get(files[each.sha256])) for each in counting], passes=passes)
        writes = base.writes()
        try:
            with applied.hooked(cache.layers, max_rebuilt_bytes=max_rebuilt_bytes):
                yield applied
        finally:
            cache.shrink()
            if not base.are_unchanged(since=writes):
                raise BaseChanged(
                    f"the weights of model {components.name} have changed while LoRAs were applied, which must not "
                    "happen; this picture was not kept, and the model is loaded again for the next: please report it"
                )

    def forget(self) -> None:
        """Drop all LoRAs from memory; what is worn next is read again."""
        for cache in self._caches.values():
            cache.forget()

    def _cache(self, components: Components) -> LoraCache:
        if components not in self._caches:
            layers = Layers(components.unet, components.text_encoders)
            self._caches[components] = LoraCache(
                layers, model_name=components.name, dtype=components.precision.dtype, max_bytes=self._max_bytes
            )
            self._bases[components] = BaseWeights((components.unet, *components.text_encoders))
        return self._caches[components]


def _check_blocks(lora: ResolvedLora, layers: Layers, *, model_name: str) -> None:
    unknown = next((block for block in lora.block_weights if not layers.holds(block)), None)
    if unknown is not None:
        shown = f"{unknown!r}{f' ({listed})' if (listed := listed_at(unknown)) else ''}"
        raise LoraError(
            f"LoRA {lora.name!r} has a weight for the block {shown}, which model {model_name} does not have; "
            f"take {', '.join(layers.blocks)}, or parts of them by diffusers' names"
        )
