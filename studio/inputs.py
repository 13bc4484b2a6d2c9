"""The images that users start from, content-addressed. No path ever comes from a client.

An input image is stored once under the SHA-256 of its bytes, and that id is all a request can name.
"""

import hashlib
import io
import os
import re
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from pipelines.spec.errors import InvalidRequest, NotFound
from pipelines.spec.pictures import eight_bits, upright
from pipelines.spec.resolved import ResolvedRequest
from studio.files import publish

MAX_INPUT_BYTES = 32 * 2**20
MAX_INPUT_PIXELS = 64 * 10**6
MAX_INPUT_SIDE = 16384
MIN_INPUT_SIDE = 8
INPUT_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF")
KNOWN_SIZES = 1024
"""Of so many inputs the size is remembered."""
UNUSED_SECONDS = 24 * 3600
"""An input that nobody has asked for so long is forgotten, if nothing names it."""


class InputStore:
    """The images that users start from.

    Args:
        folder: where they are kept; made when first needed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._size = lru_cache(KNOWN_SIZES)(lambda input_id: self.open(input_id).size)

    def put(self, source: bytes | Path | Image.Image, *, field: str = "init_image") -> str:
        """Store an image and return its id; the same bytes give the same id.

        Args:
            source: bytes of a PNG, JPEG, WebP or AVIF file, such a file, or a Pillow image (stored as PNG).
            field: the request field this is for, named in errors.

        Raises:
            InvalidRequest: not such an image, or too large.
        """
        data = self.check(source, field=field)
        name = hashlib.sha256(data).hexdigest()
        try:
            self.path(name)
        except NotFound:
            publish(self.folder / name, lambda file: file.write(data), size=len(data))
        return name

    @staticmethod
    def check(source: bytes | Path | Image.Image, *, field: str = "init_image") -> bytes:
        """Return the bytes of an image that can be stored, without storing it.

        Raises:
            InvalidRequest: see `put`.
        """
        data = _read(source, field)
        _check(data, field)
        return data

    def path(self, input_id: str) -> Path:
        """Return the file of an input, and note by its time of change that somebody asked for it.

        Raises:
            NotFound: no such input.
        """
        if not is_input_id(input_id) or not (path := self.folder / input_id).is_file():
            raise NotFound(f"there is no stored input {input_id[:80]!r}; store the image first")
        with suppress(OSError):  # of somebody else, or of a disk that is only read
            os.utime(path)
        return path

    def sweep(self, needed: Iterable[str]) -> int:
        """Delete the inputs that are not needed and that nobody has asked for lately; return how many.

        What one that is needed names in its own texts is needed too: it may be a picture of ours, made larger.

        Raises:
            OSError: one of those cannot be read; none is deleted.
        """
        there = {path.name: path for path in self.folder.glob("*") if is_input_id(path.name)}
        kept: set[str] = set()
        left = there.keys() & set(needed)
        while left:
            kept |= left
            left = (there.keys() & {found for name in left for found in ids_in(there[name].read_bytes())}) - kept
        swept = 0
        for name in there.keys() - kept:
            with suppress(OSError):  # it goes the next time
                if time.time() - there[name].stat().st_mtime > UNUSED_SECONDS:
                    there[name].unlink()
                    swept += 1
        return swept

    def source_of(self, request: ResolvedRequest) -> Path | None:
        """Return the input that a picture is, only larger; None for one that is painted.

        Raises:
            NotFound: no such input.
        """
        return self.path(request.init_image) if request.paints_nothing and request.init_image is not None else None

    def open(self, input_id: str) -> Image.Image:
        """Return an input, upright (EXIF orientation applied).

        Raises:
            NotFound: no such input, or its file is damaged.
        """
        with self._opened(input_id) as image:
            return eight_bits(upright(image))

    def kind(self, input_id: str) -> str:
        """Return png, jpeg, webp or avif.

        Raises:
            NotFound: no such input, or its file is damaged.
        """
        with self._opened(input_id) as image:
            return str(image.format).lower()

    def size(self, input_id: str) -> tuple[int, int]:
        """Return width and height in pixels, upright.

        The id stands for the bytes, so they are decoded the first time only: every job asks twice.

        Raises:
            NotFound: no such input, or its file is damaged.
        """
        self.path(input_id)
        return self._size(input_id)

    @contextmanager
    def _opened(self, input_id: str) -> Iterator[Image.Image]:
        path = self.path(input_id)
        try:
            with Image.open(path, formats=INPUT_FORMATS) as image:
                yield image
        except (OSError, SyntaxError, ValueError, RuntimeError) as error:  # what Pillow raises for what it cannot read
            raise NotFound(f"the file of input {input_id[:12]} is damaged ({error}); give the picture again") from error


def is_input_id(text: str) -> bool:
    """Whether a text has the form of an input's id."""
    return re.fullmatch("[0-9a-f]{64}", text) is not None


def ids_in(text: bytes) -> set[str]:
    """Return all that may be an input's id in a request, a record or a picture that holds one."""
    return {found.decode() for found in re.findall(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])", text)}


def _read(source: bytes | Path | Image.Image, field: str) -> bytes:
    match source:
        case bytes():
            return source
        case Image.Image():
            buffer = io.BytesIO()
            try:
                source.save(buffer, format="PNG")
            except (OSError, ValueError, SystemError) as error:
                sentence = f"{field}: PNG cannot hold this {source.mode} image of {source.size}: {error}"
                raise InvalidRequest(f"{sentence}; give image.convert('RGB')", field=field) from error
            return buffer.getvalue()
        case Path():
            try:
                if source.stat().st_size > MAX_INPUT_BYTES:
                    raise InvalidRequest(_too_large(field, source.stat().st_size), field=field)
                return source.read_bytes()
            except OSError as error:
                raise InvalidRequest(f"{field}: cannot read {source}: {error.strerror}", field=field) from error


def _check(data: bytes, field: str) -> None:
    """Refuse what is not a whole image of sane size. The header is checked before any pixel is decoded."""
    if len(data) > MAX_INPUT_BYTES:
        raise InvalidRequest(_too_large(field, len(data)), field=field)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=INPUT_FORMATS)
        width, height = image.size
        if min(width, height) < MIN_INPUT_SIDE or max(width, height) > MAX_INPUT_SIDE:
            raise InvalidRequest(
                f"{field}: sides must be {MIN_INPUT_SIDE} to {MAX_INPUT_SIDE} pixels, got {width}×{height}", field=field
            )
        if width * height > MAX_INPUT_PIXELS:
            raise InvalidRequest(
                f"{field}: at most {MAX_INPUT_PIXELS // 10**6} megapixels, got {width}×{height}; scale it down",
                field=field,
            )
        image.load()
    except UnidentifiedImageError as error:
        raise InvalidRequest(f"{field} is not a PNG, JPEG, WebP or AVIF image", field=field) from error
    except (OSError, ValueError, SyntaxError, EOFError, RuntimeError, Image.DecompressionBombError) as error:
        raise InvalidRequest(f"{field} is damaged: {error}", field=field) from error


def _too_large(field: str, size: int) -> str:
    return f"{field}: at most {MAX_INPUT_BYTES // 2**20} MiB, got {size / 2**20:.1f} MiB; save it smaller"
