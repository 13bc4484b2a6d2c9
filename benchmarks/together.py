"""What it brings that jobs share batches: `python -m benchmarks.together`.

Requests for one picture each, with prompts and seeds of their own, go through the whole studio (Python API, pocket
model): one by one, and as many at once as a batch holds. Both take turns, and paint the same to the last bit.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.table import print_table
from studio import Settings, Studio

AT_ONCE = (1, 8)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    requests = [{"prompt": f"a {('red', 'blue')[seed % 2]} house", "seed": seed} for seed in range(arguments.requests)]
    with tempfile.TemporaryDirectory() as folder:
        studios = {
            number: Studio(Settings(outputs=Path(folder) / str(number), images_at_once=number)) for number in AT_ONCE
        }
        seconds: dict[int, list[float]] = {number: [] for number in AT_ONCE}
        pixels: dict[int, dict[int, bytes]] = {}
        for run in range(-1, arguments.runs):  # the first loads the model
            for number, studio in studios.items():
                started = time.perf_counter()
                images = list(studio.generate(requests, progress=False))
                if run >= 0:
                    seconds[number].append(time.perf_counter() - started)
                pixels[number] = {image.request.seed: image.image.tobytes() for image in images}
        for studio in studios.values():
            studio.close()
    if pixels[AT_ONCE[0]] != pixels[AT_ONCE[1]]:
        raise SystemExit("the pictures differ: the comparison would mean nothing")
    alone, together = (statistics.median(seconds[number]) / len(requests) for number in AT_ONCE)
    ratio = statistics.median(one / other for one, other in zip(seconds[1], seconds[8], strict=True))
    print_table(
        ("s per picture", *(f"{number} at once" for number in AT_ONCE), "times faster"),
        [["clock", f"{alone:.3f}", f"{together:.3f}", f"{ratio:.2f}"]],
    )


if __name__ == "__main__":
    main()
