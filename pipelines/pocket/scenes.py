"""Drawn scenes, endless and seeded: what a picture shows (`Scene`), and how it is rendered in each style."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from PIL import Image, ImageEnhance

from pipelines.pocket.drawing import Canvas, Pen
from pipelines.pocket.scenery import SETTINGS, TIMES, WEATHERS, Land, paint_background, paint_island, paint_shadow
from pipelines.pocket.subjects import COLOURS, SUBJECTS, Place

POSITIONS = {"left": 0.27, "centre": 0.5, "right": 0.73}
SIZES = {"small": 38.0, "large": 62.0}
STYLES = ("flat", "pixel-art", "ink")
HELD_OUT_PERCENT = 12
PIXEL_BLOCK = 4
PALETTE_STEP = 51
"""Between the levels of a channel in pixel art: 216 colours, as in the web's early palette."""
VIVIDNESS = 1.5


@dataclass(frozen=True)
class Figure:
    """One subject in a scene: names from `SUBJECTS`, `COLOURS`, `POSITIONS` and `SIZES`."""

    subject: str
    colour: str
    position: str = "centre"
    size: str = "large"


@dataclass(frozen=True)
class Scene:
    """All that a picture shows. `seed` decides what no caption names: exact places, hills, clouds."""

    figure: Figure
    setting: str
    time: str
    weather: str
    companion: Figure | None = None
    seed: int = 0

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Return the one or two subjects."""
        return (self.figure,) if self.companion is None else (self.figure, self.companion)

    @property
    def is_portrait(self) -> bool:
        """Whether there is one large subject, in the middle."""
        return self.companion is None and (self.figure.size, self.figure.position) == ("large", "centre")


def held_out(figure: Figure, *, setting: str) -> bool:
    """Tell whether this subject × colour × setting is kept out of training; stable across machines and versions."""
    key = f"{figure.subject}/{figure.colour}/{setting}".encode()
    return zlib.crc32(key) % 100 < HELD_OUT_PERCENT


def random_scene(random: Random) -> Scene:
    """Draw a scene from the whole space, held-out combinations included."""
    time = random.choice(tuple(TIMES))
    figure = Figure(
        random.choice(tuple(SUBJECTS)),
        random.choice(tuple(COLOURS)),
        random.choice(tuple(POSITIONS)),
        random.choice(tuple(SIZES)),
    )
    scene = Scene(
        figure,
        setting=random.choice(tuple(SETTINGS)),
        time=time,
        weather=random.choice(WEATHERS[time]),
        seed=random.getrandbits(32),
    )
    if random.random() >= 0.15:
        return scene
    first, second = random.sample(("left", "right"), 2)
    others = [subject for subject in SUBJECTS if subject != figure.subject]
    companion = Figure(random.choice(others), random.choice(tuple(COLOURS)), second, "small")
    return replace(scene, figure=replace(figure, position=first, size="small"), companion=companion)


def training_scene(random: Random) -> Scene:
    """Draw a scene without any held-out combination."""
    while True:
        scene = random_scene(random)
        if not any(held_out(figure, setting=scene.setting) for figure in scene.figures):
            return scene


def held_out_combinations() -> Iterator[tuple[str, str, str]]:
    """List every subject, colour and setting that training never shows together."""
    for subject in SUBJECTS:
        for colour in COLOURS:
            for setting in SETTINGS:
                if held_out(Figure(subject, colour), setting=setting):
                    yield subject, colour, setting


def mirrored(scene: Scene) -> Scene:
    """Return the record of the horizontally flipped picture."""
    swap = {"left": "right", "right": "left", "centre": "centre"}
    figure, companion = (
        None if figure is None else replace(figure, position=swap[figure.position])
        for figure in (scene.figure, scene.companion)
    )
    assert figure is not None
    return replace(scene, figure=figure, companion=companion)


def render(scene: Scene, *, style: str = "flat", width: int = 128, height: int = 128) -> Image.Image:
    """Draw the scene as an RGB picture of `width` by `height` pixels; equal arguments give equal pixels."""
    return render_layers(scene, style=style, width=width, height=height)[1]


def render_layers(
    scene: Scene, *, style: str = "flat", width: int = 128, height: int = 128
) -> tuple[Image.Image, Image.Image]:
    """Draw the empty setting, and the whole scene: where they differ, there are the subjects."""
    if style not in STYLES:
        raise ValueError(f"style must be one of {', '.join(STYLES)}, got {style}")
    canvas = Canvas(width, height, outlined=style == "ink")
    random = Random(scene.seed)
    unit = (min(width, height) / 128) ** 0.6
    land = Land(canvas, TIMES[scene.time], height * random.uniform(0.6, 0.66), unit, random)
    paint_background(land, setting=scene.setting, weather=scene.weather)
    empty = canvas.finished()
    canvas.paper_share = 0.0  # figures stand out of the washes, in their own colours
    for figure in scene.figures:
        _paint_figure(land, figure, setting=scene.setting)
    picture = canvas.finished()
    return (_pixelated(empty), _pixelated(picture)) if style == "pixel-art" else (empty, picture)


def _paint_figure(land: Land, figure: Figure, *, setting: str) -> None:
    drawing, unit, random = SUBJECTS[figure.subject], land.unit, land.random
    height = SIZES[figure.size] * unit * random.uniform(0.96, 1.06)
    x = land.canvas.width * (POSITIONS[figure.position] + random.uniform(-0.03, 0.03))
    ground = min(land.horizon + random.uniform(24, 32) * unit, land.canvas.height - 7 * unit)
    at_sea = setting == "sea"
    match drawing.place:
        case Place.SKY:
            foot = (x, land.horizon - (2 if figure.size == "large" else 16) * unit + random.uniform(-4, 4) * unit)
        case Place.WATER if at_sea:
            foot = (x, ground - 6 * unit)
            paint_shadow(land, foot=foot, half_width=drawing.shadow * height, setting=setting)
        case Place.GROUND | Place.WATER:
            foot = (x, ground)
            half_width = drawing.shadow * height
            if at_sea:
                paint_island(land, foot=foot, half_width=half_width)
            else:
                paint_shadow(land, foot=foot, half_width=half_width, setting=setting)
    drawing.draw(Pen(land.canvas, foot, height, COLOURS[figure.colour], mirrored=random.random() < 0.5))


def _pixelated(picture: Image.Image) -> Image.Image:
    size = (picture.width // PIXEL_BLOCK, picture.height // PIXEL_BLOCK)
    small = picture.resize(size, Image.Resampling.NEAREST)
    vivid = ImageEnhance.Color(small).enhance(VIVIDNESS)
    few = vivid.point(lambda level: PALETTE_STEP * round(level / PALETTE_STEP))
    return few.resize(picture.size, Image.Resampling.NEAREST)
