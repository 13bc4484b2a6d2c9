"""How many pictures may share a call of the U-Net without changing one another: found by trial, not assumed."""

import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from weakref import WeakKeyDictionary

import torch

from pipelines.runtime.denoiser import Guidance
from pipelines.runtime.loading import Components

WORTHWHILE_SECONDS = 0.25
"""A call that takes longer for one picture is busy with arithmetic: company would not make it faster."""
ROUNDING = 0.02
"""So far apart, as a share of their length, predictions on an accelerator may be."""


class BatchTrials:
    """Tries whether a batch gives every picture what it has alone, and remembers the answer.

    Kernels are chosen by the shape of their input, so a picture in a batch may differ in the last bit from the same
    picture alone. Which sizes are safe depends on model, picture size, threads and device; each is tried once, on
    random numbers, which costs about two steps of the batch. On a processor every bit must be the same. Accelerators
    round otherwise at nearly every size, and gain most from batches: there, rounding is let pass.
    """

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Components, dict[tuple[object, ...], _Trial]] = WeakKeyDictionary()

    def most(
        self,
        components: Components,
        guidance: Sequence[Guidance],
        *,
        size: tuple[int, int],
        loras: tuple[object, ...] = (),
    ) -> int:
        """Return how many of the pictures may share a call: a power of two, or 1.

        Args:
            components: the loaded model.
            guidance: of the pictures, in order.
            size: height and width of the latents.
            loras: what the work of those that the U-Net wears depends on: it is tried with its own.
        """
        shapes = [each.shapes() for each in guidance]
        number = next((index for index, each in enumerate(shapes) if each != shapes[0]), len(shapes))
        known = self._known.setdefault(components, {})
        for rows, tokens in {(each.count(length), length) for _, each in shapes[0] for length in each}:
            key = (rows, tokens, *size, *loras)
            if key not in known:
                known[key] = _Trial(components, rows=rows, tokens=tokens, size=size)
            number = known[key].most(number)
        return number


class _Trial:
    """The sizes of batches of one shape that have been tried: powers of two, from 2 up to the first that is not safe.

    Args:
        components: the loaded model; not kept.
        rows: of the U-Net's batch that one picture takes: 2 with guidance.
        tokens: of the encoded prompt.
        size: height and width of the latents.
    """

    def __init__(self, components: Components, *, rows: int, tokens: int, size: tuple[int, int]) -> None:
        self._components = weakref.ref(components)
        self._rows, self._tokens, self._size = rows, tokens, size
        self._safe, self._is_over = 1, False

    def most(self, wanted: int) -> int:
        while 2 * self._safe <= wanted and not self._is_over:
            if self._is_safe(2 * self._safe):
                self._safe *= 2
            else:
                self._is_over = True
        return min(self._safe, 1 << (wanted.bit_length() - 1))

    @torch.inference_mode()
    def _is_safe(self, number: int) -> bool:
        components = self._components()
        assert components is not None
        unet, generator = components.unet, torch.Generator().manual_seed(0)

        def randn(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator).to(components.device, components.precision.dtype)

        rows = number * self._rows
        latents = randn(rows, unet.config.in_channels, *self._size)
        embeds = randn(rows, self._tokens, unet.config.cross_attention_dim)
        added = {}
        if len(components.text_encoders) == 2:
            pooled_width = components.text_encoders[1].config.projection_dim
            added = {"text_embeds": randn(rows, pooled_width), "time_ids": randn(rows, 6)}

        def run(first: int, last: int) -> torch.Tensor:
            part = slice(first * self._rows, last * self._rows)
            prediction: torch.Tensor = unet(
                latents[part],
                torch.tensor(500.0, device=components.device),
                encoder_hidden_states=embeds[part],
                added_cond_kwargs={name: each[part] for name, each in added.items()},
                return_dict=False,
            )[0]
            return prediction

        if min(_seconds(partial(run, 0, 1)) for _ in range(2)) > WORTHWHILE_SECONDS:
            return False
        alone = torch.cat([run(index, index + 1) for index in range(number)])
        return is_same(run(0, number), alone, is_exact=components.device.type == "cpu")


def is_same(together: torch.Tensor, alone: torch.Tensor, *, is_exact: bool) -> bool:
    """Whether predictions made together are those made alone: to the last bit, or but for rounding."""
    if is_exact:
        return torch.equal(together, alone)
    apart = (together.float() - alone.float()).norm()
    return bool(apart <= ROUNDING * alone.float().norm())


def _seconds(call: Callable[[], torch.Tensor]) -> float:
    started = time.perf_counter()
    call().sum().item()  # which waits for an accelerator
    return time.perf_counter() - started
