"""Muon for matrices and convolution kernels, beside AdamW for all other parameters."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.pocket.parallel import Workers

# Quintic Newton-Schulz coefficients of Keller Jordan's Muon, https://kellerjordan.github.io/posts/muon/
_QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal; kernels are seen as (out, in × height × width) matrices.

    Unlike `torch.optim.Muon` it takes convolutions, and scales every update to the size AdamW's would have
    (arXiv:2502.16982, section 2.2), so that one learning rate serves both.
    """

    def __init__(self, parameters: Iterable[Tensor], *, lr: float, momentum: float = 0.95) -> None:
        """Take parameters of two or more dimensions."""
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, lr=group["lr"], momentum=group["momentum"])

    @torch.no_grad()
    def _update(self, parameter: Tensor, *, lr: float, momentum: float) -> None:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer = state["momentum_buffer"]
        buffer.lerp_(parameter.grad, 1 - momentum)
        update = parameter.grad.lerp(buffer, momentum).flatten(1)
        scale = 0.2 * max(update.shape) ** 0.5
        direction = orthogonal(update).view(parameter.shape)
        parameter.add_(direction.to(parameter.dtype), alpha=-lr * scale)


def orthogonal(matrix: Tensor, *, steps: int = 5) -> Tensor:
    """Return roughly the nearest semi-orthogonal matrix, by Newton-Schulz iteration in bfloat16."""
    a, b, c = _QUINTIC
    x = matrix.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.T if tall else x
    return result


class Optimizers:
    """Both optimizers behind one learning rate, one `step` and one state."""

    def __init__(self, modules: Iterable[nn.Module], *, lr: float, adamw_ratio: float = 1.0) -> None:
        """Give hidden matrices to Muon; embeddings, norms, biases and thin first or last layers to AdamW."""
        matrices: list[Tensor] = []
        others: list[Tensor] = []
        for module in modules:
            embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
            for parameter in module.parameters():
                thin = parameter.ndim < 2 or min(parameter.shape[0], parameter[0].numel()) < 16
                (others if thin or id(parameter) in embeddings else matrices).append(parameter)
        matrices.sort(key=Tensor.numel, reverse=True)
        self.muons = [Muon(matrices[part::2], lr=lr) for part in range(2)]
        self.adamw = torch.optim.AdamW(others, lr=lr * adamw_ratio, betas=(0.9, 0.98), weight_decay=0.0)
        self._adamw_ratio = adamw_ratio
        self.parameters = matrices + others

    def step(self, workers: Workers, *, lr: float, clip: float = 1.0) -> None:
        """Clip the gradients, update with this learning rate, and clear the gradients."""
        torch.nn.utils.clip_grad_norm_(self.parameters, clip)
        for optimizer, ratio in self._each():
            for group in optimizer.param_groups:
                group["lr"] = lr * ratio
        workers.run([optimizer.step for optimizer, _ in self._each()])
        for optimizer, _ in self._each():
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Return both states."""
        return {"all": [optimizer.state_dict() for optimizer, _ in self._each()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore both states."""
        for (optimizer, _), saved in zip(self._each(), state["all"], strict=True):
            optimizer.load_state_dict(saved)

    def _each(self) -> list[tuple[torch.optim.Optimizer, float]]:
        return [*((muon, 1.0) for muon in self.muons), (self.adamw, self._adamw_ratio)]
