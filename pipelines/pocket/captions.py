"""Says in varied English what a scene shows. The renderer decides what is there; this decides what is mentioned."""

from dataclasses import dataclass
from random import Random

from pipelines.pocket.scenes import Figure, Scene

SUBJECT_WORDS: dict[str, tuple[str, ...]] = {
    "house": ("house", "house", "house", "cottage", "little home"),
    "tree": ("tree",),
    "sailboat": ("sailboat", "sailboat", "sailing boat", "boat"),
    "car": ("car", "car", "automobile"),
    "cat": ("cat", "cat", "kitty"),
    "flower": ("flower", "flower", "blossom"),
    "balloon": ("hot-air balloon", "hot air balloon", "balloon"),
    "rocket": ("rocket", "rocket", "space rocket", "spaceship"),
    "mushroom": ("mushroom", "mushroom", "toadstool"),
    "lighthouse": ("lighthouse",),
    "snowman": ("snowman",),
    "bird": ("bird",),
    "fish": ("fish",),
    "umbrella": ("umbrella", "umbrella", "parasol"),
    "tent": ("tent", "tent", "camping tent"),
    "windmill": ("windmill", "windmill", "mill"),
    "butterfly": ("butterfly",),
    "castle": ("castle", "castle", "fortress"),
    "cactus": ("cactus",),
    "robot": ("robot", "robot", "android"),
}
SETTING_WORDS: dict[str, tuple[str, ...]] = {
    "hill": ("on a green hill", "on a hill", "on green hills", "in a meadow", "in the grass", "in the countryside"),
    "sea": ("by the sea", "at sea", "in the sea", "on the ocean", "on the water", "in the ocean"),
    "desert": ("in the desert", "in a desert", "among sand dunes", "on the sand", "in a sandy desert"),
    "snow": ("in the snow", "in a snowy landscape", "in snowy mountains", "in winter", "on a snowy field"),
    "city": ("in the city", "in a city", "on a city street", "in town", "in front of tall buildings"),
    "forest": ("in the forest", "in a forest", "in the woods", "among fir trees", "in front of a forest"),
}
TIME_WORDS: dict[str, tuple[str, ...]] = {
    "day": ("by day", "during the day", "in daylight", "at noon", "under a blue sky", "in the daytime"),
    "sunset": ("at sunset", "at sunset", "at dusk", "in the evening", "under an orange sky", "at sundown"),
    "night": ("at night", "at night", "by night", "under the night sky", "at midnight"),
}
WEATHER_WORDS: dict[str, tuple[str, ...]] = {
    "clear": ("with a clear sky", "in the sun", "in sunshine", "with the sun in the sky"),
    "clouds": ("with clouds", "with a cloudy sky", "on a cloudy day", "under the clouds"),
    "rain": ("in the rain", "with rain", "on a rainy day", "while it rains"),
    "stars": ("with stars", "under the stars", "with a starry sky", "with many stars"),
    "moon": ("with the moon", "under the moon", "in the moonlight", "with a bright moon"),
    "rainbow": ("with a rainbow", "under a rainbow", "and a rainbow"),
}
POSITION_WORDS: dict[str, tuple[str, ...]] = {
    "left": ("on the left", "to the left", "on the left side", "at the left"),
    "centre": ("in the centre", "in the center", "in the middle"),
    "right": ("on the right", "to the right", "on the right side", "at the right"),
}
SIZE_WORDS: dict[str, tuple[str, ...]] = {
    "small": ("small", "small", "little", "tiny", "distant"),
    "large": ("large", "large", "big", "huge"),
}
OPENINGS = ("a picture of", "an illustration of", "a drawing of", "a flat illustration of", "an image of",
            "a scene with", "a painting of")  # fmt: skip
FILLERS = ("masterpiece", "best quality", "beautiful", "cute", "highly detailed", "colourful", "colorful", "lovely",
           "4k", "children's book illustration", "flat design", "simple", "minimalist", "pretty",
           "digital art")  # fmt: skip
LETTERS = "eeeaaaiioouubcddfghjkllmmnnnppqrrrsssttttvwxyz"


@dataclass(frozen=True)
class Wording:
    """Which attributes one caption mentions."""

    colour: bool = True
    position: bool = False
    size: bool = False
    setting: bool = True
    time: bool = True
    weather: bool = False
    companion: bool = True


def random_wording(random: Random) -> Wording:
    """Choose what to mention: mostly the main attributes, now and then only a few of them."""
    if random.random() < 0.12:
        return Wording(colour=random.random() < 0.5, setting=False, time=False, companion=False)
    return Wording(
        colour=random.random() < 0.93,
        position=random.random() < 0.4,
        size=random.random() < 0.4,
        setting=random.random() < 0.88,
        time=random.random() < 0.85,
        weather=random.random() < 0.5,
        companion=random.random() < 0.95,
    )


def caption(scene: Scene, random: Random, *, wording: Wording | None = None) -> str:
    """Describe the scene; with no `wording`, choose one by chance. Every mentioned attribute is true."""
    said = wording or random_wording(random)
    places = []
    if said.setting:
        places.append(random.choice(SETTING_WORDS[scene.setting]))
    if said.time:
        places.append(random.choice(TIME_WORDS[scene.time]))
    if said.weather:
        places.append(random.choice(WEATHER_WORDS[scene.weather]))
    form = random.random()
    if form < 0.14:
        return _tags(scene, random, said)
    if form < 0.5:
        random.shuffle(places)
    subject = " and ".join(_figure_words(figure, random, said) for figure in _mentioned(scene, said))
    if form > 0.86 and places:
        first, *rest = places
        text = f"{first}, {' '.join([subject, *rest])}"
    else:
        text = " ".join([subject, *places]) if random.random() < 0.7 else ", ".join([subject, *places])
    if random.random() < 0.15:
        text = f"{random.choice(OPENINGS)} {text}"
    if random.random() < 0.15:
        text = _with_meaningless_words(text, random)
    return _dressed(text, random)


def plain_caption(scene: Scene) -> str:
    """Describe subject, colour, setting and time in one fixed form: "a red house by the sea at sunset"."""
    first = {name: words[0] for name, words in SUBJECT_WORDS.items()}
    figures = " and ".join(_with_article(f"{figure.colour} {first[figure.subject]}") for figure in scene.figures)
    return f"{figures} {SETTING_WORDS[scene.setting][0]} {TIME_WORDS[scene.time][0]}"


def _mentioned(scene: Scene, said: Wording) -> tuple[Figure, ...]:
    return scene.figures if said.companion else scene.figures[:1]


def _figure_words(figure: Figure, random: Random, said: Wording) -> str:
    words = [random.choice(SUBJECT_WORDS[figure.subject])]
    if said.colour:
        words.insert(0, figure.colour)
    if said.size:
        words.insert(0, random.choice(SIZE_WORDS[figure.size]))
    text = " ".join(words)
    if random.random() < 0.92:
        text = f"the {text}" if random.random() < 0.06 else _with_article(text)
    return f"{text} {random.choice(POSITION_WORDS[figure.position])}" if said.position else text


def _tags(scene: Scene, random: Random, said: Wording) -> str:
    tags = []
    for figure in _mentioned(scene, said):
        words = [random.choice(SUBJECT_WORDS[figure.subject])]
        if said.colour:
            words.insert(0, figure.colour)
        if said.size:
            words.insert(0, random.choice(SIZE_WORDS[figure.size]))
        tags.append(" ".join(words))
        if said.position:
            tags.append(figure.position.replace("centre", random.choice(("centre", "center"))))
    around = []
    if said.setting:
        names = {"hill": "green hill", "snow": random.choice(("snow", "winter"))}
        around.append(names.get(scene.setting, scene.setting))
    if said.time:
        around.append(scene.time)
    if said.weather:
        around.append({"clear": "clear sky"}.get(scene.weather, scene.weather))
    random.shuffle(around)
    return _dressed(", ".join(tags + around), random)


def _with_meaningless_words(text: str, random: Random) -> str:
    """Add words that change nothing, so that words the model never learnt are ignored later."""
    if random.random() < 0.6:
        words = random.choice(FILLERS)
    else:
        words = " ".join("".join(random.choices(LETTERS, k=random.randint(3, 8))) for _ in range(random.randint(1, 3)))
    return f"{words}, {text}" if random.random() < 0.4 else f"{text}, {words}"


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _dressed(text: str, random: Random) -> str:
    text = text[0].upper() + text[1:] if random.random() < 0.2 else text
    return text + "." if random.random() < 0.12 else text
