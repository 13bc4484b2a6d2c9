"""Paints the sheets of these pages: `python docs/sheets.py features docs/features.jpg`, `… styles docs/styles.jpg`.

Every picture is a request to the studio and the pocket model; seeds are fixed, and none is chosen by hand.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from studio import Settings, Studio

PROJECT = Path(__file__).resolve().parent.parent
POCKET, LORAS = PROJECT / "pipelines" / "pocket" / "weights", PROJECT / "loras"

TILE, LABEL, GAP = 160, 18, 6
PAPER, INK, HEADING = (250, 249, 246), (40, 38, 44), (176, 76, 40)
HOUSE = "a red house on a green hill"
Row = tuple[str, list[tuple[str, dict[str, Any]]]]


def text_rows() -> Iterator[Row]:
    """Yield what words and numbers alone can do."""
    prompts = {
        "as it is": HOUSE,
        "(at night:1.4)": f"{HOUSE} (at night:1.4)",
        "# at night": f"{HOUSE} # at night",
        "[house:rocket:0.3]": "a red [house:rocket:0.3] on a green hill",
        "[yellow|red]": "a [yellow|red] house on a green hill",
        "… AND …": f"{HOUSE} AND a yellow flower :0.7",
        "BREAK": f"{HOUSE} BREAK at sunset",
    }
    yield (
        "Prompts",
        [(label, {"prompt": prompt}) for label, prompt in prompts.items()]
        + [("negative: rainbow", {"prompt": HOUSE, "negative_prompt": "rainbow"})],
    )
    heavy = {"prompt": f"{HOUSE} (in the snow:1.8)"}
    yield (
        "Emphasis, embeddings, styles, templates",
        [(f"(in the snow:1.8), {mode}", {**heavy, "emphasis": mode}) for mode in ("a1111", "no_norm", "comfy")]
        + [
            ("embedding: midnight", {"prompt": f"{HOUSE} midnight"}),
            ("[midnight:0.5], from half way", {"prompt": f"{HOUSE} [midnight:0.5]"}),
            ("style: Winter evening", {"prompt": HOUSE, "styles": ("Winter evening",)}),
            ("a {blue|purple} house", {"prompt": "a {blue|purple} house on a green hill"}),
            ("clip skip 2", {"prompt": HOUSE, "clip_skip": 2}),
        ],
    )
    samplers = ("euler", "euler_a", "heun", "dpmpp_2m", "dpmpp_sde", "deis", "sa_solver", "tcd")
    yield "Samplers", [(name, {"prompt": HOUSE, "scheduler": name}) for name in samplers]
    schedules = ("karras", "exponential", "sgm_uniform", "beta")
    yield (
        "Noise schedules, steps and guidance",
        [
            (name, {"prompt": HOUSE, "scheduler": "dpmpp_2m", "noise_schedule": name, "num_inference_steps": 10})
            for name in schedules
        ]
        + [(f"{steps} steps", {"prompt": HOUSE, "num_inference_steps": steps}) for steps in (4, 40)]
        + [(f"guidance {scale:g}", {"prompt": HOUSE, "guidance_scale": scale}) for scale in (1.0, 9.0)],
    )
    varied = {"prompt": HOUSE, "variation_seed": 21}
    yield (
        "Seeds and noise",
        [("seed 3", {"prompt": HOUSE})]
        + [(f"variation {share:g}", {**varied, "variation_strength": share}) for share in (0.25, 0.5, 0.75)]
        + [("seed 21", {"prompt": HOUSE, "seed": 21})]
        + [("NV noise (Philox)", {"prompt": HOUSE, "noise_source": "nv"})]
        + [
            ("192 x 128", {"prompt": HOUSE, "width": 192}),
            (
                "192 x 128, seed of 128 x 128",
                {"prompt": HOUSE, "width": 192, "seed_resize_width": 128, "seed_resize_height": 128},
            ),
        ],
    )


def image_rows(photo: Image.Image, wide: Image.Image, mask: Image.Image, fade: Image.Image) -> Iterator[Row]:
    """Yield what starts from a picture: `photo` of 128 × 128, `wide` of another shape, masks for `photo`."""
    square = {"width": 128, "height": 128}
    tree = {"prompt": "a green tree on a green hill", "init_image": photo}
    yield (
        "From a picture",
        [("the picture", {"init_image": photo, "strength": 0.0})]
        + [(f"strength {strength:g}", {**tree, "strength": strength}) for strength in (0.4, 0.6, 0.8)]
        + [
            (
                f"wide one: {mode}",
                {"init_image": wide, "strength": 0.0, "resize_mode": mode, **square},
            )
            for mode in ("stretch", "crop", "fill")
        ]
        + [("wide one: latent, 0.6", {"init_image": wide, "strength": 0.6, "resize_mode": "latent", **square})],
    )
    masked = {"prompt": "a purple mushroom on a green hill", "init_image": photo, "mask_image": mask, "strength": 1.0}
    contents = ("original", "fill", "latent_noise", "latent_nothing")
    yield (
        "Inpaint",
        [(content, {**masked, "masked_content": content}) for content in contents]
        + [
            ("only masked", {**masked, "inpaint_area": "only_masked"}),
            ("outside the mask", {**masked, "prompt": "a red house in the snow", "invert_mask": True}),
            ("soft mask", {**masked, "mask_image": fade, "mask_mode": "soft"}),
            ("differential mask", {**masked, "mask_image": fade, "mask_mode": "differential"}),
        ],
    )
    blurred = {**masked, "masked_content": "latent_noise"}
    few = {**tree, "strength": 0.5, "num_inference_steps": 6}
    yield (
        "Masks and steps",
        [
            (f"blur {across} x {down}", {**blurred, "mask_blur_x": across, "mask_blur_y": down})
            for across, down in ((0, 0), (16, 16), (24, 0))
        ]
        + [
            ("only masked, padding 0", {**masked, "inpaint_area": "only_masked", "mask_padding": 0}),
            ("soft, preservation 2", {**masked, "mask_image": fade, "mask_mode": "soft", "soft_preservation": 2.0}),
            ("soft, schedule bias 4", {**masked, "mask_image": fade, "mask_mode": "soft", "soft_schedule_bias": 4.0}),
            ("6 steps of A1111's rule", {**few, "step_rule": "a1111"}),
            ("6 steps exactly", {**few, "step_rule": "exact"}),
        ],
    )
    grown = {"prompt": HOUSE, "init_image": photo}
    large = {**grown, "width": 512, "height": 512}
    yield (
        "Outpaint, enlarging",
        [
            ("outpaint left", {**grown, "outpaint_left": 64, "width": 192}),
            ("outpaint all round", {**grown, **dict.fromkeys(_SIDES, 32), "width": 192, "height": 192}),
            ("upscale 4, Lanczos", {"init_image": photo, "strength": 0.0, "width": 512, "height": 512}),
            (
                "upscale 4, nearest",
                {"init_image": photo, "strength": 0.0, "width": 512, "height": 512, "upscaler": "nearest"},
            ),
            ("4 times, tiles of 128, 0.3", {**large, "tile_size": 128, "strength": 0.3}),
            ("… in one piece", {**large, "strength": 0.3}),
            ("192 x 256 from scratch", {"prompt": HOUSE, "width": 192, "height": 256}),
            ("… in tiles of 128", {"prompt": HOUSE, "width": 192, "height": 256, "tile_size": 128}),
        ],
    )
    again = {"prompt": HOUSE, "hires_scale": 1.5}
    yield (
        "Second pass (hires fix)",
        [
            ("1.5, latent", again),
            ("latent, nearest", {**again, "hires_upscaler": "latent_nearest"}),
            ("Lanczos, strength 0.3", {**again, "hires_upscaler": "lanczos", "hires_strength": 0.3}),
            ("its own prompt", {**again, "hires_prompt": f"{HOUSE} at night", "hires_strength": 0.8}),
            ("its own sampler", {**again, "hires_scheduler": "euler_a", "hires_noise_schedule": "karras"}),
            ("its own guidance, 9", {**again, "hires_guidance_scale": 9.0}),
            ("30 steps", {**again, "hires_steps": 30}),
            ("both sides, 256 x 160", {"prompt": HOUSE, "hires_width": 256, "hires_height": 160}),
        ],
    )


def style_row() -> Row:
    """Return what LoRAs do."""
    asked = {
        "pixel-art 0.5": "<lora:pixel-art:0.5>",
        "pixel-art 1": "<lora:pixel-art:1>",
        "ink 0.5": "<lora:ink:0.5>",
        "ink 1": "<lora:ink:1>",
        "ink -1": "<lora:ink:-1>",
        "both, 0.6": "<lora:pixel-art:0.6> <lora:ink:0.6>",
        "ink from half way": "<lora:ink:1:start=0.5>",
    }
    return "LoRA styles", [("none", {"prompt": HOUSE})] + [
        (label, {"prompt": f"{HOUSE} {tag}"}) for label, tag in asked.items()
    ]


def style_rows() -> Iterator[Row]:
    """Yield the styles that come with the project, at three strengths."""
    prompts = (
        "a red house on a green hill",
        "a yellow sailboat by the sea at sunset",
        "a blue cat in the snow at night",
    )
    for style in ("pixel-art", "ink"):
        yield (
            style,
            [
                (f"{weight:g}" if weight else "without", {"prompt": f"{prompt} <lora:{style}:{weight}>"})
                for prompt in prompts
                for weight in (0, 0.5, 1)
            ],
        )


_SIDES = ("outpaint_left", "outpaint_top", "outpaint_right", "outpaint_bottom")


def main() -> None:
    """Paint the sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("sheet", choices=("features", "styles"))
    parser.add_argument("path", type=Path, help="where the sheet is put")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Studio(furnished(Path(folder))) as studio:

        def paint(**fields: Any) -> Image.Image:
            (image,) = studio.generate(**{"seed": 3, **fields}, progress=False)
            picture: Image.Image = image.image
            return picture

        if asked.sheet == "features":
            photo, wide = paint(prompt=HOUSE), paint(prompt="a yellow sailboat by the sea at sunset", width=192)
            mask = Image.new("L", photo.size)
            ImageDraw.Draw(mask).rectangle((8, 36, 88, 116), fill=255)
            fade = Image.linear_gradient("L").resize(photo.size)
            rows = [*text_rows(), *image_rows(photo, wide, mask, fade), style_row()]
        else:
            rows = list(style_rows())
        painted = [(name, [(label, paint(**fields)) for label, fields in tiles]) for name, tiles in rows]
    sheet(painted).save(asked.path, quality=90, optimize=True)
    sys.stdout.write(f"{asked.path}\n")


def furnished(home: Path) -> Settings:
    """Put into a studio's folder what the sheet shows: an embedding, which is two words' own vectors, and a style."""
    encoder = load_file(POCKET / "text_encoder" / "model.safetensors")
    vectors = next(tensor for name, tensor in encoder.items() if name.endswith("token_embedding.weight"))
    tokenizer = CLIPTokenizer.from_pretrained(POCKET / "tokenizer", local_files_only=True)
    words = tokenizer("at night", add_special_tokens=False).input_ids
    (home / "embeddings").mkdir()
    save_file({"emb_params": vectors[words]}, home / "embeddings" / "midnight.safetensors")
    styles = "name,prompt,negative_prompt\nWinter evening,{prompt} in the snow at sunset,rainbow\n"
    (home / "styles.csv").write_text(styles, encoding="utf-8")
    return Settings(home=home, lora_dirs=(LORAS,))


def sheet(rows: list[tuple[str, list[tuple[str, Image.Image]]]]) -> Image.Image:
    """Lay named rows of named pictures out."""
    pitch, height = TILE + GAP, TILE + LABEL
    columns = max(len(tiles) for _, tiles in rows)
    whole = Image.new("RGB", (columns * pitch + GAP, len(rows) * (height + LABEL + 2 * GAP) + GAP), PAPER)
    draw = ImageDraw.Draw(whole)
    small, large = ImageFont.load_default(12), ImageFont.load_default(14)
    for number, (name, tiles) in enumerate(rows):
        top = GAP + number * (height + LABEL + 2 * GAP)
        draw.text((GAP, top), name, fill=HEADING, font=large)
        for column, (label, picture) in enumerate(tiles):
            left = GAP + column * pitch
            shown = picture.copy()
            shown.thumbnail((TILE, TILE))
            if max(picture.size) <= TILE:
                shown = picture.resize((TILE * picture.width // 128, TILE * picture.height // 128))
                shown.thumbnail((TILE, TILE))
            place = (left + (TILE - shown.width) // 2, top + LABEL + GAP + (TILE - shown.height) // 2)
            whole.paste(shown, place)
            draw.text((left, top + LABEL + GAP + TILE + 1), label, fill=INK, font=small)
    return whole


if __name__ == "__main__":
    main()
