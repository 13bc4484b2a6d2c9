"""Trains the UNet and the text encoder together, on latents of drawn scenes and ever new captions."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import cast

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from PIL import Image
from torch import Tensor, nn

from pipelines.pocket.captions import plain_caption
from pipelines.pocket.latent_pool import LatentPool
from pipelines.pocket.muon import Optimizers
from pipelines.pocket.parallel import Workers, lay_channels_last
from pipelines.pocket.scenes import random_scene
from pipelines.pocket.sitting import Average, Every, Sitting
from pipelines.pocket.text_encoder import WIDTH, AttributeHeads, caption_batch
from pipelines.pocket.vae_training import VALIDATION_SEED
from pipelines.pocket.weights import GUIDANCE_SCALE, WEIGHTS_FOLDER, Parts, export, pipeline_of, training_schedule

PEAK_LEARNING_RATE = 2e-3
BATCH_SIZE = 64
FIRST_POOL = 2_048
FRESH_PER_STEP = 12
PORTRAITS = 6
"""Of a worker's half batch, beside the portraits among the rest: 10 of 32 in all."""
EMPTY_SHARE = 0.6
"""Of the captions of portraits."""
SNR_CAP = 5.0
ATTRIBUTE_WEIGHT = 0.05
EMA_DECAY = 0.9985
OTHER_SIZES = ((192, 128), (128, 192), (192, 192))
OTHER_SIZES_FROM = 0.7


def new_unet() -> UNet2DConditionModel:
    """Build the untrained UNet."""
    unet: UNet2DConditionModel = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 128, 192),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=(2, 4, 6),
        norm_num_groups=16,
    )
    return unet


@dataclass(frozen=True)
class Trainee:
    """What is trained, and the averaged copies that are shown and shipped."""

    parts: Parts
    averaged: Parts
    heads: AttributeHeads
    weights: Path = WEIGHTS_FOLDER

    def modules(self) -> list[nn.Module]:
        """Return what the optimizers change."""
        return [self.parts.unet, self.parts.text_encoder, self.heads]

    def pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Pair every averaged parameter with the one it follows."""
        for averaged, current in (
            (self.averaged.unet, self.parts.unet),
            (self.averaged.text_encoder, self.parts.text_encoder),
        ):
            yield from zip(averaged.parameters(), current.parameters(), strict=True)


def train_unet(sitting: Sitting, trainee: Trainee, *, resume: bool) -> None:
    """Train until the sitting ends; exports the averaged weights and a sample sheet now and then."""
    parts = trainee.parts
    parts.vae.requires_grad_(False)
    lay_channels_last(parts.vae)
    lay_channels_last(parts.unet)
    workers, schedule = Workers(), training_schedule()
    optimizers = Optimizers(trainee.modules(), lr=PEAK_LEARNING_RATE)
    pool = LatentPool(parts.vae)
    wide_pools = [LatentPool(parts.vae, width=w, height=h, seed=1 + n) for n, (w, h) in enumerate(OTHER_SIZES)]
    pictures_seen = _restore(sitting, trainee, optimizers, pool) if resume else 0
    wanted = FIRST_POOL if sitting.steps is None else min(FIRST_POOL, sitting.steps * BATCH_SIZE)
    pool.grow(workers, wanted - len(pool))
    loss_average, step, log, save, show = Average(50), 0, Every(30), Every(300), Every(600)
    started = sitting.elapsed()

    def checkpoint() -> None:
        _checkpoint(sitting, trainee, optimizers, pool, pictures_seen=pictures_seen)

    while sitting.progress(step) < 1:
        random = Random(pictures_seen)
        current = pool
        if sitting.progress(step) > OTHER_SIZES_FROM and step % 6 == 5:
            current = random.choice(wide_pools)
            current.grow(workers, 32 if len(current) < 640 else 0)
        else:
            pool.grow(workers, FRESH_PER_STEP)
        losses = [
            partial(_loss, trainee, schedule, current, seed=2 * pictures_seen + half) for half in range(workers.count)
        ]
        loss_average.add(workers.backward(losses, optimizers.parameters))
        optimizers.step(workers, lr=sitting.learning_rate(PEAK_LEARNING_RATE, step, decay_from=0.6))
        step, pictures_seen = step + 1, pictures_seen + BATCH_SIZE
        _follow(trainee, updates=pictures_seen // BATCH_SIZE)
        if log.due():
            rate = step * BATCH_SIZE / (sitting.elapsed() - started)
            sitting.log(f"unet {pictures_seen} pictures, {rate:.1f}/s, loss {loss_average.value:.4f}, pool {len(pool)}")
        if save.due():
            checkpoint()
        if show.due():
            export(trainee.averaged, trainee.weights)
            sitting.save_sheet(f"unet-{pictures_seen:07d}", samples(trainee.averaged, count=sitting.samples), columns=8)
    checkpoint()
    export(trainee.averaged, trainee.weights)
    sitting.save_sheet(f"unet-{pictures_seen:07d}", samples(trainee.averaged, count=sitting.samples), columns=8)


@torch.no_grad()
def samples(parts: Parts, *, count: int) -> list[Image.Image]:
    """Paint fixed, unchosen prompts from the whole space of scenes with the default settings."""
    random = Random(VALIDATION_SEED)
    prompts = [plain_caption(random_scene(random)) for _ in range(count)]
    pipeline, pictures = pipeline_of(parts), []
    for start in range(0, count, 8):
        batch = prompts[start : start + 8]
        generators = [torch.Generator().manual_seed(start + index) for index in range(len(batch))]
        pictures += pipeline(batch, num_inference_steps=20, guidance_scale=GUIDANCE_SCALE, generator=generators).images
    return pictures


def _loss(trainee: Trainee, schedule: DDPMScheduler, pool: LatentPool, *, seed: int) -> tuple[Tensor, float]:
    random, generator = Random(seed), torch.Generator().manual_seed(seed)
    count = BATCH_SIZE // 2
    scenes, latents = pool.sample(random, count, portraits=PORTRAITS)
    captions = caption_batch(scenes, random, trainee.parts.tokenizer, empty_share=EMPTY_SHARE)
    # One time from each of `count` equal parts: less spread between batches than independent draws.
    shares = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
    timesteps = (shares * len(schedule.alphas_cumprod)).long()
    noise = torch.randn(latents.shape, generator=generator)
    noisy = schedule.add_noise(latents, noise, cast(torch.IntTensor, timesteps)).contiguous(
        memory_format=torch.channels_last
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        text = trainee.parts.text_encoder(input_ids=captions.token_ids)
        predicted = trainee.parts.unet(noisy, timesteps, text.last_hidden_state).sample
    error = (predicted.float() - noise).square().mean((1, 2, 3))
    signal = schedule.alphas_cumprod[timesteps]
    snr = signal / (1 - signal)
    denoising = (error * snr.clamp(max=SNR_CAP) / snr).mean()
    attributes = trainee.heads.loss(text.pooler_output.float(), captions.labels)
    return denoising + ATTRIBUTE_WEIGHT * attributes, error.mean().item()


@torch.no_grad()
def _follow(trainee: Trainee, *, updates: int) -> None:
    decay = min(EMA_DECAY, (1 + updates) / (20 + updates))
    averaged, current = zip(*trainee.pairs(), strict=True)
    torch._foreach_lerp_(averaged, current, 1 - decay)


def _checkpoint(
    sitting: Sitting, trainee: Trainee, optimizers: Optimizers, pool: LatentPool, *, pictures_seen: int
) -> None:
    sitting.save(
        "unet",
        {
            "unet": trainee.parts.unet.state_dict(),
            "text_encoder": trainee.parts.text_encoder.state_dict(),
            "heads": trainee.heads.state_dict(),
            "averaged_unet": trainee.averaged.unet.state_dict(),
            "averaged_text_encoder": trainee.averaged.text_encoder.state_dict(),
            "optimizers": optimizers.state_dict(),
            "pool": pool.state_dict(),
            "pictures_seen": pictures_seen,
        },
    )


def _restore(sitting: Sitting, trainee: Trainee, optimizers: Optimizers, pool: LatentPool) -> int:
    """Take up a full checkpoint where there is one; else training goes on from the committed weights."""
    state = sitting.load("unet")
    if state is None:
        return 0
    trainee.parts.unet.load_state_dict(state["unet"])
    trainee.parts.text_encoder.load_state_dict(state["text_encoder"])
    trainee.averaged.unet.load_state_dict(state["averaged_unet"])
    trainee.averaged.text_encoder.load_state_dict(state["averaged_text_encoder"])
    trainee.heads.load_state_dict(state["heads"])
    optimizers.load_state_dict(state["optimizers"])
    if state["pool"] is not None:
        pool.load_state_dict(state["pool"])
    return int(state["pictures_seen"])
