"""The loss, step by step: a CSV file that grows, and a small chart of it, drawn with Pillow."""

import csv
import io
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from pipelines.spec.errors import StorageError
from pipelines.spec.trainer import LOSSES_NAME
from pipelines.training.files import replace_file

CHART_NAME = "loss.png"
COLUMNS = ("step", "loss", "learning_rate", "seconds")
WINDOW = 50
"""Steps that the smoothed line, and the loss that is told, are the mean of."""
DRAW_SECONDS = 10.0
MEASURED_STEPS = 20
"""Steps that the time left is predicted from."""
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 640, 320, 48, 20


@dataclass(frozen=True)
class Point:
    """One step: its number from 1, loss, learning rate, and how many seconds it took."""

    step: int
    loss: float
    learning_rate: float
    seconds: float


class LossCurve:
    """Keeps the curve in a folder.

    Args:
        folder: where both files are.
        resumed_at: how many steps of an older curve stay.
    """

    def __init__(self, folder: Path, *, resumed_at: int) -> None:
        self._csv, self._chart = folder / LOSSES_NAME, folder / CHART_NAME
        self._points = [point for point in _read(self._csv) if point.step <= resumed_at]
        self._drawn_at = time.monotonic()
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(COLUMNS)
        rows.writerows((p.step, p.loss, p.learning_rate, p.seconds) for p in self._points)
        replace_file(self._csv, lambda file: file.write(text.getvalue().encode()))
        self._measured: list[float] = []

    @property
    def loss(self) -> float:
        """Mean over the latest steps; 0 before the first."""
        latest = self._points[-WINDOW:]
        return sum(point.loss for point in latest) / len(latest) if latest else 0.0

    def eta(self, steps_left: int) -> float | None:
        """Return the seconds that are probably left; None before a step was measured."""
        latest = self._measured[-MEASURED_STEPS:]
        return steps_left * sum(latest) / len(latest) if latest else None

    def add(self, point: Point) -> None:
        """Take a step in; the chart is drawn anew now and then."""
        self._points.append(point)
        self._measured.append(point.seconds)
        try:
            with self._csv.open("a", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow(
                    (point.step, f"{point.loss:.6f}", f"{point.learning_rate:.3e}", f"{point.seconds:.3f}")
                )
        except OSError as error:
            raise StorageError(f"cannot write {self._csv}: {error.strerror or error}") from error
        if time.monotonic() - self._drawn_at > DRAW_SECONDS:
            self.draw()

    def draw(self) -> None:
        """Write the chart: every step in grey, the mean of the latest in blue."""
        if not self._points:
            return
        self._drawn_at = time.monotonic()
        losses = [point.loss for point in self._points]
        smooth, total = [], 0.0
        for index, loss in enumerate(losses):
            total += loss - (losses[index - WINDOW] if index >= WINDOW else 0.0)
            smooth.append(total / min(index + 1, WINDOW))
        top = sorted(losses)[int(0.98 * (len(losses) - 1))] * 1.1 or 1.0
        last = self._points[-1].step
        chart = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
        draw = ImageDraw.Draw(chart)

        def place(step: int, loss: float) -> tuple[float, float]:
            x = _LEFT + (_WIDTH - _LEFT - 8) * step / max(last, 1)
            return x, (_HEIGHT - _BOTTOM) * (1 - min(loss, top) / top)

        for share in (0.25, 0.5, 0.75, 1.0):
            _, y = place(0, top * share)
            draw.line([(_LEFT, y), (_WIDTH, y)], fill="#dddddd")
            draw.text((2, y), f"{top * share:.3g}", fill="black")
        draw.line([(_LEFT, 0), (_LEFT, _HEIGHT - _BOTTOM), (_WIDTH, _HEIGHT - _BOTTOM)], fill="black")
        for share in (0.25, 0.5, 0.75, 1.0):
            x, _ = place(round(last * share), 0)
            draw.text((x, _HEIGHT - _BOTTOM + 4), str(round(last * share)), fill="black", anchor="ra")
        steps = [point.step for point in self._points]
        for line, colour in ((losses, "#bbbbbb"), (smooth, "#1f5fbf")):
            draw.line([place(step, loss) for step, loss in zip(steps, line, strict=True)], fill=colour)
        replace_file(self._chart, lambda file: chart.save(file, format="PNG"))


def _read(path: Path) -> list[Point]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file) if len(row) == len(COLUMNS) and row[0].isdigit()]
    return [Point(int(step), float(loss), float(rate), float(seconds)) for step, loss, rate, seconds in rows]
