"""Which models are installed, and what their configuration files say."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import pipelines
from pipelines.spec.errors import InvalidRequest, ModelError, NotFound
from pipelines.spec.families import family_of
from pipelines.spec.families.family import Family
from pipelines.spec.model import Model
from pipelines.spec.request import GenerationRequest
from pipelines.spec.values import MAX_SIDE

POCKET = Path(pipelines.__file__).parent / "pocket" / "weights"
"""The model that ships with the project."""


_LatentSide = Annotated[int, Field(ge=1, le=MAX_SIDE)]


class _UnetConfig(BaseModel):
    """What unet/config.json must say."""

    model_config = ConfigDict(strict=True, title="unet")
    sample_size: _LatentSide | Annotated[list[_LatentSide], Field(min_length=2, max_length=2)]
    """In latent pixels; rows and columns where they differ."""
    in_channels: int = Field(ge=1)
    cross_attention_dim: int | list[int] | None = None


class _VaeConfig(BaseModel):
    """What vae/config.json must say."""

    model_config = ConfigDict(strict=True, title="vae")
    block_out_channels: list[int] = Field(min_length=1, max_length=8)
    """One entry per level; each but the last halves the picture."""


class _TextEncoderConfig(BaseModel):
    """What text_encoder/config.json must say."""

    model_config = ConfigDict(strict=True, title="text_encoder")
    num_hidden_layers: int = Field(ge=1, le=1000)
    hidden_size: int = Field(default=512, ge=1, le=100_000)
    """As transformers, where it is left out."""


def installed_models(models_dir: Path) -> list[Model]:
    """Return the readable models: the pocket model and every diffusers folder in `models_dir`, by name."""
    models = []
    for name, path in _folders(models_dir).items():
        try:
            models.append(_read_model(name, path))
        except ModelError:
            continue
    return models


def find_model(name: str, models_dir: Path) -> Model:
    """Return one model by name.

    Raises:
        NotFound: no such model; the message lists those there are.
        ModelError: its configuration cannot be read.
    """
    folders = _folders(models_dir)
    if name not in folders:
        known = ", ".join(folders) or "none"
        raise NotFound(f"model {name!r} is not installed; installed are: {known} (models live in {models_dir})")
    return _read_model(name, folders[name])


def model_named(name: str, models_dir: Path) -> str | None:
    """Return the name of an installed model as it is written, given in any letter case; None if there is none."""
    return {model.name.lower(): model.name for model in installed_models(models_dir)}.get(name.lower())


def _folders(models_dir: Path) -> dict[str, Path]:
    found = {"pocket": POCKET} if (POCKET / "model_index.json").is_file() else {}
    for index in sorted(models_dir.glob("*/model_index.json")):
        found.setdefault(index.parent.name, index.parent)
    return found


def _read_model(name: str, path: Path) -> Model:
    family = family_of(str(_read_json(path / "model_index.json").get("_class_name")))
    own = _read_json(path / "studio.json") if (path / "studio.json").is_file() else {}
    try:
        unet = _UnetConfig.model_validate(_read_json(path / "unet" / "config.json"))
        vae = _VaeConfig.model_validate(_read_json(path / "vae" / "config.json"))
        encoders = [
            _TextEncoderConfig.model_validate(_read_json(path / part / "config.json"))
            for part in ("text_encoder", "text_encoder_2")
            if part == "text_encoder" or (path / part).is_dir()
        ]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place, problem = first["loc"][0], first["msg"].lower()
        raise ModelError(f"model {name}: {place} in its {error.title} config.json: {problem}") from error
    size = unet.sample_size
    rows, columns = size if isinstance(size, list) else (size, size)
    factor = 2 ** (len(vae.block_out_channels) - 1)
    return Model(
        name=name,
        path=path,
        family=family,
        native_width=columns * factor,
        native_height=rows * factor,
        unet_in_channels=unet.in_channels,
        text_encoder_layers=encoders[0].num_hidden_layers,
        text_encoder_widths=tuple(encoder.hidden_size for encoder in encoders),
        cross_attention_dim=unet.cross_attention_dim if isinstance(unet.cross_attention_dim, int) else None,
        defaults=_defaults(name, own.get("defaults", {}), family),
        description=str(own.get("description", "")),
        licence=str(own.get("licence", "unknown")),
        openness=str(own.get("openness", "unknown")),
    )


def _defaults(name: str, own: object, family: Family) -> dict[str, Any]:
    if not isinstance(own, dict):
        raise ModelError(f"model {name}: studio.json: defaults must be a JSON object")
    try:
        defaults = GenerationRequest.parse(own).model_dump(exclude_unset=True, exclude_none=True)
    except InvalidRequest as error:
        raise ModelError(f"model {name}: studio.json: {error}") from error
    for field in defaults.keys() - family.defaults.keys():
        raise ModelError(f"model {name}: studio.json: {field} cannot have a default")
    return defaults


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing; copy the whole model folder again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} must hold a JSON object")
    return data
