"""How long reading 10,000 different prompts takes, without tokenizing. `python -m benchmarks.prompts`."""

import argparse
import random
import time
from itertools import pairwise

from benchmarks.table import print_table
from pipelines.spec.prompt import parse, schedule, weigh

TARGET_SECONDS = 2.0
LENGTH = 150
STEPS = 20

_PHRASES = (
    "masterpiece,best quality,portrait of an old sailor,woman in a red coat,house by the sea,detailed background,dusk,"
    "oil paint,boat in a storm,soft light,35mm photograph,film grain,sharp focus,forest,castle on a hill,watercolor,"
    "snow,mountain,city at night,an orange cat,wide angle,by a lake,two dogs,morning fog,in the style of a woodcut"
)
_SYNTAX = (
    ("{}", 24),
    ("({})", 3),
    ("({}:1.3)", 4),
    ("[{}]", 1),
    ("(({}))", 1),
    ("\\({}\\)", 1),
    ("[{}:{}:0.5]", 1),
    ("[{}|{}]", 0.5),
    ("<lora:{}:0.8>", 1.5),
    ("BREAK {}", 0.5),
)


def prompts(count: int) -> list[str]:
    """Return different prompts of comma-separated phrases, most of them with some syntax."""
    chance = random.Random(0)
    phrases = _PHRASES.split(",")
    shapes, weights = zip(*_SYNTAX, strict=True)

    def phrase() -> str:
        shape: str = chance.choices(shapes, weights)[0]
        return shape.format(*chance.sample(phrases, shape.count("{}")))

    made: set[str] = set()
    while len(made) < count:
        prompt = phrase()
        while len(prompt) < LENGTH:
            prompt += f", {phrase()}"
        made.add(prompt)
    return sorted(made)


def main() -> None:
    """Read every prompt once: parsed, each branch scheduled over 20 steps, each different text of it weighed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=10_000)
    corpus = prompts(parser.parse_args().prompts)
    parse(corpus[0])
    weigh(schedule("([a:b:2])", num_inference_steps=STEPS)[0].text)  # the grammar is read once per process

    marks = [("start", time.process_time())]
    parsed = [parse(prompt) for prompt in corpus]
    marks.append(("parse", time.process_time()))
    scheduled = [schedule(branch.text, num_inference_steps=STEPS) for prompt in parsed for branch in prompt.branches]
    marks.append(("schedule", time.process_time()))
    texts = [text for steps in scheduled for text in {step.text for step in steps}]
    for text in texts:
        weigh(text)
    marks.append(("weigh", time.process_time()))

    characters = sum(map(len, corpus)) / len(corpus)
    print(
        f"{len(corpus)} prompts of {characters:.0f} characters, {len(texts)} texts to encode; seconds of processor time"
    )
    rows = [(name, f"{end - start:.2f}") for (_, start), (name, end) in pairwise(marks)]
    rows.append((f"total (target < {TARGET_SECONDS:g})", f"{marks[-1][1] - marks[0][1]:.2f}"))
    print_table(("step", "s"), rows)


if __name__ == "__main__":
    main()
