"""One sitting of training: how long it lasts, its learning rates, its log, its checkpoints and sample sheets."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

TRAINING_FOLDER = Path(".training") / "pocket"
_WARM_UP_STEPS = 60


@dataclass(frozen=True)
class Sitting:
    """A budget in minutes, or in steps for runs that must repeat exactly; the learning rate falls towards its end.

    `samples` is how many pictures a sample sheet shows; checks on fresh renders take eight times as many.
    """

    minutes: float
    steps: int | None = None
    folder: Path = TRAINING_FOLDER
    samples: int = 16
    started: float = field(default_factory=time.monotonic)

    def progress(self, steps_done: int) -> float:
        """Return how much of the budget is spent, 0 to 1."""
        if self.steps is not None:
            return min(1.0, steps_done / self.steps)
        return min(1.0, (time.monotonic() - self.started) / (60 * self.minutes))

    def learning_rate(self, peak: float, steps_done: int, *, decay_from: float) -> float:
        """Warm up, hold `peak`, then fall linearly to a fiftieth from `decay_from` of the budget to its end."""
        left = (1 - self.progress(steps_done)) / (1 - decay_from)
        return peak * min(1.0, (steps_done + 1) / _WARM_UP_STEPS, max(0.02, left))

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.started

    def log(self, text: str) -> None:
        """Write one line to standard output."""
        sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
        sys.stdout.flush()

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Write a full checkpoint; the old one stays until the new one is complete."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{name}.partial"
        torch.save(state, partial)
        partial.replace(self.folder / f"{name}.pt")

    def load(self, name: str) -> dict[str, Any] | None:
        """Read a full checkpoint, or None where there is none."""
        path = self.folder / f"{name}.pt"
        if not path.exists():
            return None
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state

    def save_sheet(self, name: str, pictures: Sequence[Image.Image], *, columns: int) -> None:
        """Write pictures of one size as a contact sheet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        contact_sheet(pictures, columns=columns).save(self.folder / f"{name}.png")


class Every:
    """Becomes due once per interval of seconds."""

    def __init__(self, seconds: float) -> None:
        """Start the first interval now."""
        self._seconds = seconds
        self._last = time.monotonic()

    def due(self) -> bool:
        """Tell whether the interval has passed, and start the next one if so."""
        if time.monotonic() - self._last < self._seconds:
            return False
        self._last = time.monotonic()
        return True


class Average:
    """A running mean over roughly the last `window` values."""

    def __init__(self, window: int = 100) -> None:
        """Start empty."""
        self._window = window
        self._count = 0
        self.value = 0.0

    def add(self, value: float) -> None:
        """Take one more value in."""
        self._count += 1
        self.value += (value - self.value) / min(self._count, self._window)


def contact_sheet(pictures: Sequence[Image.Image], *, columns: int, gap: int = 2) -> Image.Image:
    """Lay pictures of one size out in rows."""
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % columns * (width + gap), index // columns * (height + gap)))
    return sheet
