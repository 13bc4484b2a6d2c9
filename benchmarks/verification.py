"""Pictures of random requests, made again from their files: `python -m benchmarks.verification`.

All tasks, second passes, tiles, enlarging, all schedulers and noise schedules, prompts with syntax, styles, LoRAs, an
embedding, batches of 1 to 8, masks and variations, on the pocket model. Each picture is made within its batch, and
again alone; every pixel must be the same.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from transformers import CLIPTextModel

from benchmarks.lora import write_lora
from benchmarks.table import print_table
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.schedulers import NOISE_SCHEDULES, SCHEDULERS
from pipelines.spec.upscalers import PICTURE_UPSCALERS, UPSCALERS
from studio import Settings, Studio
from studio.store import find_model

PROMPTS = (
    "a red house on a green hill at night",
    "a (yellow:1.3) sailboat by the sea [at sunset]",
    "a [cat:robot:0.5] in the snow",
    "a [blue|pink] car in the city",
    "a castle in the forest AND rain :0.4",
    "a lighthouse BREAK at night with stars",
    "a {red|purple} umbrella # on the hill",
    "a house <lora:first:0.8> by the sea",
    "a cat <lora:first:1:0.5> in the [snow:city:3] <lora:second:-0.7:start=0.2:end=0.8>",
    "a word boat at night",
    "",
)


def random_request(random: Random, *, scheduler: str, photo: Image.Image, mask: Image.Image) -> dict[str, Any]:
    """Return fields that any model can do."""
    task = random.choice(("text", "text", "image", "inpaint", "enlarge"))
    is_adaptive = scheduler == "dpm_adaptive"  # what changes with the steps is refused where their number is not fixed
    fields: dict[str, Any] = {
        "prompt": random.choice([one for one in PROMPTS if not is_adaptive or "[" not in one]),
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
        "styles": random.choice(((), (), (), ("evening",), ("evening", "plain"))),
    }
    if task == "enlarge":
        enlarged = {"init_image": photo, "strength": 0.0, "upscaler": random.choice(PICTURE_UPSCALERS)}
        return {"width": 320, "height": 240, **enlarged}
    if random.random() < 0.3:
        fields |= {"variation_strength": 0.3, "variation_seed": random.randrange(2**40)}
    if random.random() < 0.15:
        fields |= {"tile_size": random.choice((64, 96)), "tile_overlap": random.choice((None, 16))}
    if random.random() < 0.2:
        fields |= {"seed_resize_width": 192, "seed_resize_height": 128}
    if task == "text" and random.random() < 0.3:
        fields |= hires_fields(random) | ({"hires_prompt": None} if is_adaptive else {})
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
            "mask_mode": random.choice(("hard", "soft") if is_adaptive else ("hard", "soft", "differential")),
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


def write_words(home: Path) -> None:
    """Put two LoRAs and an embedding of random numbers, small enough to leave pictures, and two styles into a home."""
    folder = find_model("pocket", home / "models").path
    unet: Any = UNet2DConditionModel.from_pretrained(folder / "unet")  # type: ignore[no-untyped-call]
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
    for name in ("loras", "embeddings"):
        (home / name).mkdir()
    for seed, name in enumerate(("first", "second")):
        write_lora(home / f"loras/{name}.safetensors", {"lora_unet": unet, "lora_te": encoder}, seed=seed)
    vectors = torch.randn(2, encoder.config.hidden_size, generator=torch.Generator().manual_seed(2))
    save_file({"emb_params": vectors}, home / "embeddings/word.safetensors")
    styles = ("name,prompt,negative_prompt", '"evening","{prompt} at sunset","rain"', '"plain","{a|one} {prompt}",""')
    (home / "styles.csv").write_text("\n".join(styles) + "\n", encoding="utf-8")


def traits(request: ResolvedRequest) -> Iterator[str]:
    """Name what a picture tries."""
    if request.strength == 0:
        yield f"enlarged by {request.upscaler}"
        return
    yield request.task.value.replace("_", "-")
    if request.task.value == "inpaint":
        yield f"mask: {request.mask_mode}"
        yield f"masked content: {request.masked_content}"
        yield f"inpaint area: {request.inpaint_area}"
    if request.enlargement is not None:
        yield f"second pass: {request.hires_upscaler}"
    if request.loras:
        yield f"{len(request.loras)} LoRA{'s' if len(request.loras) > 1 else ''}"
    others = {
        "embedding": request.embeddings,
        "outpaint": request.outpaint_left or request.outpaint_bottom,
        "styles": request.styles,
        "template": request.template,
        "tiles": request.tile_size,
        "variation": request.variation_seed,
    }
    yield from (name for name, value in others.items() if value)
    yield f"noise source: {request.noise_source}"


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

    made, exact, sizes, used = Counter[str](), Counter[str](), Counter[int](), set()
    with tempfile.TemporaryDirectory() as folder, Studio(Settings(home=Path(folder))) as studio:
        write_words(Path(folder))
        for scheduler in cycle(random.sample(list(SCHEDULERS), len(SCHEDULERS))):
            if made["all"] >= arguments.images:
                break
            fields = random_request(random, scheduler=scheduler, photo=photo, mask=mask)
            images = list(studio.generate(**fields, progress=False))
            sizes[len(images)] += 1
            for image in images:
                result = studio.verify(image.path, progress=False)
                names = ("all", *traits(image.request))
                made.update(names)
                exact.update(names if result.is_exact else ())
                used |= {image.request.scheduler, image.request.noise_schedule}
                if not result.is_exact:
                    print(f"{result.max_difference} of 255: {image.request.model_dump(exclude_defaults=True)}")
    print_table(("pictures with", "made", "exact"), [(name, made[name], exact[name]) for name in sorted(made)])
    print(f"{sizes.total()} requests of {min(sizes)} to {max(sizes)} pictures;", end=" ")
    print(f"{len(used & SCHEDULERS.keys())} schedulers, {len(used & NOISE_SCHEDULES.keys())} noise schedules")


if __name__ == "__main__":
    main()
