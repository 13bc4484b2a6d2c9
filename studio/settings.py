"""What can be set: defaults < studio.toml < STUDIO_* variables < flags. Frozen, passed along, never a global."""

import os
import tomllib
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from pipelines.spec.errors import InvalidRequest
from studio import naming

_PROJECT = Path(__file__).resolve().parent.parent
_FOLDERS = ("home", "outputs", "models", "embeddings", "upscalers")
_FOLDER_LISTS = ("lora_dirs",)


def default_home() -> Path:
    """Return the project folder when run from a checkout, else a folder in the user's home."""
    return _PROJECT if _is_checkout() else Path.home() / "open-weights-studio"


def _is_checkout() -> bool:
    return (_PROJECT / "pyproject.toml").is_file()


class Settings(BaseModel):
    """One studio's settings. Folders left empty follow from `home`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    home: Path = Field(
        default_factory=default_home, description="Folder that holds outputs, models, loras and embeddings."
    )
    outputs: Path | None = Field(default=None, description="Folder of images, thumbnails, inputs and the database.")
    models: Path | None = Field(default=None, description="Folder of diffusers models, one folder each.")
    lora_dirs: tuple[Path, ...] = Field(
        default=(), description="Further folders of LoRAs beside home/loras, such as A1111's models/Lora."
    )
    embeddings: Path | None = Field(default=None, description="Folder of embeddings (textual inversion).")
    upscalers: Path | None = Field(default=None, description="Folder of upscale models, one safetensors file each.")
    database: str | None = Field(default=None, description="SQLAlchemy URL; a SQLite file in outputs by default.")
    host: str = Field(default="127.0.0.1", description="Address the server listens on.")
    port: int = Field(default=7860, ge=1, le=65535, description="Port the server listens on.")
    engine: Literal["diffusers", "fake"] = Field(default="diffusers", description="What makes the pictures.")
    devices: tuple[Annotated[str, StringConstraints(pattern=r"^[a-z]+(:\d+)?$")], ...] = Field(
        default=("auto",), min_length=1, description="One worker process each: auto, cpu, cuda:0 …"
    )
    default_model: str = Field(default="pocket", description="The model of a request that names none.")
    filename_pattern: str = Field(
        default=naming.DEFAULT_PATTERN, max_length=500, description="How pictures are named, in A1111's tokens."
    )
    images_at_once: int = Field(
        default=8, ge=1, le=64, description="So many pictures may be denoised at once, of one job or of several."
    )
    provenance_mark: bool = Field(
        default=True, description="Whether pictures say in the words of IPTC (XMP) that they were generated."
    )
    max_worker_deaths: int = Field(
        default=2, ge=1, description="A job that was running at so many worker deaths fails."
    )
    restart_delay: float = Field(
        default=1.0, gt=0, description="Seconds before a dead worker is restarted; doubles up to 30."
    )
    drain_seconds: float = Field(default=10.0, ge=0, description="How long a stopping worker may finish its job.")
    fake_step_seconds: float = Field(default=0.0, ge=0, description="How long each step of the fake engine takes.")

    @field_validator("devices", mode="before")
    @classmethod
    def _devices_from_text(cls, devices: object) -> object:
        """Variables and flags name several as "cuda:0,cuda:1"."""
        return tuple(device.strip() for device in devices.split(",")) if isinstance(devices, str) else devices

    @field_validator("devices")
    @classmethod
    def _each_device_once(cls, devices: tuple[str, ...]) -> tuple[str, ...]:
        """The first card has two names in torch: cuda and cuda:0."""
        devices = tuple("cuda:0" if device == "cuda" else device for device in devices)
        if "auto" in devices and len(devices) > 1:
            raise ValueError("names others beside auto, which may be one of them; name all or leave it at auto")
        for device in devices:
            if devices.count(device) > 1:
                raise ValueError(f"names {device} twice; one worker runs on each")
        return devices

    @field_validator("filename_pattern")
    @classmethod
    def _pattern_names_files(cls, pattern: str) -> str:
        naming.check(pattern)
        return pattern

    @property
    def is_private(self) -> bool:
        """Whether `host` can be reached from this machine only."""
        try:
            return ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def address(self) -> str:
        """Host and port as they stand in a URL: an IPv6 address in brackets."""
        host = self.host.strip("[]")
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{self.address}"

    @property
    def outputs_dir(self) -> Path:
        """Images, thumbnails, inputs, locks and the database live here."""
        return self.outputs or self.home / "outputs"

    @property
    def uploads_dir(self) -> Path:
        """What is uploaded on the page waits here until it is stored; nothing else is read for a page."""
        return self.outputs_dir / "tmp"

    @property
    def models_dir(self) -> Path:
        """The user's models: one diffusers folder each."""
        return self.models or self.home / "models"

    @property
    def lora_folders(self) -> tuple[Path, ...]:
        """Where LoRAs are looked for: the user's own folder, the further ones, and those that a checkout brings."""
        shipped = [_PROJECT / "loras"] if _is_checkout() else []
        return (self.home / "loras", *self.lora_dirs, *shipped)

    @property
    def embeddings_dir(self) -> Path:
        """Embeddings (textual inversion): a file's name is a word in prompts."""
        return self.embeddings or self.home / "embeddings"

    @property
    def upscalers_dir(self) -> Path:
        """The user's upscale models."""
        return self.upscalers or self.home / "upscalers"

    @property
    def database_url(self) -> str:
        """Where jobs and the gallery's index are kept."""
        from sqlalchemy import URL  # late: not every command needs the database

        file = URL.create("sqlite", database=str(self.outputs_dir / "studio.db"))
        return self.database or file.render_as_string(hide_password=False)

    @classmethod
    def load(cls, **flags: Any) -> Self:
        """Read studio.toml in `home` and the STUDIO_* variables; flags that are not None win.

        Relative folders in studio.toml start where it is, others in the current folder; ~ is the user's home.

        Raises:
            InvalidRequest: naming the setting, the value and where it came from.
        """
        given = _from_environment(os.environ) | {name: value for name, value in flags.items() if value is not None}
        given = _placed(given, Path.cwd())
        home = Path(given.get("home", default_home()))
        try:
            return cls(**({"home": home} | _placed(_from_file(home / "studio.toml"), home) | given))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = str(first["loc"][0]) if first["loc"] else "settings"
            raise InvalidRequest(
                f"setting {name}: {first['msg'].lower()}, got {first['input']!r}; "
                f"correct it in studio.toml, STUDIO_{name.upper()} or --{name.replace('_', '-')}",
                field=name,
            ) from error


def _placed(values: dict[str, Any], start: Path) -> dict[str, Any]:
    """Make folders absolute: relative ones start here. Variables and flags name several as "a,b"."""
    placed = dict(values)
    for name in _FOLDERS:
        if isinstance(values.get(name), str | Path):
            placed[name] = _absolute(values[name], start)
    for name in _FOLDER_LISTS:
        folders = values.get(name)
        if isinstance(folders, str):
            folders = [folder.strip() for folder in folders.split(",") if folder.strip()]
        if isinstance(folders, list | tuple):
            placed[name] = [_absolute(each, start) if isinstance(each, str | Path) else each for each in folders]
    return placed


def _absolute(folder: str | Path, start: Path) -> Path:
    try:
        return start / Path(folder).expanduser()
    except RuntimeError as error:
        raise InvalidRequest(f"{folder}: {error}; write the folder out") from error


def _from_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} is not valid TOML: {error}") from error


def _from_environment(variables: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in Settings.model_fields:
        value = variables.get(f"STUDIO_{name.upper()}")
        if value:
            found[name] = value
    return found
