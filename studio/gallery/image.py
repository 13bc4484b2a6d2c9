"""One picture of the gallery."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipelines.spec.errors import NotFound
from pipelines.spec.resolved import ResolvedRequest
from studio.metadata import Record


@dataclass(frozen=True)
class GalleryImage:
    """One picture of the gallery."""

    id: str
    job_id: str
    index: int
    path: Path
    thumbnail: Path
    width: int
    """Of the file in pixels; a part that was repainted by itself was painted in another size."""
    height: int
    request: ResolvedRequest
    """What ran: `Studio.generate(image.request.asked())` makes the same pixels again."""
    provenance: Mapping[str, str | int | float | bool]
    notes: tuple[str, ...]
    """What was done otherwise than it was asked, in sentences."""
    sha256: str
    created_at: float
    """Seconds since the epoch."""

    @property
    def record(self) -> Record:
        """What the file says of itself."""
        return Record(self.job_id, self.index, self.created_at, self.request, self.provenance)

    @property
    def lora_audits(self) -> dict[str, str]:
        """By the name of each LoRA: how much of it was applied, and where. Older pictures may not say."""
        said = ((lora.name, self.provenance.get(f"lora {lora.name}")) for lora in self.request.loras)
        return {name: str(audit) for name, audit in said if audit is not None}

    @property
    def image(self) -> Image.Image:
        """The picture itself, read from its file.

        Raises:
            NotFound: the file is gone.
        """
        try:
            with Image.open(self.path) as image:
                image.load()
                return image
        except FileNotFoundError as error:
            raise NotFound(
                f"the file of picture {self.id} is gone: {self.path}; put it back, or run `studio gallery rebuild`"
            ) from error
