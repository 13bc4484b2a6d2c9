"""Pickles -> safetensors files, which alone are loaded; and what such a file is good for here."""

from dataclasses import dataclass
from pathlib import Path

from pipelines.spec.embeddings import layout_of
from pipelines.spec.errors import InvalidRequest, ModelError
from pipelines.spec.safetensors_header import check_is_pickle, read_header
from studio.files import publish
from studio.store import read_lora_header
from studio.worker import unpickle

SUFFIX = ".safetensors"
_CHECKPOINT = "model.diffusion_model."
"""How the tensors of a denoiser are called in a whole checkpoint."""


@dataclass(frozen=True)
class Conversion:
    """A safetensors file that was made of a pickle."""

    path: Path
    num_tensors: int
    left_out: tuple[str, ...]
    """Names of entries of the pickle that are no tensors of the model."""
    use: str
    """What the file is, and where it belongs, in a sentence."""


def convert(source: Path, output: Path | None = None, *, overwrite: bool = False) -> Conversion:
    """Write the tensors of a pickle as a safetensors file. Nothing in the pickle runs.

    Args:
        source: the pickle, whatever it is called; it stays.
        output: the new file, or a folder for it; beside the pickle and of the same name if None.
        overwrite: replace a file of that name.

    Raises:
        NotFound: there is no such file.
        InvalidRequest: it is a safetensors file already, or the new one's name is taken or has another ending.
        ModelError: it holds or asks for more than data, is damaged, or its tensors are no model's.
        StorageError: the disk refuses; an older file of that name is as it was.
    """
    check_is_pickle(source)
    target = _target(source, output)
    if target.exists() and target.samefile(source):
        raise InvalidRequest(f"{source} is the pickle itself; name another file: studio convert FILE OUTPUT")
    if target.exists() and not overwrite:
        raise InvalidRequest(f"{target} exists already; choose another name or give --overwrite")
    unpickled = unpickle(source)
    publish(target, unpickled.write, size=unpickled.size)
    return Conversion(target, unpickled.num_tensors, unpickled.left_out, _use(target))


def _target(source: Path, output: Path | None) -> Path:
    if output is None:
        return source.with_suffix(SUFFIX)
    if output.is_dir():
        return output / source.with_suffix(SUFFIX).name
    if output.suffix != SUFFIX:
        raise InvalidRequest(f"OUTPUT must end in {SUFFIX}, or nothing here reads it; got {output.name}")
    return output


def _use(path: Path) -> str:
    header = read_header(path)
    try:
        made_for = layout_of(header, path).made_for
        return f"an embedding for {made_for}; in embeddings/ its name stands for it in prompts"
    except ModelError:
        pass
    try:
        return f"a {read_lora_header(path).kind} for loras/"
    except ModelError:
        pass
    if any(name.startswith(_CHECKPOINT) for name in header.tensors):
        return "a whole checkpoint, which cannot be used here yet: models are diffusers folders of safetensors files"
    if (path.parent / "config.json").is_file():
        return "a part of a diffusers folder, to stay in it"
    return "neither an embedding nor a LoRA; if it is an upscale model, it belongs into upscalers/"
