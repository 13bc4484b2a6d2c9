"""Pictures of random requests, made again from their files: `python -m benchmarks.verification`.

All tasks, second passes, all schedulers and noise schedules, prompts with syntax, batches of 1 to 8, masks and
variations, on the pocket model. Each picture is made within its batch, and again alone; every pixel must be the same.
"""

import argparse
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image, ImageDraw

from benchmarks.table import print_table
from pipelines.spec.schedulers import NOISE_SCHEDULES, SCHEDULERS
from pipelines.spec.upscalers import UPSCALERS
from studio import Settings, Studio

PROMPTS = (
    "a red house on a green hill at night",
    "a (yellow:1.3) sailboat by the sea [at sunset]",
    "a [cat:robot:0.5] in the snow",
    "a [blue|pink] car in the city",
    "a castle in the forest AND rain :0.4",
    "a lighthouse BREAK at night with stars",
    "a {red|purple} umbrella # on the hill",
    "",
)


def random_request(random: Random, *, photo: Image.Image, mask: Image.Image) -> dict[str, Any]:
    """Return fields that any model can do."""
    task = random.choice(("text", "text", "image", "inpaint"))
    scheduler = random.choice([name for name in SCHEDULERS if name != "dpm_adaptive"])
    fields: dict[str, Any] = {
        "prompt": random.choice(PROMPTS),
        "negative_prompt": random.choice(("", "fog", "(rain:1.2)")),
        "scheduler": scheduler,
        "noise_schedule": random.choice([None, *SCHEDULERS[scheduler].noise_schedules]),
        "num_inference_steps": random.randint(3, 9),
        "guidance_scale": random.choice((1.0, 3.0, 5.0)),
        "num_images": random.randint(1, 8),
        "seed": random.randrange(2**40),
        "width": random.choice((128, 128, 192)),
        "height": random.choice((128, 128, 192)),
        "clip_skip": random.choice((None, 1, 2)),
        "emphasis": random.choice(("a1111", "no_norm", "comfy")),
        "noise_source": random.choice(("cpu", "device", "nv")),
        "eta_noise_seed_delta": random.choice((0, 31337)),
    }
    if random.random() < 0.3:
        fields |= {"variation_strength": 0.3, "variation_seed": random.randrange(2**40)}
    if random.random() < 0.2:
        fields |= {"seed_resize_width": 192, "seed_resize_height": 128}
    if task == "text" and random.random() < 0.3:
        fields |= hires_fields(random)
    if task != "text":
        fields |= {
            "init_image": photo,
            "strength": random.choice((0.3, 0.6, 1.0)),
            "step_rule": random.choice(("a1111", "exact")),
            "resize_mode": random.choice(("stretch", "crop", "fill")),
        }
    if task == "inpaint":
        fields |= {
            "mask_image": mask,
            "invert_mask": random.random() < 0.3,
            "masked_content": random.choice(("original", "fill", "latent_noise", "latent_nothing")),
            "inpaint_area": random.choice(("whole_picture", "only_masked")),
            "mask_blur_x": random.choice((0.0, 4.0)),
            "mask_mode": random.choice(("hard", "soft", "differential")),
        }
    if task == "inpaint" and random.random() < 0.3:
        fields |= {"outpaint_left": random.choice((0, 20)), "outpaint_bottom": 16}
    return fields


def hires_fields(random: Random) -> dict[str, Any]:
    """Return the fields of a second pass."""
    scheduler = random.choice([None, *(name for name in SCHEDULERS if name != "dpm_adaptive")])
    size = random.choice(({"hires_scale": 1.5}, {"hires_width": 256}, {"hires_width": 256, "hires_height": 224}))
    return {
        **size,
        "hires_upscaler": random.choice([None, *UPSCALERS]),
        "hires_steps": random.choice((None, 3, 5)),
        "hires_strength": random.choice((None, 0.4, 1.0)),
        "hires_scheduler": scheduler,
        "hires_guidance_scale": random.choice((None, 2.0)),
        "hires_prompt": random.choice((None, "a [blue|pink] car in the [city:forest:1.5]")),
    }


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random = Random(arguments.seed)
    photo, mask = Image.new("RGB", (200, 150), "skyblue"), Image.new("L", (200, 150))
    ImageDraw.Draw(photo).ellipse((60, 40, 150, 130), fill="tomato")
    ImageDraw.Draw(mask).rectangle((70, 50, 140, 120), fill=255)

    exact, made, requests, used = 0, 0, 0, set()
    with tempfile.TemporaryDirectory() as home, Studio(Settings(home=Path(home))) as studio:
        while made < arguments.images:
            fields = random_request(random, photo=photo, mask=mask)
            requests += 1
            for image in studio.generate(**fields, progress=False):
                result = studio.verify(image.path, progress=False)
                made, exact = made + 1, exact + result.is_exact
                used |= {image.request.scheduler, image.request.noise_schedule}
                if not result.is_exact:
                    print(f"{result.max_difference} of 255: {image.request.model_dump(exclude_defaults=True)}")
    table = [[requests, made, exact, f"{len(used & SCHEDULERS.keys())}, {len(used & NOISE_SCHEDULES.keys())}"]]
    print_table(("requests", "pictures", "exact", "schedulers, noise schedules"), [[str(cell) for cell in table[0]]])


if __name__ == "__main__":
    main()
