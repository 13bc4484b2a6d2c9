"""What an embedding (textual inversion) is: vectors that stand for a name in a prompt. Read from headers, no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.spec.errors import InvalidRequest, ModelError
from pipelines.spec.model import Model
from pipelines.spec.safetensors_header import Header, TensorInfo

FLOATS = frozenset({"F16", "BF16", "F32", "F64"})
SDXL_KEYS = ("clip_l", "clip_g")
"""The tensors of an embedding for two text encoders, in the order of the encoders."""

BUNDLED = "bundle_emb."
"""How the tensors begin that a LoRA file brings for words of prompts: bundle_emb.NAME.string_to_param.*, or .clip_l."""
_MAX_NAME = 256

_MADE_FOR: Mapping[tuple[int, ...], str] = {
    (768,): "Stable Diffusion 1.x",
    (1024,): "Stable Diffusion 2.x",
    (768, 1280): "Stable Diffusion XL",
}


@dataclass(frozen=True)
class EmbeddingFile:
    """An embedding on disk, as the catalogue knows it."""

    name: str
    """The word in the prompt; letter case does not count."""
    path: Path
    sha256: str
    """Of the whole file (A1111's TI hash); the engine refuses a file that is another."""


@dataclass(frozen=True)
class EmbeddingLayout:
    """Where in a file the vectors are."""

    keys: tuple[str, ...]
    """One tensor for each text encoder: (vectors, width), or (width,) for a single vector."""
    widths: tuple[int, ...]
    vectors: int

    @property
    def made_for(self) -> str:
        """The models it fits, in words."""
        widths = "+".join(map(str, self.widths))
        known = _MADE_FOR.get(self.widths)
        return f"{known} ({widths})" if known else f"text encoders of width {widths}"


def layout_of(header: Header, path: Path) -> EmbeddingLayout:
    """Return where the vectors are: A1111's and kohya's `emb_params`, diffusers' `<token>`, XL's `clip_l` and `clip_g`.

    Raises:
        ModelError: the file is no embedding.
    """
    if not _keys(header.tensors):
        raise ModelError(
            f"{path} is no embedding: an embedding has one tensor for each text encoder, and this file holds "
            f"{len(header.tensors)} others; LoRAs and models have folders of their own"
        )
    return _layout(header.tensors, str(path))


def bundled_layouts(header: Header, path: Path) -> Mapping[str, EmbeddingLayout]:
    """Return where the vectors are of the embeddings that a LoRA file brings, by name; most bring none.

    Raises:
        ModelError: what the file calls an embedding is none.
    """
    bundles: dict[str, dict[str, TensorInfo]] = {}
    for key, tensor in header.tensors.items():
        if key.startswith(BUNDLED):
            name, _, part = key.removeprefix(BUNDLED).partition(".")
            if not part:
                raise ModelError(
                    f"{path} has {key[:80]!r}, where {BUNDLED}NAME.string_to_param.*, .clip_l or .clip_g is meant"
                )
            bundles.setdefault(name, {})[part] = tensor
    layouts = {}
    for name, tensors in bundles.items():
        if not (name.strip() and name.isprintable() and len(name) <= _MAX_NAME):
            raise ModelError(f"{path} brings an embedding called {name!r:.80}, which no prompt can name")
        layout = _layout(tensors, f"what {path} brings as {name!r}")
        layouts[name] = replace(layout, keys=tuple(f"{BUNDLED}{name}.{part}" for part in layout.keys))
    return layouts


def check_fits(name: str, layout: EmbeddingLayout, model: Model, *, field: str) -> None:
    """Refuse an embedding for another kind of model.

    Raises:
        InvalidRequest: naming both sides.
    """
    if layout.widths != model.text_encoder_widths:
        takes = "+".join(map(str, model.text_encoder_widths))
        raise InvalidRequest(
            f"embedding {name!r} is for {layout.made_for}, model {model.name} takes {takes}; take {name!r} out of the "
            f"{field}, or choose another model",
            field=field,
        )


def _layout(tensors: Mapping[str, TensorInfo], source: str) -> EmbeddingLayout:
    keys = _keys(tensors)
    shapes = [_shape(tensors[key]) for key in keys]
    types = {tensors[key].dtype for key in keys}
    if not keys or len({vectors for vectors, _ in shapes}) > 1 or not all(map(all, shapes)):
        raise ModelError(f"{source} is no embedding: it holds no vectors, or not as many for each text encoder")
    if not types <= FLOATS:
        raise ModelError(f"{source} is no embedding: it holds {', '.join(types - FLOATS)}, where vectors are floats")
    return EmbeddingLayout(keys, tuple(width for _, width in shapes), shapes[0][0])


def _keys(tensors: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    """Return the tensors that hold vectors; none where that is not clear. Single numbers beside them say nothing."""
    if tensors.keys() == {*SDXL_KEYS}:
        return SDXL_KEYS
    tables = tuple(key for key, tensor in tensors.items() if len(tensor.shape) > 1)
    candidates = tables or tuple(tensors)
    return candidates if len(candidates) == 1 else ()


def _shape(tensor: TensorInfo) -> Sequence[int]:
    """Return (vectors, width); a single row is one vector, and what is neither has none."""
    match tensor.shape:
        case (vectors, width):
            return vectors, width
        case (width,):
            return 1, width
    return 0, 0
