"""Everything behind the subject: sky, weather, the six settings, and what a subject stands on there."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from pipelines.pocket.drawing import Canvas, Point, Rgb, mix

CLOUD: Rgb = (250, 250, 252)
RAIN: Rgb = (170, 200, 236)
RAINBOW: tuple[Rgb, ...] = ((238, 108, 100), (250, 186, 92), (246, 232, 120), (126, 200, 132), (110, 150, 226))


@dataclass(frozen=True)
class Light:
    """A time of day: the sky from top to horizon, and how it tints the land."""

    sky: tuple[Rgb, ...]
    tint: Rgb
    strength: float
    sun: Rgb | None = None


TIMES: dict[str, Light] = {
    "day": Light(((92, 172, 236), (140, 204, 246), (206, 236, 250)), (255, 255, 255), 0, sun=(255, 232, 112)),
    "sunset": Light(((112, 84, 158), (222, 118, 138), (252, 176, 120), (255, 214, 150)), (232, 112, 84), 0.26,
                    sun=(255, 240, 190)),
    "night": Light(((24, 30, 84), (44, 54, 122), (78, 86, 156)), (26, 32, 92), 0.5),
}  # fmt: skip

WEATHERS: dict[str, tuple[str, ...]] = {
    "day": ("clear", "clouds", "rain", "rainbow"),
    "sunset": ("clear", "clouds", "rain"),
    "night": ("stars", "moon", "clouds", "rain"),
}


@dataclass(frozen=True)
class Land:
    """One picture's background while it is painted; `horizon` in pixels from the top, `unit` is a scale, 1 at 128."""

    canvas: Canvas
    light: Light
    horizon: float
    unit: float
    random: Random

    def lit(self, colour: Rgb) -> Rgb:
        """Return a land colour as it looks in this light."""
        return mix(colour, self.light.tint, self.light.strength)

    def ridge(self, base: float, *, waves: float, height: float, fill: Rgb) -> None:
        """Fill from a wavy line around `base` down to the lower edge."""
        phase, width = self.random.uniform(0, 6.3), self.canvas.width
        step = width / 32
        line = [
            (i * step, base - height * math.sin(phase + waves * 6.283 * i * step / (128 * self.unit)))
            for i in range(34)
        ]
        self.ground([(-4, line[0][1]), *line], fill)

    def ground(self, line: list[Point], fill: Rgb) -> None:
        """Fill below a line, to the lower edge."""
        bottom = self.canvas.height + 4
        self.canvas.polygon([*line, (line[-1][0] + 4, bottom), (-4, bottom)], fill=self.lit(fill))


def _hill(land: Land) -> None:
    unit, horizon = land.unit, land.horizon
    land.ridge(horizon - 3 * unit, waves=0.8, height=8 * unit, fill=(164, 212, 120))
    land.ridge(horizon + 8 * unit, waves=0.6, height=6 * unit, fill=(132, 192, 92))
    land.ridge(horizon + 22 * unit, waves=0.45, height=4 * unit, fill=(110, 172, 76))


def _sea(land: Land) -> None:
    canvas, unit, horizon = land.canvas, land.unit, land.horizon
    top, bottom = land.lit((112, 202, 208)), land.lit((42, 138, 172))
    canvas.vertical_gradient((top, bottom), top=horizon, bottom=canvas.height)
    for row in range(4):
        y = horizon + (8 + 11 * row) * unit
        for _ in range(max(2, round(canvas.width / 50))):
            x, half = land.random.uniform(0, canvas.width), land.random.uniform(7, 13) * unit
            canvas.ellipse((x, y), half, 1.3 * unit, fill=land.lit((176, 230, 232)), contour=False)


def _desert(land: Land) -> None:
    unit, horizon = land.unit, land.horizon
    land.ridge(horizon, waves=1.1, height=6 * unit, fill=(236, 196, 140))
    land.ridge(horizon + 12 * unit, waves=0.7, height=6 * unit, fill=(226, 178, 116))
    land.ridge(horizon + 26 * unit, waves=0.5, height=4 * unit, fill=(214, 162, 100))


def _snow(land: Land) -> None:
    unit, horizon = land.unit, land.horizon
    x = -20 * unit + land.random.uniform(0, 30) * unit
    while x < land.canvas.width:
        half, high = land.random.uniform(22, 32) * unit, land.random.uniform(20, 32) * unit
        peak = horizon - high
        flank = [(x - half, horizon + 6 * unit), (x, peak), (x + half, horizon + 6 * unit)]
        land.canvas.polygon(flank, fill=land.lit((150, 172, 204)))
        cap = [(x - half * 0.34, peak + high * 0.4), (x, peak), (x + half * 0.34, peak + high * 0.4)]
        land.canvas.polygon(cap, fill=land.lit((244, 248, 255)))
        x += half * land.random.uniform(1.3, 1.8)
    land.ridge(horizon + 3 * unit, waves=0.7, height=4 * unit, fill=(222, 232, 246))
    land.ridge(horizon + 18 * unit, waves=0.5, height=4 * unit, fill=(238, 244, 253))


def _city(land: Land) -> None:
    canvas, unit, horizon = land.canvas, land.unit, land.horizon
    window = (255, 226, 140) if land.light.sun is None else land.lit((206, 222, 238))
    x = -land.random.uniform(0, 12) * unit
    while x < canvas.width:
        width, high = land.random.choice((16, 19, 22)) * unit, land.random.uniform(22, 56) * unit
        wall = land.lit(land.random.choice(((136, 148, 172), (158, 162, 180), (116, 130, 158))))
        canvas.polygon([(x, horizon + 8 * unit), (x, horizon - high), (x + width, horizon - high),
                        (x + width, horizon + 8 * unit)], fill=wall)  # fmt: skip
        columns = 2 if width < 20 * unit else 3
        for row in range(int(high / (9 * unit))):
            for column in range(columns):
                left = x + width * (column + 0.5) / columns - 1.7 * unit
                top = horizon - high + (4 + 9 * row) * unit
                side = 3.4 * unit
                canvas.polygon([(left, top), (left + side, top), (left + side, top + side), (left, top + side)],
                               fill=window, contour=False)  # fmt: skip
        x += width + land.random.choice((0, 0, 2)) * unit
    for top, fill in ((4, (178, 180, 186)), (12, (122, 124, 134))):
        y = horizon + top * unit
        land.ground([(-4, y), (canvas.width, y)], fill)


def _forest(land: Land) -> None:
    canvas, unit, horizon = land.canvas, land.unit, land.horizon
    for base, scale, fill in ((0, 1.15, (98, 150, 124)), (7, 0.95, (62, 116, 92))):
        x = land.random.uniform(-14, 0) * unit
        while x < canvas.width + 8 * unit:
            high, half = land.random.uniform(34, 50) * unit * scale, land.random.uniform(9, 12) * unit
            foot = horizon + (base + 4) * unit
            for low in (0.0, 0.34):
                shrink = 1 - 0.75 * low
                canvas.polygon([(x - half * shrink, foot - high * low), (x, foot - high * (0.62 + low)),
                                (x + half * shrink, foot - high * low)], fill=land.lit(fill))  # fmt: skip
            x += half * land.random.uniform(1.2, 1.7)
    land.ridge(horizon + 9 * unit, waves=0.8, height=2.5 * unit, fill=(92, 126, 70))
    land.ridge(horizon + 24 * unit, waves=0.5, height=3 * unit, fill=(78, 108, 58))


SETTINGS: dict[str, Callable[[Land], None]] = {
    "hill": _hill,
    "sea": _sea,
    "desert": _desert,
    "snow": _snow,
    "city": _city,
    "forest": _forest,
}


def _puff(land: Land, centre: Point, size: float, fill: Rgb) -> None:
    x, y = centre
    for dx, dy, radius in ((-0.75, 0.12, 0.5), (0.75, 0.14, 0.48), (0, -0.12, 0.7)):
        land.canvas.ellipse(
            (x + dx * size, y + dy * size), radius * size, radius * size * 0.72, fill=fill, contour=False
        )
    land.canvas.ellipse((x, y + 0.28 * size), 1.15 * size, 0.26 * size, fill=fill, contour=False)


def _disc_place(land: Land) -> Point:
    side = land.random.choice((0.16, 0.84))
    return (land.canvas.width * (side + land.random.uniform(-0.04, 0.04)), land.random.uniform(17, 24) * land.unit)


def _clear(land: Land) -> None:
    if land.light.sun is None:
        return
    x, y = _disc_place(land)
    low = land.light.strength > 0
    centre = (x, land.horizon - land.random.uniform(4, 16) * land.unit) if low else (x, y)
    radius = (13 if low else 10) * land.unit
    land.canvas.ellipse(centre, radius, radius, fill=land.light.sun)


def _clouds(land: Land, *, grey: float = 0.0) -> None:
    fill = mix(mix(CLOUD, (128, 138, 158), grey), land.light.tint, land.light.strength * 0.75)
    count = max(3, round(land.canvas.width / 40))
    for index in range(count):
        x = land.canvas.width * (index + land.random.uniform(0.25, 0.75)) / count
        _puff(land, (x, land.random.uniform(12, 34) * land.unit), land.random.uniform(10, 14) * land.unit, fill)


def _rain(land: Land) -> None:
    _clouds(land, grey=0.75)
    fill, unit = mix(RAIN, land.light.tint, land.light.strength * 0.4), land.unit
    columns = max(7, round(land.canvas.width / (18 * unit)))
    for row in range(3):
        for column in range(columns):
            x = land.canvas.width * (column + 0.5 * (row % 2) + land.random.uniform(0, 0.4)) / columns
            y = (34 + 19 * row + land.random.uniform(0, 6)) * unit
            land.canvas.line([(x, y), (x - 3.5 * unit, y + 10 * unit)], width=2 * unit, fill=fill)


def _stars(land: Land) -> None:
    for index in range(max(12, round(12 * land.canvas.width / (128 * land.unit)))):
        x = land.canvas.width * (index % 6 + land.random.uniform(0.15, 0.85)) / 6
        y = (6 + 22 * (index // 6) + land.random.uniform(0, 16)) * land.unit
        radius = land.random.uniform(1.5, 2.3) * land.unit
        land.canvas.ellipse((x, y), radius, radius, fill=(255, 250, 214), contour=False)


def _moon(land: Land) -> None:
    centre, radius = _disc_place(land), 11 * land.unit
    land.canvas.ellipse(centre, radius, radius, fill=(255, 244, 200))
    if land.random.random() < 0.5:
        bite = (centre[0] + 5.5 * land.unit, centre[1] - 3 * land.unit)
        land.canvas.ellipse(bite, radius * 0.85, radius * 0.85, fill=mix(land.light.sky[0], land.light.sky[1], 0.4),
                            contour=False)  # fmt: skip


def _rainbow(land: Land) -> None:
    centre = (land.canvas.width * land.random.uniform(0.35, 0.65), land.horizon + 6 * land.unit)
    inside = land.light.sky[-2]
    for index, fill in enumerate((*RAINBOW, inside)):
        radius = (58 - 4.2 * index) * land.unit
        land.canvas.ellipse(centre, radius, radius, fill=mix(fill, inside, 0.2), contour=False)


WEATHER: dict[str, Callable[[Land], None]] = {
    "clear": _clear,
    "clouds": _clouds,
    "rain": _rain,
    "stars": _stars,
    "moon": _moon,
    "rainbow": _rainbow,
}


def paint_background(land: Land, *, setting: str, weather: str) -> None:
    """Paint sky, weather and setting, back to front."""
    land.canvas.vertical_gradient(land.light.sky, top=0, bottom=land.horizon + 12 * land.unit)
    WEATHER[weather](land)
    SETTINGS[setting](land)


def paint_island(land: Land, *, foot: Point, half_width: float) -> None:
    """Paint the sandy island on which a land subject stands in the sea."""
    x, y = foot
    land.canvas.ellipse((x, y + 2.5 * land.unit), half_width * 1.25, 7 * land.unit, fill=land.lit((176, 230, 232)))
    land.canvas.ellipse((x, y + 1.5 * land.unit), half_width * 1.15, 5 * land.unit, fill=land.lit((240, 214, 156)))


def paint_shadow(land: Land, *, foot: Point, half_width: float, setting: str) -> None:
    """Paint the soft contact shadow of a subject."""
    shade = {"hill": (78, 132, 58), "sea": (34, 112, 142), "desert": (178, 128, 80), "snow": (186, 202, 226),
             "city": (88, 90, 102), "forest": (52, 78, 42)}[setting]  # fmt: skip
    land.canvas.ellipse(foot, half_width, 3 * land.unit, fill=land.lit(shade), contour=False)
