"""How each subject is drawn, in its own units (see `Pen`). Knows nothing of where it stands or what time it is."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from pipelines.pocket.drawing import Pen, Rgb, Tones

CREAM: Rgb = (255, 246, 222)
GLASS: Rgb = (196, 230, 244)
LAMP: Rgb = (255, 224, 130)
WOOD: Rgb = (132, 88, 56)
TYRE: Rgb = (44, 44, 52)
STEM: Rgb = (58, 128, 62)
BEAK: Rgb = (250, 160, 50)

COLOURS: dict[str, Tones] = {
    "red": Tones((220, 38, 42), (244, 92, 86), (158, 18, 34), CREAM),
    "orange": Tones((246, 132, 24), (255, 172, 78), (202, 92, 6), CREAM),
    "yellow": Tones((252, 212, 32), (255, 236, 122), (218, 168, 6), TYRE),
    "green": Tones((32, 146, 66), (86, 190, 108), (14, 98, 46), CREAM),
    "blue": Tones((36, 88, 222), (96, 146, 248), (18, 52, 154), CREAM),
    "purple": Tones((134, 52, 176), (178, 104, 216), (90, 24, 126), CREAM),
    "pink": Tones((248, 132, 182), (255, 184, 214), (216, 84, 142), CREAM),
    "brown": Tones((126, 76, 42), (170, 116, 76), (84, 46, 22), CREAM),
    "white": Tones((246, 246, 244), (255, 255, 255), (196, 202, 214), TYRE),
    "black": Tones((44, 44, 50), (92, 92, 102), (18, 18, 22), CREAM),
}


class Place(Enum):
    """Where a subject belongs; decides its height in the picture and whether it casts a shadow."""

    GROUND = "ground"
    WATER = "water"
    SKY = "sky"


@dataclass(frozen=True)
class Drawing:
    """One subject: how to draw it, where it belongs, the half-width of its shadow in units of its height."""

    draw: Callable[[Pen], None]
    place: Place = Place.GROUND
    shadow: float = 0.4


def _house(pen: Pen) -> None:
    tones = pen.tones
    pen.box(0.2, 0.6, 0.34, 0.96, tones.dark)
    pen.box(-0.42, 0, 0.42, 0.55, tones.base)
    pen.box(0.16, 0, 0.42, 0.55, tones.light)
    pen.polygon([(-0.54, 0.52), (0, 1), (0.54, 0.52)], tones.dark)
    pen.box(-0.1, 0, 0.1, 0.33, tones.dark)
    for x in (-0.27, 0.27):
        pen.box(x - 0.08, 0.2, x + 0.08, 0.38, LAMP)


def _tree(pen: Pen) -> None:
    tones = pen.tones
    pen.polygon([(-0.1, 0), (0.1, 0), (0.06, 0.45), (-0.06, 0.45)], WOOD)
    pen.ellipse(0.18, 0.56, 0.25, 0.22, tones.dark)
    pen.ellipse(-0.2, 0.55, 0.25, 0.22, tones.base)
    pen.ellipse(0.02, 0.72, 0.31, 0.29, tones.base)
    pen.ellipse(-0.08, 0.8, 0.16, 0.14, tones.light)


def _sailboat(pen: Pen) -> None:
    tones = pen.tones
    pen.line([(0.02, 0.2), (0.02, 0.98)], 0.04, WOOD)
    pen.polygon([(-0.02, 0.28), (-0.02, 0.98), (-0.44, 0.28)], tones.light)
    pen.polygon([(0.06, 0.28), (0.06, 0.9), (0.42, 0.28)], tones.base)
    pen.polygon([(-0.54, 0.22), (0.54, 0.22), (0.36, 0), (-0.36, 0)], tones.dark)
    pen.polygon([(-0.54, 0.22), (0.54, 0.22), (0.49, 0.15), (-0.49, 0.15)], tones.base)


def _car(pen: Pen) -> None:
    tones = pen.tones
    pen.polygon([(-0.36, 0.38), (-0.22, 0.66), (0.2, 0.66), (0.38, 0.38)], tones.light)
    pen.polygon([(-0.25, 0.4), (-0.16, 0.6), (-0.03, 0.6), (-0.03, 0.4)], GLASS)
    pen.polygon([(0.03, 0.4), (0.03, 0.6), (0.15, 0.6), (0.26, 0.4)], GLASS)
    pen.polygon([(-0.6, 0.12), (-0.58, 0.36), (-0.36, 0.42), (0.38, 0.42), (0.6, 0.32), (0.62, 0.12)], tones.base)
    pen.box(-0.6, 0.12, 0.62, 0.2, tones.dark)
    for x in (-0.34, 0.36):
        pen.ellipse(x, 0.13, 0.14, 0.14, TYRE)
        pen.ellipse(x, 0.13, 0.06, 0.06, (190, 190, 196))
    pen.ellipse(0.57, 0.28, 0.045, 0.045, LAMP)


def _cat(pen: Pen) -> None:
    tones = pen.tones
    pen.line([(0.2, 0.06), (0.42, 0.1), (0.46, 0.3), (0.4, 0.46)], 0.1, tones.dark)
    pen.ellipse(0, 0.27, 0.29, 0.28, tones.base)
    pen.ellipse(0, 0.2, 0.15, 0.19, tones.light)
    for side in (-1, 1):
        pen.polygon([(side * 0.28, 0.66), (side * 0.25, 1), (side * 0.06, 0.86)], tones.dark)
        pen.ellipse(side * 0.13, 0.03, 0.1, 0.05, tones.dark)
    pen.ellipse(0, 0.68, 0.29, 0.23, tones.base)
    for x in (-0.12, 0.12):
        pen.ellipse(x, 0.71, 0.06, 0.065, CREAM)
        pen.ellipse(x, 0.71, 0.03, 0.05, TYRE)
    pen.polygon([(-0.05, 0.62), (0.05, 0.62), (0, 0.56)], pen.tones.accent)


def _flower(pen: Pen) -> None:
    tones = pen.tones
    pen.line([(0, 0), (0, 0.5)], 0.07, STEM)
    pen.ellipse(0.16, 0.2, 0.16, 0.07, STEM, tilt=30)
    pen.ellipse(-0.16, 0.14, 0.16, 0.07, STEM, tilt=-30)
    for step in range(6):
        angle = math.pi * (step / 3 + 1 / 6)
        tone = tones.light if step in {1, 2} else tones.base
        pen.ellipse(0.22 * math.cos(angle), 0.68 + 0.22 * math.sin(angle), 0.15, 0.15, tone)
    pen.ellipse(0, 0.68, 0.13, 0.13, tones.dark)


def _balloon(pen: Pen) -> None:
    tones = pen.tones
    for x in (-0.1, 0.1):
        pen.line([(x * 1.6, 0.36), (x, 0.14)], 0.025, WOOD)
    pen.polygon([(-0.34, 0.5), (0.34, 0.5), (0.12, 0.27), (-0.12, 0.27)], tones.dark)
    pen.ellipse(0, 0.64, 0.38, 0.37, tones.base)
    pen.ellipse(0, 0.64, 0.24, 0.365, tones.light)
    pen.ellipse(0, 0.64, 0.1, 0.365, tones.base)
    pen.polygon([(-0.12, 0.14), (0.12, 0.14), (0.1, 0), (-0.1, 0)], WOOD)


def _rocket(pen: Pen) -> None:
    tones = pen.tones
    pen.polygon([(-0.1, 0.22), (0, 0), (0.1, 0.22)], BEAK)
    pen.polygon([(-0.05, 0.22), (0, 0.09), (0.05, 0.22)], LAMP)
    for side in (-1, 1):
        pen.polygon([(side * 0.12, 0.48), (side * 0.34, 0.16), (side * 0.12, 0.24)], tones.dark)
    hull = [(-0.12, 0.2), (-0.19, 0.42), (-0.18, 0.64), (-0.1, 0.86), (0, 1)]
    pen.polygon(hull + [(-x, y) for x, y in reversed(hull)], tones.base)
    pen.polygon([(0.04, 0.2), (0.12, 0.2), (0.19, 0.42), (0.18, 0.64), (0.1, 0.86), (0, 1), (0.07, 0.6)], tones.light)
    pen.polygon([(-0.13, 0.8), (-0.1, 0.86), (0, 1), (0.1, 0.86), (0.13, 0.8)], tones.dark)
    pen.ellipse(0, 0.58, 0.1, 0.1, CREAM)
    pen.ellipse(0, 0.58, 0.065, 0.065, (70, 110, 150))


def _mushroom(pen: Pen) -> None:
    tones = pen.tones
    pen.polygon([(-0.19, 0), (0.19, 0), (0.13, 0.45), (-0.13, 0.45)], CREAM)
    pen.polygon([(0.05, 0), (0.19, 0), (0.13, 0.45), (0.05, 0.45)], (226, 206, 176))
    pen.dome(0, 0.4, 0.52, 0.52, tones.base)
    pen.ellipse(0, 0.4, 0.52, 0.07, tones.dark)
    for x, y, radius in ((-0.25, 0.6, 0.085), (0.06, 0.75, 0.095), (0.31, 0.56, 0.075)):
        pen.ellipse(x, y, radius, radius * 0.9, tones.accent)


def _lighthouse(pen: Pen) -> None:
    tones = pen.tones
    pen.polygon([(-0.25, 0), (0.25, 0), (0.15, 0.78), (-0.15, 0.78)], tones.base)
    pen.polygon([(0.08, 0), (0.25, 0), (0.15, 0.78), (0.05, 0.78)], tones.dark)
    for low, half in ((0.22, 0.215), (0.5, 0.18)):
        pen.polygon([(-half, low), (half, low), (half - 0.015, low + 0.11), (0.015 - half, low + 0.11)], tones.accent)
    pen.box(-0.21, 0.76, 0.21, 0.82, tones.dark)
    pen.box(-0.12, 0.82, 0.12, 0.98, LAMP)
    pen.polygon([(-0.18, 0.97), (0.18, 0.97), (0, 1.14)], tones.dark)


def _snowman(pen: Pen) -> None:
    tones = pen.tones
    pen.ellipse(0, 0.26, 0.32, 0.28, tones.base)
    pen.ellipse(-0.08, 0.32, 0.16, 0.14, tones.light)
    pen.ellipse(0, 0.66, 0.22, 0.2, tones.base)
    pen.box(-0.2, 0.46, 0.2, 0.54, tones.dark)
    pen.box(0.06, 0.28, 0.16, 0.5, tones.dark)
    pen.box(-0.26, 0.8, 0.26, 0.86, tones.dark)
    pen.box(-0.16, 0.84, 0.16, 1.04, tones.dark)
    for x in (-0.09, 0.09):
        pen.ellipse(x, 0.71, 0.035, 0.035, tones.accent)
    pen.polygon([(0, 0.68), (0, 0.6), (0.2, 0.62)], BEAK)


def _bird(pen: Pen) -> None:
    tones = pen.tones
    pen.polygon([(-0.3, 0.42), (-0.66, 0.58), (-0.6, 0.32)], tones.dark)
    pen.ellipse(0, 0.4, 0.38, 0.22, tones.base, tilt=8)
    pen.ellipse(0.34, 0.58, 0.18, 0.17, tones.base)
    pen.polygon([(0.48, 0.64), (0.48, 0.5), (0.68, 0.56)], BEAK)
    pen.ellipse(0.38, 0.62, 0.035, 0.035, tones.accent)
    pen.polygon([(0.16, 0.42), (-0.24, 0.46), (-0.32, 0.92), (-0.08, 0.78)], tones.light)
    pen.ellipse(0.02, 0.27, 0.22, 0.07, tones.dark)


def _fish(pen: Pen) -> None:
    tones = pen.tones
    pen.polygon([(-0.34, 0.36), (-0.64, 0.62), (-0.56, 0.36), (-0.64, 0.1)], tones.dark)
    pen.polygon([(-0.16, 0.54), (0.0, 0.74), (0.2, 0.54)], tones.dark)
    pen.ellipse(0.06, 0.36, 0.46, 0.25, tones.base)
    pen.ellipse(0.1, 0.26, 0.3, 0.11, tones.light)
    pen.polygon([(0.0, 0.36), (-0.2, 0.46), (-0.2, 0.26)], tones.dark)
    pen.ellipse(0.32, 0.42, 0.07, 0.07, CREAM)
    pen.ellipse(0.34, 0.42, 0.038, 0.038, TYRE)


def _umbrella(pen: Pen) -> None:
    tones = pen.tones
    pen.line([(0, 0), (0, 0.9)], 0.05, WOOD)
    pen.dome(0, 0.5, 0.52, 0.44, tones.base)
    pen.polygon([(0.18, 0.5), (0.12, 0.76), (0, 0.94), (0.28, 0.86), (0.46, 0.68), (0.52, 0.5)], tones.dark)
    pen.polygon([(-0.18, 0.5), (-0.12, 0.76), (0, 0.94), (-0.28, 0.86), (-0.46, 0.68), (-0.52, 0.5)], tones.light)
    pen.line([(0, 0.92), (0, 1)], 0.05, WOOD)


def _tent(pen: Pen) -> None:
    tones = pen.tones
    pen.polygon([(-0.6, 0), (0.6, 0), (0, 0.86)], tones.base)
    pen.polygon([(0, 0.86), (0.6, 0), (0.3, 0)], tones.light)
    pen.polygon([(-0.22, 0), (0.22, 0), (0, 0.52)], tones.dark)
    pen.polygon([(-0.08, 0), (0.08, 0), (0, 0.3)], LAMP)


def _windmill(pen: Pen) -> None:
    tones = pen.tones
    pen.polygon([(-0.26, 0), (0.26, 0), (0.16, 0.62), (-0.16, 0.62)], tones.base)
    pen.polygon([(0.06, 0), (0.26, 0), (0.16, 0.62), (0.04, 0.62)], tones.dark)
    pen.dome(0, 0.6, 0.19, 0.2, tones.dark)
    pen.box(-0.07, 0, 0.07, 0.18, WOOD)
    for quarter in range(4):
        angle = math.radians(28 + 90 * quarter)
        along, across = (math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))
        corners = ((0.06, 0), (0.5, 0), (0.5, 0.15), (0.12, 0.15))
        blade = [(a * along[0] + b * across[0], 0.66 + a * along[1] + b * across[1]) for a, b in corners]
        pen.polygon(blade, tones.light)
    pen.ellipse(0, 0.66, 0.06, 0.06, WOOD)


def _butterfly(pen: Pen) -> None:
    tones = pen.tones
    for side in (-1, 1):
        pen.ellipse(side * 0.26, 0.26, 0.23, 0.18, tones.dark, tilt=side * -35)
        pen.ellipse(side * 0.31, 0.64, 0.33, 0.22, tones.base, tilt=side * 38)
        pen.ellipse(side * 0.36, 0.68, 0.15, 0.1, tones.light, tilt=side * 38)
        pen.line([(0, 0.74), (side * 0.12, 0.96)], 0.03, TYRE)
    pen.ellipse(0, 0.46, 0.06, 0.33, TYRE)


def _castle(pen: Pen) -> None:
    tones = pen.tones
    pen.box(-0.36, 0, 0.36, 0.5, tones.base)
    for x in (-0.24, 0, 0.24):
        pen.box(x - 0.07, 0.48, x + 0.07, 0.6, tones.base)
    for side in (-1, 1):
        near, far = side * 0.3, side * 0.56
        pen.box(near, 0, far, 0.66, tones.light if side < 0 else tones.base)
        pen.polygon([(side * 0.25, 0.64), (side * 0.61, 0.64), (side * 0.43, 1)], tones.dark)
        pen.box(side * 0.43 - 0.05, 0.38, side * 0.43 + 0.05, 0.52, LAMP)
    pen.box(-0.12, 0, 0.12, 0.2, tones.dark)
    pen.dome(0, 0.2, 0.12, 0.12, tones.dark)


def _cactus(pen: Pen) -> None:
    tones = pen.tones
    for side, low, high in ((-1, 0.34, 0.66), (1, 0.46, 0.8)):
        pen.box(side * 0.1, low, side * 0.4, low + 0.14, tones.base)
        pen.box(side * 0.27, low, side * 0.41, high, tones.base)
        pen.ellipse(side * 0.34, high, 0.07, 0.07, tones.base)
        pen.ellipse(side * 0.36, low + 0.04, 0.05, 0.05, tones.dark)
    pen.box(-0.16, 0, 0.16, 0.86, tones.base)
    pen.dome(0, 0.85, 0.16, 0.15, tones.base)
    pen.box(-0.1, 0.04, -0.03, 0.88, tones.light)
    pen.box(0.07, 0, 0.16, 0.86, tones.dark)


def _robot(pen: Pen) -> None:
    tones = pen.tones
    pen.line([(0, 0.86), (0, 1.0)], 0.04, TYRE)
    pen.ellipse(0, 1.02, 0.05, 0.05, BEAK)
    for side in (-1, 1):
        pen.box(side * 0.06, 0, side * 0.22, 0.2, tones.dark)
        pen.box(side * 0.3, 0.24, side * 0.43, 0.52, tones.dark)
    pen.box(-0.3, 0.16, 0.3, 0.56, tones.base)
    pen.box(-0.16, 0.28, 0.16, 0.44, tones.light)
    pen.box(-0.27, 0.6, 0.27, 0.9, tones.base)
    for x in (-0.12, 0.12):
        pen.ellipse(x, 0.77, 0.07, 0.07, CREAM)
        pen.ellipse(x, 0.77, 0.035, 0.035, TYRE)
    pen.box(-0.12, 0.64, 0.12, 0.68, tones.accent)


SUBJECTS: dict[str, Drawing] = {
    "house": Drawing(_house, shadow=0.55),
    "tree": Drawing(_tree, shadow=0.4),
    "sailboat": Drawing(_sailboat, Place.WATER, shadow=0.5),
    "car": Drawing(_car, shadow=0.64),
    "cat": Drawing(_cat, shadow=0.42),
    "flower": Drawing(_flower, shadow=0.24),
    "balloon": Drawing(_balloon, Place.SKY),
    "rocket": Drawing(_rocket, Place.SKY),
    "mushroom": Drawing(_mushroom, shadow=0.36),
    "lighthouse": Drawing(_lighthouse, shadow=0.36),
    "snowman": Drawing(_snowman, shadow=0.4),
    "bird": Drawing(_bird, Place.SKY),
    "fish": Drawing(_fish, Place.WATER, shadow=0.4),
    "umbrella": Drawing(_umbrella, shadow=0.3),
    "tent": Drawing(_tent, shadow=0.64),
    "windmill": Drawing(_windmill, shadow=0.36),
    "butterfly": Drawing(_butterfly, Place.SKY),
    "castle": Drawing(_castle, shadow=0.64),
    "cactus": Drawing(_cactus, shadow=0.34),
    "robot": Drawing(_robot, shadow=0.36),
}
