"""Random numbers: one generator per picture, on the processor, so that a seed means the same noise on every device."""

import torch


def generator_for(seed: int) -> torch.Generator:
    """Return the generator that one picture draws all its noise from, whatever else runs beside it."""
    return torch.Generator("cpu").manual_seed(seed)


def draw(shape: tuple[int, ...], generator: torch.Generator, *, device: torch.device) -> torch.Tensor:
    """Return standard normal noise, float32, drawn on the processor and moved to `device`."""
    return torch.randn(shape, generator=generator, dtype=torch.float32).to(device)
