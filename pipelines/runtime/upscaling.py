"""Larger pictures without denoising: Pillow's filters, and upscale models (spandrel) tile by tile in bounded memory."""

from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from pipelines.runtime.guards import is_out_of_memory
from pipelines.runtime.tiling import Tiles
from pipelines.runtime.weights import fingerprint
from pipelines.spec.errors import ModelError, NotANumber
from pipelines.spec.safetensors_header import read_header
from pipelines.spec.upscalers import INSTALL_SPANDREL, UPSCALERS, PictureUpscaler

TILE = 256
"""Pixels of the input that a model sees at once, along each side."""
OVERLAP = 32
"""Pixels of the input that neighbouring tiles share; one fades into the other there."""
MAX_ROUNDS = 4
"""A model that enlarges twice reaches 16 times in so many."""

Model = Callable[[torch.Tensor], torch.Tensor]
"""(1, 3, height, width) between 0 and 1 -> the same, `scale` times larger."""


class Upscaler(Protocol):
    """Enlarges pictures."""

    @property
    def provenance(self) -> dict[str, str | int | float | bool]:
        """What the pixels depend on beside the upscaler's name."""

    def enlarge(
        self, image: Image.Image, *, width: int, height: int, on_tile: Callable[[], object] = lambda: None
    ) -> Image.Image:
        """Return an RGB picture at exactly width × height.

        Args:
            image: RGB.
            width: in pixels.
            height: in pixels.
            on_tile: called before each tile that a model enlarges; what it raises ends the work.
        """


class Filter:
    """One of Pillow's filters.

    Args:
        row: which one.
    """

    provenance: dict[str, str | int | float | bool] = {}  # noqa: RUF012

    def __init__(self, row: PictureUpscaler) -> None:
        self._resampling = Image.Resampling[row.resampling.upper()]

    def enlarge(
        self, image: Image.Image, *, width: int, height: int, on_tile: Callable[[], object] = lambda: None
    ) -> Image.Image:
        """Return the picture at width × height."""
        return image.resize((width, height), self._resampling)


class UpscaleModel:
    """A model file that enlarges pictures by a fixed factor.

    Args:
        path: a safetensors file of an architecture that spandrel knows.
        device: where it runs, in float32.

    Raises:
        ModelError: spandrel is not installed, or the file is not what it should be.
    """

    def __init__(self, path: Path, *, device: torch.device) -> None:
        descriptor = _load(path, device)
        self.scale: int = descriptor.scale
        self.provenance: dict[str, str | int | float | bool] = {
            "upscaler_fingerprint": fingerprint(path.parent, (path,)),
            "spandrel": metadata.version("spandrel"),
        }
        self._name = path.name
        self._model: Model = descriptor
        self._device = device

    def enlarge(
        self, image: Image.Image, *, width: int, height: int, on_tile: Callable[[], object] = lambda: None
    ) -> Image.Image:
        """Return the RGB picture at width × height: as many rounds as it takes, then Lanczos down.

        No round but the first is given more pixels than its result needs.
        """
        for _ in range(MAX_ROUNDS):
            if image.width >= width and image.height >= height:
                break
            image = self._round(image, on_tile)
            enough = -(-width // self.scale), -(-height // self.scale)
            if (image.width < width or image.height < height) and (
                image.width > enough[0] and image.height > enough[1]
            ):
                image = image.resize(enough, Image.Resampling.LANCZOS)
        return image.resize((width, height), Image.Resampling.LANCZOS)

    @torch.inference_mode()
    def _round(self, image: Image.Image, on_tile: Callable[[], object]) -> Image.Image:
        pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)[None]

        def enlarged(tile: torch.Tensor) -> torch.Tensor:
            on_tile()
            return self._model(tile.to(self._device)).cpu()

        larger = in_tiles(enlarged, pixels, scale=self.scale)
        if not bool(torch.isfinite(larger).all()):
            raise NotANumber(f"the upscaler {self._name} produced NaN or infinity; its weights are damaged")
        rounded = (larger[0].clamp(0, 1) * 255).round().to(torch.uint8)
        return Image.fromarray(rounded.permute(1, 2, 0).numpy(), "RGB")


class Upscalers:
    """All upscalers of pictures; the model used last stays loaded.

    Args:
        device: where models run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._loaded: tuple[tuple[Path, int, int], UpscaleModel] | None = None

    def of(self, name: str, file: Path | None) -> Upscaler:
        """Return the upscaler of a name.

        Args:
            name: of the table, or of the file.
            file: the model file, for a name that the table lacks.

        Raises:
            ModelError: the file cannot be used.
        """
        row = UPSCALERS.get(name)
        if isinstance(row, PictureUpscaler):
            return Filter(row)
        assert file is not None
        return self._model(file)

    def forget(self) -> None:
        """Drop the model; what is used next is read again."""
        self._loaded = None

    def _model(self, file: Path) -> UpscaleModel:
        try:
            status = file.stat()
        except OSError as error:
            raise ModelError(f"the upscaler {file} cannot be read: {error.strerror}") from error
        key = file, status.st_size, status.st_mtime_ns
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None
            self._loaded = key, UpscaleModel(file, device=self._device)
        return self._loaded[1]


def in_tiles(
    model: Model, pixels: torch.Tensor, *, scale: int, tile: int = TILE, overlap: int = OVERLAP
) -> torch.Tensor:
    """Return what a model makes of (1, channels, height, width), shown to it in squares of at most `tile` pixels.

    Where tiles overlap, one fades into the next linearly, so that no seam shows. A picture of one tile is passed whole.
    """
    tiles = Tiles.cover(*pixels.shape[2:], size=tile, overlap=overlap)
    return tiles.blend(lambda part: model(part.cut(pixels)), like=pixels, scale=scale)


def _load(path: Path, device: torch.device) -> Any:
    try:
        from spandrel import ImageModelDescriptor, ModelLoader
    except ImportError as error:
        raise ModelError(f"the upscaler {path.name} needs spandrel: {INSTALL_SPANDREL} ({error})") from error
    read_header(path)
    try:
        descriptor = ModelLoader(device).load_from_state_dict(load_file(path))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(f"the upscaler {path} cannot be loaded: {error}") from error
    if not isinstance(descriptor, ImageModelDescriptor) or descriptor.scale < 2:
        raise ModelError(f"the upscaler {path} does not enlarge pictures; choose another")
    if (descriptor.input_channels, descriptor.output_channels) != (3, 3):
        raise ModelError(f"the upscaler {path} must take and give RGB; choose another")
    return descriptor.eval()
