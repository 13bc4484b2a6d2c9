"""Trains the autoencoder on drawn scenes in all styles. Knows nothing of captions or diffusion."""

from functools import partial
from random import Random

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from PIL import Image
from torch import Tensor

from pipelines.pocket.muon import Optimizers
from pipelines.pocket.parallel import Workers, lay_channels_last
from pipelines.pocket.scenes import random_scene, render, render_layers
from pipelines.pocket.sitting import Average, Every, Sitting

PEAK_LEARNING_RATE = 2e-3
BATCH_SIZE = 4
KL_WEIGHT = 1e-5
SUBJECT_WEIGHT = 3.0
SUBJECT_THRESHOLD = 0.03
VALIDATION_SEED = 1_000_000_007


def new_vae() -> AutoencoderKL:
    """Build the untrained autoencoder: factor 8, 4 latent channels.

    Two groups per norm: with groups of two channels GroupNorm erases absolute colour and training stalls at 17 dB.
    """
    vae: AutoencoderKL = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        mid_block_add_attention=False,
        sample_size=128,
        scaling_factor=1.0,
    )
    return vae


def train_vae(sitting: Sitting, vae: AutoencoderKL, *, resume: bool, only_decoder: bool = False) -> None:
    """Train until the sitting ends. With `only_decoder` latents stay as they are, so a trained UNet stays valid."""
    lay_channels_last(vae)
    if only_decoder:
        vae.encoder.requires_grad_(False)
    trained = [part for part in (vae.decoder, vae.post_quant_conv) if part is not None] if only_decoder else [vae]
    optimizers = Optimizers(trained, lr=PEAK_LEARNING_RATE)
    pictures_seen = 0
    state = sitting.load("vae") if resume else None
    if state is not None:
        vae.load_state_dict(state["vae"])
        pictures_seen = state["pictures_seen"]
        if state["only_decoder"] == only_decoder:
            optimizers.load_state_dict(state["optimizers"])
    workers = Workers()
    mean_square, step, log, save = Average(), 0, Every(20), Every(180)

    def checkpoint() -> None:
        kept = {"vae": vae.state_dict(), "optimizers": optimizers.state_dict()}
        sitting.save("vae", kept | {"pictures_seen": pictures_seen, "only_decoder": only_decoder})
        sitting.save_sheet("vae", reconstructions(vae, count=sitting.samples), columns=8)

    while sitting.progress(step) < 1:
        losses = [partial(_loss, vae, seed=pictures_seen + number, only_decoder=only_decoder) for number in range(2)]
        mean_square.add(workers.backward(losses, optimizers.parameters))
        optimizers.step(workers, lr=sitting.learning_rate(PEAK_LEARNING_RATE, step, decay_from=0.4))
        step, pictures_seen = step + 1, pictures_seen + BATCH_SIZE
        if log.due():
            rate = step * BATCH_SIZE / sitting.elapsed()
            sitting.log(f"vae {pictures_seen} pictures, {rate:.1f}/s, {decibel(mean_square.value):.2f} dB")
        if save.due():
            checkpoint()
    checkpoint()
    quality = decibel(validation_error(vae, count=8 * sitting.samples))
    sitting.log(f"vae {pictures_seen} pictures, {quality:.2f} dB on fresh renders")


def to_pixels(pictures: list[Image.Image]) -> Tensor:
    """Turn pictures into a (count, 3, height, width) tensor in -1 to 1."""
    stacked = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    return (stacked.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def to_pictures(pixels: Tensor) -> list[Image.Image]:
    """Turn a (count, 3, height, width) tensor in -1 to 1 into pictures."""
    array = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(picture) for picture in array]


def decibel(mean_square: float) -> float:
    """Return the PSNR of pixels in -1 to 1."""
    return float(10 * np.log10(4 / max(mean_square, 1e-12)))


@torch.no_grad()
def validation_error(vae: AutoencoderKL, *, count: int = 128) -> float:
    """Return the mean square error over fresh flat renders, through the mean of the posterior, in float32."""
    random = Random(VALIDATION_SEED)
    errors = []
    for _ in range(0, count, 8):
        pixels = to_pixels([render(random_scene(random)) for _ in range(8)])
        decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
        errors.append((decoded.clamp(-1, 1) - pixels).square().mean().item())
    return float(np.mean(errors))


@torch.no_grad()
def reconstructions(vae: AutoencoderKL, *, count: int) -> list[Image.Image]:
    """Return fresh renders in rows of eight, each row followed by its reconstruction."""
    random = Random(VALIDATION_SEED + 1)
    sheet: list[Image.Image] = []
    for _ in range(0, count, 8):
        pixels, _ = _layered_batch(random, count=8)
        decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
        sheet += to_pictures(pixels) + to_pictures(decoded)
    return sheet


def _loss(vae: AutoencoderKL, *, seed: int, only_decoder: bool) -> tuple[Tensor, float]:
    pixels, weight = _layered_batch(Random(seed), count=BATCH_SIZE // 2)
    generator = torch.Generator().manual_seed(seed)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.set_grad_enabled(not only_decoder):
            posterior = vae.encode(pixels).latent_dist
        decoded = vae.decode(posterior.sample(generator)).sample
    error = decoded.float() - pixels
    square = error.square().mean()
    edges = (error.diff(dim=2).abs() * weight[:, :, 1:]).mean() + (error.diff(dim=3).abs() * weight[..., 1:]).mean()
    mean, variance = posterior.mean.float(), posterior.var.float()
    divergence = 0.5 * (mean.square() + variance - 1 - posterior.logvar.float()).mean()
    distance = ((error.abs() + error.square()) * weight).mean()
    return distance + 0.5 * edges + KL_WEIGHT * divergence, square.item()


def _layered_batch(random: Random, *, count: int) -> tuple[Tensor, Tensor]:
    """Render `count` scenes, half of them flat: pixels, and the weight (count, 1, 128, 128) of each in the loss."""
    styles = [random.choice(("flat", "flat", "pixel-art", "ink")) for _ in range(count)]
    layers = [render_layers(random_scene(random), style=style) for style in styles]
    empty, pixels = (to_pixels([layer[index] for layer in layers]) for index in range(2))
    subjects = ((pixels - empty).abs().amax(1, keepdim=True) > SUBJECT_THRESHOLD).float()
    return pixels, 1 + (SUBJECT_WEIGHT - 1) * subjects
