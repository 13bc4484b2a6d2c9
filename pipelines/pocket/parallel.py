"""Data parallelism between Python threads, each with one arithmetic thread.

Two OpenMP threads meet after every operation, thousands of times a step, and stall whenever another program holds one
of the cores. Threads that each take half a batch meet once a step.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor, nn

Result = TypeVar("Result")


def lay_channels_last(module: nn.Module) -> None:
    """Store kernels channels last: twice as fast at the few channels used here."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class Workers:
    """A fixed set of threads that compute losses and their gradients."""

    def __init__(self, count: int = 2) -> None:
        """Start `count` threads, and leave one arithmetic thread to each and to the caller."""
        torch.set_num_threads(1)
        self.count = count
        self._pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))

    def backward(self, losses: Sequence[Callable[[], tuple[Tensor, float]]], parameters: Sequence[Tensor]) -> float:
        """Add the mean gradient of all losses to `parameters`; returns the mean of what the losses report beside."""

        def gradients(loss_of: Callable[[], tuple[Tensor, float]]) -> tuple[Sequence[Tensor | None], float]:
            loss, report = loss_of()
            return torch.autograd.grad(loss, parameters, allow_unused=True), report

        results = list(self._pool.map(gradients, losses))
        share = 1 / len(results)
        for index, parameter in enumerate(parameters):
            parts = [part for grads, _ in results if (part := grads[index]) is not None]
            if not parts:
                continue
            total = parts[0].clone() if len(parts) == 1 else parts[0].add(parts[1])
            for part in parts[2:]:
                total.add_(part)
            parameter.grad = total.mul_(share)
        return share * sum(report for _, report in results)

    def run(self, jobs: Sequence[Callable[[], Result]]) -> list[Result]:
        """Run the jobs side by side; returns their results in order."""
        return list(self._pool.map(lambda job: job(), jobs))
