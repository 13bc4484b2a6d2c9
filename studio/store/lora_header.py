"""What the header of a LoRA file tells: kind, rank, model family, trigger words, training. Of its tensors, one number.

Nothing in it is believed further than for showing it, and for refusing a LoRA of another family.
"""

import json
import re
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.spec.characters import whole
from pipelines.spec.embeddings import BUNDLED, EmbeddingLayout, bundled_layouts
from pipelines.spec.errors import ModelError
from pipelines.spec.lora_notes import Notes, UnreadableNotes
from pipelines.spec.safetensors_header import Header, TensorInfo, read_header

READING = 1
"""Raise it with every change of what is read here: headers are kept, and those of another number are read again."""

TRIGGER_SHARE = 4
"""A trigger word stands in the captions of one in so many pictures, or more."""
MAX_TRIGGER_WORDS = 10
_MAX_TEXT = 500
"""Characters of a title, licence or trigger phrase; more is no such thing."""

FAMILY_LABELS: Mapping[str, str] = {
    "sd1": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "Stable Diffusion XL",
    "sd3": "Stable Diffusion 3",
    "flux": "FLUX.1",
    "flux2": "FLUX.2",
    "qwen_image": "Qwen-Image",
    "z_image": "Z-Image",
}
"""Families that a header can name; those of `pipelines.spec.families` among them, by the same names."""

_ARCHITECTURES: Mapping[str, str] = {
    "stable-diffusion-v1": "sd1",
    "stable-diffusion-v2": "sd2",
    "stable-diffusion-xl": "sdxl",
    "stable-diffusion-v3": "sd3",
    "stable-diffusion-3": "sd3",
    "flux-2": "flux2",
    "flux2": "flux2",
    "flux": "flux",
    "qwen-image": "qwen_image",
    "z-image": "z_image",
    "zimage": "z_image",
}
"""How `modelspec.architecture` begins."""
_BASE_VERSIONS: Mapping[str, str] = {
    "sdxl": "sdxl",
    "sd_v1": "sd1",
    "sd_1": "sd1",
    "sd_v2": "sd2",
    "sd_2": "sd2",
    "sd3": "sd3",
    "flux2": "flux2",
    "flux": "flux",
    "qwen": "qwen_image",
    "zimage": "z_image",
    "z_image": "z_image",
}
"""How kohya's `ss_base_model_version` begins."""
_WIDTHS: Mapping[int, str] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""Width of the text that cross-attention reads -> family."""
_LAYERS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"lora_te2_|text_encoder_2\."), "sdxl"),
    (re.compile(r"double_stream_modulation|single_transformer_blocks\.\d+\.attn\.to_qkv_mlp"), "flux2"),
    (re.compile(r"single_blocks|single_transformer_blocks|double_blocks"), "flux"),
    (re.compile(r"joint_blocks|context_block"), "sd3"),
    (re.compile(r"(^|[._])(img_mlp|txt_mlp)[._]"), "qwen_image"),
    (re.compile(r"noise_refiner|context_refiner"), "z_image"),
)
"""What layers are called in one family only; the first that is found counts."""

_SUFFIX = re.compile(
    r"[._](?P<kind>"
    r"lora[_.](?:down|up|mid|A|B)(?:\.\w+)*|lora_magnitude_vector(?:\.\w+)*|dora_scale|alpha|"
    r"hada_\w+|lokr_\w+|oft_\w+|diff(?:_b)?|set_weight|w_norm|b_norm|on_input|weight|bias)$"
)
_KINDS: tuple[tuple[str, str], ...] = (
    ("dora_scale", "DoRA"),
    ("lora_magnitude_vector", "DoRA"),
    ("hada_", "LoHa"),
    ("lokr_", "LoKr"),
    ("oft_", "OFT"),
    ("on_input", "IA3"),
    ("diff", "full difference"),
    ("set_weight", "full difference"),
    ("w_norm", "full difference"),
    ("b_norm", "full difference"),
    ("lora", "LoRA"),
)
"""How what a tensor is in its layer begins -> kind."""
_RANKED = re.compile(r"lora[_.](?:down|A)|lokr_w[12]_b|hada_w1_b")
_PARTS: tuple[tuple[str, str], ...] = (
    ("lora_te1_", "text encoder"),
    ("lora_te2_", "text encoder 2"),
    ("lora_te3_", "text encoder 3"),
    ("lora_te_", "text encoder"),
    ("text_encoder_2.", "text encoder 2"),
    ("text_encoder_3.", "text encoder 3"),
    ("text_encoder.", "text encoder"),
    (BUNDLED, "embedding"),
)
_CROSS_ATTENTION = re.compile(r"attn2[._](?:processor[._])?to_[kv]$")
_INPUT_SIDE = re.compile(r"lora[_.](?:down|A)|hada_w[12]_b$|diff$")
_SCALARS: Mapping[str, str] = {"F16": "<e", "F32": "<f", "F64": "<d"}


@dataclass(frozen=True)
class LoraHeader:
    """What a LoRA file says of itself."""

    title: str
    """`ss_output_name`, else `modelspec.title`: another name to call it by; empty where there is none."""
    family: str
    """A key of FAMILY_LABELS, or empty: unknown."""
    kind: str
    """LoRA, LoCon (a LoRA with convolutions), LoHa, LoKr, DoRA, OFT, IA3, full difference, mixed (…)."""
    ranks: tuple[int, ...]
    alpha: float | None
    """Of the first layer that has one, else what is noted for all of them; divided by the rank."""
    layers: Mapping[str, int]
    """How many layers it changes, by the part of the model they are in."""
    cross_attention_dim: int | None
    """The width of the text that its cross-attention reads."""
    embeddings: Mapping[str, EmbeddingLayout]
    """What it brings for words of prompts, by word."""
    trigger_words: tuple[str, ...]
    """The phrase that the author names, then the tags that its training pictures have most often."""
    licence: str
    claimed_sha256: str
    """`sshs_model_hash`: what the file claims its tensors' hash to be."""
    claimed_legacy_hash: str
    """`sshs_legacy_hash`."""
    metadata: Mapping[str, str]
    """All that its trainer wrote."""


def read_lora_header(path: Path) -> LoraHeader:
    """Return what a LoRA file says of itself.

    Raises:
        ModelError: it cannot be read, or is no LoRA.
    """
    header = read_header(path)
    metadata = header.metadata
    split = {name: _split(name) for name in header.tensors}
    kinds = _kinds(header.tensors, split)
    if not kinds:
        raise ModelError(f"{path} is no LoRA: none of its {len(header.tensors)} tensors belongs to one")
    layers = dict.fromkeys(layer for layer, suffix in split.values() if suffix)
    width = _cross_attention_dim(header.tensors, split)
    family = _family(metadata) or _family_of_layers(layers, width)
    return LoraHeader(
        title=_text(metadata, "ss_output_name") or _text(metadata, "modelspec.title"),
        family=family,
        kind=_kind(kinds),
        ranks=tuple(sorted(_ranks(header.tensors, split))),
        alpha=_alpha(path, header, metadata),
        layers=dict(sorted(Counter(_part(layer, family) for layer in layers).items())),
        cross_attention_dim=width,
        embeddings=bundled_layouts(header, path),
        trigger_words=tuple(_trigger_words(metadata)),
        licence=_text(metadata, "modelspec.license") or _text(metadata, "license"),
        claimed_sha256=_text(metadata, "sshs_model_hash") or _text(metadata, "modelspec.hash_sha256"),
        claimed_legacy_hash=_text(metadata, "sshs_legacy_hash"),
        metadata=metadata,
    )


def _split(name: str) -> tuple[str, str]:
    """Return the layer that a tensor belongs to and what it is there; an unknown name is no such thing."""
    if name.startswith(BUNDLED):
        return ".".join(name.split(".")[:2]), "embedding"
    match = _SUFFIX.search(name)
    return (name[: match.start()], match["kind"]) if match else (name, "")


def _kinds(tensors: Mapping[str, TensorInfo], split: Mapping[str, tuple[str, str]]) -> set[str]:
    kinds = set()
    for name, (_, suffix) in split.items():
        kind = next((kind for start, kind in _KINDS if suffix.startswith(start)), "")
        if kind == "LoRA" and (suffix.startswith("lora_mid") or max(tensors[name].shape[2:], default=1) > 1):
            kind = "LoCon"
        kinds.add(kind)
    return kinds - {""}


def _kind(kinds: set[str]) -> str:
    if "DoRA" in kinds or "LoCon" in kinds:
        kinds = kinds - {"LoRA"}
    if "DoRA" in kinds:
        kinds = kinds - {"LoCon"}
    return next(iter(kinds)) if len(kinds) == 1 else f"mixed ({', '.join(sorted(kinds))})"


def _ranks(tensors: Mapping[str, TensorInfo], split: Mapping[str, tuple[str, str]]) -> set[int]:
    ranked = (tensors[name].shape for name, (_, suffix) in split.items() if _RANKED.search(suffix))
    return {shape[0] for shape in ranked if len(shape) > 1}


def _alpha(path: Path, header: Header, metadata: Mapping[str, str]) -> float | None:
    """Return the first alpha: a tensor of one number, else what diffusers, PEFT or kohya's trainer noted."""
    for name, tensor in header.tensors.items():
        if name.endswith(".alpha") and tensor.dtype in {*_SCALARS, "BF16"} and tensor.shape in {(), (1,)}:
            start, end = (header.data_start + offset for offset in tensor.data_offsets)
            with path.open("rb") as file:
                file.seek(start)
                data = file.read(end - start)
            if tensor.dtype == "BF16":
                data = b"\0\0" + data
            try:
                return float(struct.unpack(_SCALARS.get(tensor.dtype, "<f"), data)[0])
            except struct.error:  # the file was cut short a moment ago
                return None
    try:
        noted = Notes.of(path, header).alpha
    except UnreadableNotes as error:
        raise ModelError(f"{path} {error}") from error
    if noted is not None:
        return float(noted)
    try:
        return float(metadata.get("ss_network_alpha", ""))
    except ValueError:
        return None


def _part(layer: str, family: str) -> str:
    for start, part in _PARTS:
        if layer.startswith(start):
            return part
    return "U-Net" if family in {"", "sd1", "sd2", "sdxl"} else "transformer"


def _family(metadata: Mapping[str, str]) -> str:
    """Return what the metadata names, in A1111's order; empty where it names none."""
    architecture = metadata.get("modelspec.architecture", "").lower()
    version = metadata.get("ss_base_model_version", "").lower()
    for text, table in ((architecture, _ARCHITECTURES), (version, _BASE_VERSIONS)):
        for start, family in table.items():
            if text.startswith(start):
                return family
    return "sd2" if metadata.get("ss_v2") == "True" else ""


def _family_of_layers(layers: Iterable[str], width: int | None) -> str:
    if width is not None and width in _WIDTHS:
        return _WIDTHS[width]
    names = "\n".join(layers)
    return next((family for pattern, family in _LAYERS if pattern.search(names)), "")


def _cross_attention_dim(tensors: Mapping[str, TensorInfo], split: Mapping[str, tuple[str, str]]) -> int | None:
    """Return the width of the text as the first cross-attention layer takes it in."""
    for name, (layer, suffix) in split.items():
        if _CROSS_ATTENTION.search(layer) and _INPUT_SIDE.search(suffix):
            shape = tensors[name].shape
            if len(shape) > 1:
                return shape[1]
    return None


def _trigger_words(metadata: Mapping[str, str]) -> Iterator[str]:
    """Return the author's phrase and the most frequent training tags, without kohya's "10_" before a folder's name.

    A tag of few pictures triggers nothing.
    """
    phrase = _text(metadata, "modelspec.trigger_phrase")
    if phrase:
        yield phrase
    counts: Counter[str] = Counter()
    for tags in _folders(metadata, "ss_tag_frequency"):
        for tag, count in tags.items():
            if isinstance(count, int) and abs(count) < 2**53:
                counts[whole(tag.strip()[:_MAX_TEXT])] += count
    pictures = [each.get("img_count") for each in _folders(metadata, "ss_dataset_dirs")]
    num_pictures = sum(count for count in pictures if isinstance(count, int))
    frequent = (tag for tag, count in counts.most_common(MAX_TRIGGER_WORDS) if TRIGGER_SHARE * count >= num_pictures)
    yield from (tag for tag in frequent if tag and tag != phrase)


def _folders(metadata: Mapping[str, str], key: str) -> list[dict[str, Any]]:
    """Return what a trainer noted by folder of pictures; what is no such note is left out."""
    try:
        noted = json.loads(metadata.get(key, "{}"))
    except (ValueError, RecursionError):
        return []
    return [each for each in noted.values() if isinstance(each, dict)] if isinstance(noted, dict) else []


def _text(metadata: Mapping[str, str], key: str) -> str:
    text = metadata.get(key, "").strip()
    return "" if len(text) > _MAX_TEXT or text == "None" else text
