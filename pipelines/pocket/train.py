"""Trains the pocket model: `python -m pipelines.pocket.train {tokenizer,vae,unet} --minutes N --resume`."""

import argparse
import copy
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from random import Random

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from transformers import CLIPTokenizer

from pipelines.pocket.scenes import random_scene, render
from pipelines.pocket.sitting import TRAINING_FOLDER, Sitting
from pipelines.pocket.text_encoder import AttributeHeads, new_text_encoder, pretrain_text_encoder
from pipelines.pocket.tokenizer import save_tokenizer, train_tokenizer
from pipelines.pocket.unet_training import Trainee, new_unet, train_unet
from pipelines.pocket.vae_training import new_vae, to_pixels, train_vae
from pipelines.pocket.weights import WEIGHTS_FOLDER, Parts, export, load_parts, normalise_latents

_TEXT_MINUTES = 2.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one sitting."""
    asked = _parser().parse_args(arguments)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    sitting = Sitting(asked.minutes, steps=asked.steps, folder=asked.folder, samples=asked.samples)
    match asked.part:
        case "tokenizer":
            tokenizer = train_tokenizer()
            save_tokenizer(tokenizer, asked.folder / "tokenizer")
            sitting.log(f"tokenizer: {len(tokenizer)} tokens in {asked.folder / 'tokenizer'}")
        case "vae":
            _vae(sitting, asked.weights, resume=asked.resume, only_decoder=asked.only_decoder)
        case "unet":
            _unet(sitting, asked.weights, resume=asked.resume)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.pocket.train", description=__doc__)
    parser.add_argument("part", choices=("tokenizer", "vae", "unet"))
    parser.add_argument("--minutes", type=float, default=10, help="length of this sitting (default: 10)")
    parser.add_argument("--steps", type=int, help="length in steps instead, for runs that must repeat exactly")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint, or else from the shipped weights"
    )
    parser.add_argument(
        "--only-decoder", action="store_true", help="vae: polish the decoder, leave the latents as they are"
    )
    parser.add_argument("--samples", type=int, default=16, help="pictures on a sample sheet (default: 16)")
    parser.add_argument("--folder", type=Path, default=TRAINING_FOLDER, help="checkpoints (default: %(default)s)")
    parser.add_argument(
        "--weights", type=Path, default=WEIGHTS_FOLDER, help="model folder to write (default: the shipped one)"
    )
    return parser


def _vae(sitting: Sitting, weights: Path, *, resume: bool, only_decoder: bool) -> None:
    shipped = _shipped(weights) if resume else None
    start = new_vae() if shipped is None else shipped.vae
    train_vae(sitting, start, resume=resume, only_decoder=only_decoder)
    if shipped is not None:
        if not only_decoder:
            start = _frozen_vae(sitting)
            _forget_latents(sitting)
        export(Parts(start, shipped.unet, shipped.text_encoder, shipped.tokenizer), weights)


def _unet(sitting: Sitting, weights: Path, *, resume: bool) -> None:
    shipped = _shipped(weights) if resume else None
    heads = AttributeHeads()
    if shipped is None:
        tokenizer = CLIPTokenizer.from_pretrained(sitting.folder / "tokenizer")
        shipped = Parts(_frozen_vae(sitting), new_unet(), new_text_encoder(tokenizer), tokenizer)
        export(shipped, weights)
        text_sitting = Sitting(_TEXT_MINUTES, steps=sitting.steps, folder=sitting.folder)
        pretrain_text_encoder(text_sitting, shipped.text_encoder, heads, tokenizer)
    averaged = Parts(shipped.vae, copy.deepcopy(shipped.unet), copy.deepcopy(shipped.text_encoder), shipped.tokenizer)
    for model in (averaged.unet, averaged.text_encoder):
        model.requires_grad_(False)
        model.train(False)
    train_unet(sitting, Trainee(shipped, averaged, heads, weights), resume=resume)


def _shipped(weights: Path) -> Parts | None:
    return load_parts(weights) if (weights / "model_index.json").exists() else None


def _forget_latents(sitting: Sitting) -> None:
    """Empty the pool of latents in the UNet's checkpoint: they are another autoencoder's."""
    state = sitting.load("unet")
    if state is not None:
        sitting.save("unet", state | {"pool": None})


@torch.no_grad()
def _frozen_vae(sitting: Sitting) -> AutoencoderKL:
    """Take the trained autoencoder, give its latents mean 0 and deviation 1, and keep that as its checkpoint."""
    state = sitting.load("vae")
    if state is None:
        raise FileNotFoundError(f"no autoencoder in {sitting.folder}: run `python -m pipelines.pocket.train vae` first")
    vae = new_vae()
    vae.load_state_dict(state["vae"])
    random = Random(1)
    pixels = [to_pixels([render(random_scene(random)) for _ in range(16)]) for _ in range(16)]
    latents = torch.cat([vae.encode(batch).latent_dist.mode() for batch in pixels])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    normalise_latents(vae, mean, deviation)
    sitting.log(f"latents: means {mean.tolist()}, deviations {deviation.tolist()}")
    sitting.save("vae", state | {"vae": vae.state_dict(), "only_decoder": None})
    return vae


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
