"""How strongly each layer of a LoRA is meant, where its tensors do not say: what diffusers and PEFT note beside them.

diffusers writes into the file's header (`lora_adapter_metadata`), PEFT into `adapter_config.json` beside the file.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipelines.spec.safetensors_header import Header

KEY = "lora_adapter_metadata"
CONFIG = "adapter_config.json"
_OF_PEFT = "base_model.model."
"""How the names of its tensors begin."""
_MAX_CONFIG_BYTES = 2**20
_MOST = 2.0**127
"""What float32 holds."""
_MEANT = frozenset({"lora_alpha", "use_rslora", "alpha_pattern"})
_MEANT_WITH_RANKS = _MEANT | {"alpha", "r", "rank_pattern"}
"""Of PEFT's LoHa and LoKr, which have `alpha` for `lora_alpha`; the tensors of a LoKr need not tell its rank."""
_LITERAL = re.compile(r"[\w.\-]+")
"""Patterns that name layers outright; others would be run as regular expressions of whoever made the file."""
_NESTED = "text_model."
"""A level that the names of text encoders have in some versions of transformers."""


class UnreadableNotes(ValueError):
    """What is noted cannot be meant, in words that do not name the file."""


@dataclass(frozen=True)
class Strength:
    """What a LoRA's product is multiplied with, where the layer has no alpha of its own."""

    alpha: float | None = None
    """None is the rank."""
    is_rank_stabilised: bool = False
    """Divided by the root of the rank (arXiv:2312.03732) and not by the rank."""
    rank: int | None = None
    """Where it is noted and counts."""

    def scale(self, rank: int | None) -> float:
        """Return the factor.

        Args:
            rank: as the tensors have it; None where they do not say.
        """
        rank = rank or self.rank
        if self.alpha is None or rank is None:
            return 1.0
        return self.alpha / (math.sqrt(rank) if self.is_rank_stabilised else rank)


@dataclass(frozen=True)
class Notes:
    """The notes of one file: `unet.lora_alpha`, `text_encoder.alpha_pattern`, …"""

    values: Mapping[str, Any]

    @classmethod
    def of(cls, path: Path, header: Header) -> "Notes":
        """Read and check what is noted.

        Args:
            path: of the file; what PEFT writes beside it counts for files with PEFT's names only.
            header: of the file.

        Raises:
            UnreadableNotes: it means nothing.
        """
        source, text = KEY, header.metadata.get(KEY, "{}").encode()
        if KEY not in header.metadata and any(key.startswith(_OF_PEFT) for key in header.tensors):
            source, text = CONFIG, _beside(path)
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UnreadableNotes(f"has {source} that is no JSON") from error
        if not isinstance(values, dict):
            raise UnreadableNotes(f"has {source} that is no object")
        notes = cls(values)
        for key, value in notes.meant.items():
            if not _is_meant(key.rpartition(".")[2], value):
                raise UnreadableNotes(f"has {source} that notes {key} as {value!r:.60}, which means nothing")
        if "alpha" in values and "r" not in values:
            raise UnreadableNotes(f"has {source} that notes alpha and no r, which together are the strength")
        return notes

    @property
    def meant(self) -> Mapping[str, Any]:
        """Those that say how strongly the layers are meant."""
        names = _MEANT_WITH_RANKS if "alpha" in self.values else _MEANT
        return {key: value for key, value in self.values.items() if key.rpartition(".")[2] in names}

    @property
    def alpha(self) -> float | None:
        """The first that is noted for all layers of a part."""
        names = ("lora_alpha", "alpha")
        return next((value for key, value in self.values.items() if key.rpartition(".")[2] in names), None)

    @property
    def digest(self) -> str:
        """Eight digits that differ where strengths are noted otherwise; empty where none is."""
        return sha256(json.dumps(self.meant, sort_keys=True).encode()).hexdigest()[:8] if self.meant else ""

    def strength(self, part: str, path: str) -> Strength:
        """Return how strongly a layer is meant; of patterns, the first that ends its name holds, as in PEFT.

        Args:
            part: unet, transformer, text_encoder or text_encoder_2.
            path: name of the module within its part, in diffusers' words.
        """
        alpha = _noted(self._of(part, "alpha_pattern"), path, self._of(part, "lora_alpha"))
        if "alpha" not in self.values:
            return Strength(alpha, bool(self._of(part, "use_rslora")))
        alpha = _noted(self.values.get("alpha_pattern"), path, self.values["alpha"])
        return Strength(alpha, rank=_noted(self.values.get("rank_pattern"), path, self.values["r"]))

    def _of(self, part: str, name: str) -> Any:
        return self.values.get(f"{part}.{name}", self.values.get(name))


def _noted(pattern: Mapping[str, Any] | None, path: str, default: Any) -> Any:
    """Return what a pattern says of a layer, by the first of its names that ends the layer's."""
    path = f".{path.removeprefix(_NESTED)}"
    found = (value for end, value in (pattern or {}).items() if path.endswith(f".{end.removeprefix(_NESTED)}"))
    return next(found, default)


def config_stamp(path: Path) -> int | None:
    """Return when what PEFT notes beside a file last changed, in nanoseconds; None where nothing is."""
    try:
        return path.with_name(CONFIG).stat().st_mtime_ns
    except OSError:
        return None


def _beside(path: Path) -> bytes:
    """Return what PEFT notes beside a file; where nothing is, the ranks count as the alphas."""
    try:
        with path.with_name(CONFIG).open("rb") as file:
            text = file.read(_MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        return b"{}"
    except OSError as error:
        raise UnreadableNotes(f"has {CONFIG} that cannot be read: {error.strerror}") from error
    if len(text) > _MAX_CONFIG_BYTES:
        raise UnreadableNotes(f"has {CONFIG} of more than {_MAX_CONFIG_BYTES} bytes, which no trainer writes")
    return text


def _is_meant(name: str, value: object) -> bool:
    match name:
        case "lora_alpha":
            return value is None or _is_number(value)
        case "alpha":
            return _is_number(value)
        case "r":
            return _is_rank(value)
        case "use_rslora":
            return value is None or isinstance(value, bool)
        case "alpha_pattern" if value is not None:
            return isinstance(value, dict) and all(
                _LITERAL.fullmatch(key) and _is_number(alpha) for key, alpha in value.items()
            )
        case "rank_pattern" if value is not None:
            return isinstance(value, dict) and all(
                _LITERAL.fullmatch(key) and _is_rank(rank) for key, rank in value.items()
            )
    return True


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: object) -> bool:
    """Whether a value is a number that tensors can hold; JSON knows integers of any length."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -_MOST < value < _MOST
