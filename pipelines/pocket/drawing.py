"""Antialiased shapes on a supersampled Pillow canvas. Knows nothing of subjects, settings or captions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

Rgb = tuple[int, int, int]
Point = tuple[float, float]

SUPERSAMPLING = 4
INK: Rgb = (34, 32, 38)
PAPER: Rgb = (250, 247, 240)
PAPER_SHARE = 0.4
"""How much of the paper shows through a wash."""


def mix(first: Rgb, second: Rgb, amount: float) -> Rgb:
    """Blend linearly: 0 gives `first`, 1 gives `second`."""
    red, green, blue = (round(a + (b - a) * amount) for a, b in zip(first, second, strict=True))
    return (red, green, blue)


class Canvas:
    """A picture under construction, in pixels of the final image, y downwards.

    With `outlined`, colours become thin washes on paper and every shape gets an ink contour. `paper_share` says how
    thin, from 0 (opaque) to 1 (none), for what is painted from then on.
    """

    def __init__(self, width: int, height: int, *, outlined: bool = False) -> None:
        """Start with an empty (black) picture of `width` by `height` final pixels."""
        self.width = width
        self.height = height
        self.outlined = outlined
        self.paper_share = PAPER_SHARE if outlined else 0.0
        self._image = Image.new("RGB", (width * SUPERSAMPLING, height * SUPERSAMPLING))
        self._draw = ImageDraw.Draw(self._image)

    def finished(self) -> Image.Image:
        """Return the antialiased picture at its final size."""
        return self._image.reduce(SUPERSAMPLING)

    def vertical_gradient(self, stops: Sequence[Rgb], *, top: float, bottom: float) -> None:
        """Fill the full width between `top` and `bottom` with evenly spaced colour stops."""
        rows = max(1, round((bottom - top) * SUPERSAMPLING))
        table = np.array([self._wash(stop) for stop in stops], np.float32)
        where = np.linspace(0, len(stops) - 1, rows)
        column = np.stack([np.interp(where, range(len(stops)), table[:, channel]) for channel in range(3)], -1)
        strip = Image.fromarray(column.round().astype(np.uint8)[:, None, :]).resize((self._image.width, rows))
        self._image.paste(strip, (0, round(top * SUPERSAMPLING)))

    def ellipse(self, centre: Point, radius_x: float, radius_y: float, *, fill: Rgb, contour: bool = True) -> None:
        """Fill an axis-parallel ellipse."""
        (x, y), scale = centre, SUPERSAMPLING
        box = ((x - radius_x) * scale, (y - radius_y) * scale, (x + radius_x) * scale, (y + radius_y) * scale)
        self._draw.ellipse(box, fill=self._wash(fill), **self._contour(contour))

    def polygon(self, points: Sequence[Point], *, fill: Rgb, contour: bool = True) -> None:
        """Fill a closed polygon."""
        scaled = [(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in points]
        self._draw.polygon(scaled, fill=self._wash(fill), **self._contour(contour))

    def line(self, points: Sequence[Point], *, width: float, fill: Rgb) -> None:
        """Draw an open line with round joints."""
        scaled = [(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in points]
        colour = mix(INK, self._wash(fill), 0.3) if self.outlined else fill
        self._draw.line(scaled, fill=colour, width=max(1, round(width * SUPERSAMPLING)), joint="curve")

    def _wash(self, colour: Rgb) -> Rgb:
        return mix(colour, PAPER, self.paper_share)

    def _contour(self, wanted: bool) -> dict[str, Any]:
        return {"outline": INK, "width": round(1.1 * SUPERSAMPLING)} if self.outlined and wanted else {}


@dataclass(frozen=True)
class Tones:
    """One named colour as it is painted: the main tone, its lit side, its shaded side, and what stands out on it."""

    base: Rgb
    light: Rgb
    dark: Rgb
    accent: Rgb


@dataclass(frozen=True)
class Pen:
    """Draws one subject in its own units: (0, 0) is the middle of its foot, y upwards, 1 is its height."""

    canvas: Canvas
    foot: Point
    height: float
    tones: Tones
    mirrored: bool = False

    def ellipse(self, x: float, y: float, radius_x: float, radius_y: float, fill: Rgb, *, tilt: float = 0) -> None:
        """Fill an ellipse, turned by `tilt` degrees counter-clockwise."""
        if tilt:
            self.polygon(_ellipse_points(x, y, radius_x, radius_y, tilt), fill)
        else:
            self.canvas.ellipse(self._at(x, y), radius_x * self.height, radius_y * self.height, fill=fill)

    def dome(self, x: float, y: float, radius_x: float, radius_y: float, fill: Rgb) -> None:
        """Fill the upper half of an ellipse standing on `y`."""
        steps = [math.pi * step / 24 for step in range(25)]
        self.polygon([(x + radius_x * math.cos(a), y + radius_y * math.sin(a)) for a in steps], fill)

    def polygon(self, points: Sequence[Point], fill: Rgb) -> None:
        """Fill a polygon."""
        self.canvas.polygon([self._at(x, y) for x, y in points], fill=fill)

    def box(self, left: float, bottom: float, right: float, top: float, fill: Rgb) -> None:
        """Fill a rectangle."""
        self.polygon([(left, bottom), (right, bottom), (right, top), (left, top)], fill)

    def line(self, points: Sequence[Point], width: float, fill: Rgb) -> None:
        """Draw a line, `width` in subject units."""
        self.canvas.line([self._at(x, y) for x, y in points], width=width * self.height, fill=fill)

    def _at(self, x: float, y: float) -> Point:
        side = -x if self.mirrored else x
        return (self.foot[0] + side * self.height, self.foot[1] - y * self.height)


def _ellipse_points(x: float, y: float, radius_x: float, radius_y: float, tilt: float) -> list[Point]:
    turn = math.radians(tilt)
    angles = [2 * math.pi * step / 40 for step in range(40)]
    return [
        (
            x + radius_x * math.cos(a) * math.cos(turn) - radius_y * math.sin(a) * math.sin(turn),
            y + radius_x * math.cos(a) * math.sin(turn) + radius_y * math.sin(a) * math.cos(turn),
        )
        for a in angles
    ]
