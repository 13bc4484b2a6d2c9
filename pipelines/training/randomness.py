"""Chance that follows from a seed and a place alone: whoever comes to the same step sees the same numbers."""

import hashlib
from random import Random

import torch


def generator_at(*place: int | str) -> torch.Generator:
    """Return a generator on the processor for one place, for example ("noise", seed, step)."""
    return torch.Generator().manual_seed(_number(place))


def random_at(*place: int | str) -> Random:
    """Return Python's kind of generator for one place."""
    return Random(_number(place))


def _number(place: tuple[int | str, ...]) -> int:
    digest = hashlib.sha256("/".join(map(str, place)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
