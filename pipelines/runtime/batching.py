"""How many pictures may share a call of the U-Net without a bit of any changing: found by trial, not assumed."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch

from pipelines.runtime.denoiser import Guidance
from pipelines.runtime.loading import Components


class BatchTrials:
    """Tries on the processor whether a batch gives every picture the bits it has alone, and remembers the answer.

    Kernels are chosen by the shape of their input, so a picture in a batch may differ in the last bit from the same
    picture alone. Which sizes are safe depends on model, picture size, threads and processor; each is tried once, on
    random numbers, which costs about two steps of the batch. Accelerators are not tried: there the last bits depend
    on the batch anyway, and speed on its size.
    """

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Components, dict[tuple[int, ...], bool]] = WeakKeyDictionary()

    def most(self, components: Components, guidance: Sequence[Guidance], *, size: tuple[int, int]) -> int:
        """Return how many of the pictures may share a call: all, or the largest power of two that is safe, or 1.

        Args:
            components: the loaded model.
            guidance: of the pictures, in order.
            size: height and width of the latents.
        """
        if components.device.type != "cpu":
            return len(guidance)
        known = self._known.setdefault(components, {})
        shapes = [each.shapes() for each in guidance]
        number = next((index for index, each in enumerate(shapes) if each != shapes[0]), len(shapes))
        calls = {(tokens.count(length), length) for _, tokens in shapes[0] for length in tokens}
        while number > 1:
            for rows, tokens in calls:
                key = (number, rows, tokens, *size)
                if key not in known:
                    known[key] = _is_safe(components, number, rows=rows, tokens=tokens, size=size)
            if all(known[number, rows, tokens, *size] for rows, tokens in calls):
                break
            number = 2 ** ((number - 1).bit_length() - 1)
        return number


@torch.inference_mode()
def _is_safe(components: Components, number: int, *, rows: int, tokens: int, size: tuple[int, int]) -> bool:
    unet, generator = components.unet, torch.Generator().manual_seed(0)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(components.precision.dtype)

    latents = randn(number * rows, unet.config.in_channels, *size)
    embeds = randn(number * rows, tokens, unet.config.cross_attention_dim)
    added = {}
    if len(components.text_encoders) == 2:
        pooled_width = components.text_encoders[1].config.projection_dim
        added = {"text_embeds": randn(number * rows, pooled_width), "time_ids": randn(number * rows, 6)}

    def run(first: int, last: int) -> torch.Tensor:
        part = slice(first * rows, last * rows)
        prediction: torch.Tensor = unet(
            latents[part],
            torch.tensor(500.0),
            encoder_hidden_states=embeds[part],
            added_cond_kwargs={name: each[part] for name, each in added.items()},
            return_dict=False,
        )[0]
        return prediction

    together = run(0, number)
    alone = torch.cat([run(index, index + 1) for index in range(number)])
    return torch.equal(together, alone)
