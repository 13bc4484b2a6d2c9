"""Which models are installed, and what their configuration files say."""

import json
from pathlib import Path
from typing import Any

import pipelines
from pipelines.spec.errors import InvalidRequest, ModelError, NotFound
from pipelines.spec.families import family_of
from pipelines.spec.model import Model
from pipelines.spec.request import GenerationRequest

POCKET = Path(pipelines.__file__).parent / "pocket" / "weights"
"""The model that ships with the project."""


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


def _folders(models_dir: Path) -> dict[str, Path]:
    found = {"pocket": POCKET} if (POCKET / "model_index.json").is_file() else {}
    for index in sorted(models_dir.glob("*/model_index.json")):
        found.setdefault(index.parent.name, index.parent)
    return found


def _read_model(name: str, path: Path) -> Model:
    family = family_of(str(_read_json(path / "model_index.json").get("_class_name")))
    unet = _read_json(path / "unet" / "config.json")
    vae = _read_json(path / "vae" / "config.json")
    own = _read_json(path / "studio.json") if (path / "studio.json").is_file() else {}
    try:
        size = unet["sample_size"]
        rows, columns = size if isinstance(size, list) else (size, size)
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        channels = int(unet["in_channels"])
        defaults = GenerationRequest.parse(own.get("defaults", {})).model_dump(exclude_unset=True)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"model {name}: its unet or vae config.json lacks or misstates {error}") from error
    except InvalidRequest as error:
        raise ModelError(f"model {name}: studio.json: {error}") from error
    return Model(
        name=name,
        path=path,
        family=family,
        native_width=columns * factor,
        native_height=rows * factor,
        unet_in_channels=channels,
        defaults=defaults,
        description=str(own.get("description", "")),
        licence=str(own.get("licence", "unknown")),
        openness=str(own.get("openness", "unknown")),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing; copy the whole model folder again") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} must hold a JSON object")
    return data
