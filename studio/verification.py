"""Makes a picture again from what it says about itself, and compares.

Knows a Studio by what it is given of it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Protocol

from PIL import Image, ImageChops

from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolved import ResolvedRequest
from studio import metadata
from studio.gallery import Gallery, GalleryImage
from studio.metadata import FoundLora, Record

_SAYS_NOTHING = frozenset({"images_at_once"})
"""What the engine reports and no pixel depends on that was made on a processor; accelerators round by it."""
_SHOWN = 0.001
"""The smallest share of pixels that is told as a number."""


class Making(Protocol):
    """The part of a Studio that is needed here."""

    @property
    def gallery(self) -> Gallery:
        """The finished pictures."""

    def find_model(self, name: str, digest: str) -> str | None:
        """Find a model by its hash; without one, by its name."""

    def find_lora(self, name: str, digest: str) -> FoundLora | None:
        """Find a LoRA by its hash, else by its name."""

    def generate(self, request: GenerationRequest, *, progress: bool) -> list[GalleryImage]:
        """Make pictures."""


@dataclass(frozen=True)
class Difference:
    """A setting that was another when the picture was made."""

    name: str
    then: Any
    now: Any


@dataclass(frozen=True)
class Verification:
    """What came out of making a picture again."""

    path: Path
    max_difference: int | None
    """The largest difference of any channel of any pixel, 0 to 255; None where even the sizes differ."""
    differing_pixels: float
    """The share of pixels that differ, from 0 to 1."""
    differences: tuple[Difference, ...]
    """LoRAs, model, device, precision and versions that are not what they were; the first is the likeliest cause."""
    notes: tuple[str, ...] = ()
    """What the texts beside the record say otherwise, in sentences: somebody edited them."""

    @property
    def is_exact(self) -> bool:
        """Whether every pixel is the same."""
        return self.max_difference == 0

    @property
    def sentence(self) -> str:
        """What came out, in words: how much differs, what was another then, and which texts were edited."""
        return "; ".join((self._verdict, *self.notes))

    @property
    def _verdict(self) -> str:
        if self.is_exact:
            return "exact, every pixel is the same"
        if self.max_difference is None:
            verdict = "another size"
        else:
            share = f"{self.differing_pixels:.1%}" if self.differing_pixels >= _SHOWN else f"less than {_SHOWN:.1%}"
            verdict = f"{share} of the pixels differ, by up to {self.max_difference} of 255"
        if not self.differences:
            return f"{verdict}; every recorded setting is the same: the file may have been edited"
        changed = "; ".join(f"{each.name} was {each.then}, is {each.now}" for each in self.differences)
        return f"{verdict}; {changed}"


def verify(studio: Making, path: Path, *, progress: bool) -> Verification:
    """Make a picture again and compare the pixels. The second picture is deleted afterwards.

    Args:
        studio: makes the picture.
        path: a picture made here.
        progress: show a progress bar.

    Raises:
        NotFound: no such file, or one without a record of ours.
        InvalidRequest: it cannot be made here: the model, a LoRA or an input image is gone.
        GenerationFailed, Cancelled: it could not be made.
    """
    (made,) = studio.generate(again(studio, path), progress=progress)
    try:
        return compare(path, made)
    finally:
        studio.gallery.delete(made.id)


def again(studio: Making, path: Path) -> GenerationRequest:
    """Return the request that makes a picture again.

    Raises:
        NotFound: no such file, or one without a record of ours.
        InvalidRequest: its record asks for what nobody can ask.
    """
    return metadata.asked_here(metadata.read(path), find_model=studio.find_model, find_lora=studio.find_lora)


def compare(path: Path, made: GalleryImage) -> Verification:
    """Compare a picture with its second making.

    Raises:
        NotFound: either is gone, or carries no record of ours.
    """
    records = [metadata.read(each) for each in (path, made.path)]
    before, after = (_pixels(each) for each in (path, made.path))
    differences, notes = _differences(*records), metadata.disagreements(metadata.read_texts(path))
    if before.size != after.size:
        return Verification(path, None, 1.0, differences, notes)
    bands = ImageChops.difference(before, after).split()
    counts = reduce(ImageChops.lighter, bands).histogram()
    most = max(value for value, count in enumerate(counts) if count)
    return Verification(path, most, 1 - counts[0] / sum(counts), differences, notes)


def _differences(before: Record, after: Record) -> tuple[Difference, ...]:
    then, now = _settings(before), _settings(after)
    told_apart = {*metadata.MODELS, *metadata.MODELS.values(), *(_SAYS_NOTHING if "threads" in now else ())}
    others = (
        Difference(name, then.get(name), now.get(name))
        for name in {**then, **now}
        if then.get(name) != now.get(name) and name not in told_apart
    )
    return (*_changed_models(then, now), *_changed_loras(before.request, after.request), *others)


def _changed_models(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    """Yield the models that have other weights than they had, or another name where the weights are not known."""
    for field, key in metadata.MODELS.items():
        before, after = then.get(key), now.get(key)
        if before is None or after is None:
            if then.get(field) != now.get(field):
                yield Difference(field, then.get(field), now.get(field))
        elif before != after:
            yield Difference(f"{field} {then.get(field)}", str(before)[:12], str(after)[:12])


def _changed_loras(before: ResolvedRequest, after: ResolvedRequest) -> Iterator[Difference]:
    """Yield the files that hold other tensors than they did; another name of the same file is no difference."""
    for then, now in zip(before.loras, after.loras, strict=False):
        if then.sha256 != now.sha256:
            yield Difference(f"LoRA {then.name}", then.sha256[:12], now.sha256[:12])


def _settings(record: Record) -> Mapping[str, Any]:
    """Return what pixels depend on but LoRA files; what these changed by their place, for a file may be renamed."""
    places = {f"lora {lora.name}": f"layers of LoRA {place}" for place, lora in enumerate(record.request.loras, 1)}
    provenance = {places.get(name, name): value for name, value in record.provenance.items()}
    return {**record.request.model_dump(mode="json", exclude={"loras"}), **provenance}


def _pixels(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGBA")  # pictures are made opaque: what is transparent was edited
