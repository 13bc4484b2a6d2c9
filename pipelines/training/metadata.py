"""What a LoRA file says of itself: kohya's ss_* and sshs_* keys, and Stability AI's ModelSpec 1.0.1."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import diffusers
import peft
import torch
from safetensors.torch import save
from torch import Tensor

from pipelines.runtime.weights import find_weights
from pipelines.spec.buckets import BatchPlan
from pipelines.spec.dataset import DataSet
from pipelines.spec.model import Model
from pipelines.spec.training import TrainingRequest
from pipelines.training.files import sha256, tensor_bytes
from pipelines.training.randomness import random_at

BASE_VERSIONS: Mapping[str, str] = MappingProxyType({"sd1": "sd_v1", "sdxl": "sdxl_base_v1-0"})
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"sd1": "stable-diffusion-v1", "sdxl": "stable-diffusion-xl-v1-base"}
)
PREDICTION_TYPES: Mapping[str, str] = MappingProxyType({"epsilon": "epsilon", "v_prediction": "v", "sample": "sample"})
_SHORT = slice(0x100000, 0x110000)
"""The bytes of a file that A1111's old short hash is made of, and kohya's of a file with the ss_* keys alone."""
MOST_TAGS = 1000
"""More do not help anybody, and a header has to stay readable."""


@dataclass(frozen=True)
class Story:
    """How the LoRA came to be."""

    request: TrainingRequest
    model: Model
    dataset: DataSet
    plan: BatchPlan
    resolution: int
    clip_skip: int
    prediction_type: str
    base_fingerprint: str
    steps: int
    num_steps: int
    started_at: float
    finished_at: float


def describe(story: Story, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return all metadata of a file with these tensors."""
    digest, kohya = sha256(tensor_bytes(tensors)), _kohya(story)
    return {
        **kohya,
        **_modelspec(story),
        "modelspec.hash_sha256": f"0x{digest}",
        "sshs_model_hash": digest,
        "sshs_legacy_hash": _short_hash(save(dict(tensors), metadata=kohya)),
        "studio.base_fingerprint": story.base_fingerprint,
    }


def _kohya(story: Story) -> dict[str, str]:
    request, plan = story.request, story.plan
    epochs_seen = -(-story.steps * request.gradient_accumulation_steps // plan.batches_per_epoch)
    folder, module, network = story.dataset.folder.resolve().name, *_network(request)
    tags = dict(list(story.dataset.tag_frequency().items())[:MOST_TAGS])
    facts: dict[str, object] = {
        "session_id": random_at("session", request.seed, repr(story.started_at)).randrange(2**32),
        "output_name": request.name,
        "base_model_version": BASE_VERSIONS[story.model.family.name],
        "v2": False,
        "sd_model_name": story.model.name,
        "sd_model_hash": _short_hash_of(find_weights(story.model.path / "unet").files[0]),
        "new_sd_model_hash": hash_of_unet(story.model.path),
        "network_module": module,
        "network_dim": request.rank,
        "network_alpha": request.effective_alpha,
        "network_args": network,
        "resolution": f"({story.resolution}, {story.resolution})",
        "enable_bucket": request.aspect_buckets,
        "bucket_info": _buckets(plan),
        "dataset_dirs": {folder: {"n_repeats": 1, "img_count": len(story.dataset.examples)}},
        "tag_frequency": {folder: tags},
        "num_train_images": len(story.dataset.examples),
        "num_reg_images": 0,
        "num_batches_per_epoch": plan.batches_per_epoch,
        "batch_size_per_device": request.batch_size,
        "total_batch_size": request.batch_size * request.gradient_accumulation_steps,
        "gradient_accumulation_steps": request.gradient_accumulation_steps,
        "epoch": epochs_seen,
        "num_epochs": -(-story.num_steps * request.gradient_accumulation_steps // plan.batches_per_epoch),
        "steps": story.steps,
        "max_train_steps": story.num_steps,
        "learning_rate": request.learning_rate,
        "unet_lr": request.learning_rate,
        "text_encoder_lr": request.effective_text_encoder_learning_rate if request.train_text_encoder else None,
        "lr_scheduler": request.lr_schedule,
        "lr_warmup_steps": request.warmup_steps,
        "optimizer": f"{request.optimizer}(weight_decay={request.weight_decay})",
        "max_grad_norm": request.max_grad_norm,
        "min_snr_gamma": request.min_snr_gamma,
        "noise_offset": request.noise_offset,
        "ema_decay": request.ema_decay,
        "caption_dropout_rate": request.caption_dropout,
        "shuffle_caption": request.shuffle_captions,
        "keep_tokens": request.keep_tokens,
        "flip_aug": request.flip,
        "clip_skip": story.clip_skip,
        "seed": request.seed,
        "mixed_precision": request.mixed_precision,
        "gradient_checkpointing": request.gradient_checkpointing,
        "cache_latents": True,
        "training_started_at": story.started_at,
        "training_finished_at": story.finished_at,
        "training_comment": request.description,
    }
    return {f"ss_{key}": _text(value) for key, value in facts.items()}


def _modelspec(story: Story) -> dict[str, str]:
    request = story.request
    facts: dict[str, str | None] = {
        "architecture": f"{ARCHITECTURES[story.model.family.name]}/lora",
        "implementation": "diffusers",
        "title": request.name,
        "description": request.description,
        "author": request.author,
        "date": datetime.fromtimestamp(story.finished_at, UTC).isoformat(timespec="seconds"),
        "license": request.licence,
        "trigger_phrase": request.trigger_word,
        "resolution": f"{story.resolution}x{story.resolution}",
        "prediction_type": PREDICTION_TYPES[story.prediction_type],
        "encoder_layer": str(story.clip_skip),
        "tags": None,
        "usage_hint": f"made by diffusers {diffusers.__version__}, peft {peft.__version__}, torch {torch.__version__}",
    }
    given = {f"modelspec.{key}": value for key, value in facts.items() if value is not None}
    return {"modelspec.sai_model_spec": "1.0.1", **given}


def _network(request: TrainingRequest) -> tuple[str, dict[str, object]]:
    """Return kohya's network module and its arguments."""
    conv = {"conv_dim": request.rank, "conv_alpha": request.effective_alpha} if request.train_conv else {}
    match request.kind:
        case "lora":
            return "networks.lora", dict(conv)
        case "lokr":
            return "lycoris.kohya", {"algo": "lokr", **conv}
        case "dora":
            return "lycoris.kohya", {"algo": "lora", "dora_wd": True, "wd_on_output": True, **conv}


def _buckets(plan: BatchPlan) -> dict[str, object]:
    counts = plan.counts().items()
    return {"buckets": {str(n): {"resolution": list(size), "count": count} for n, (size, count) in enumerate(counts)}}


def hash_of_unet(folder: Path) -> str:
    """Return the SHA-256 of the U-Net's files: which weights a LoRA was trained on."""
    digest = hashlib.sha256()
    for path in find_weights(folder / "unet").files:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _short_hash_of(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(_SHORT.start)
        return sha256(file.read(_SHORT.stop - _SHORT.start))[:8]


def _short_hash(data: bytes) -> str:
    return sha256(data[_SHORT])[:8]


def _text(value: object) -> str:
    """Return a value as kohya writes it: JSON for what has parts, else Python's text."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)
