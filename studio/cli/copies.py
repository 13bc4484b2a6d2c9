"""`--output`: byte copies of finished pictures, their records inside, where the user wants them."""

import os
import shutil
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.spec.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from studio.gallery import GalleryImage

FORMATS: Mapping[str, str] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".avif": "avif"}
"""Ending of a file name -> output_format."""

NOT_WRITTEN = frozenset({".bmp", ".gif", ".heic", ".heif", ".jp2", ".jxl", ".psd", ".svg", ".tga", ".tif", ".tiff"})
"""Endings that mean a picture, which no folder is called by."""


class Copies:
    """Where the copies of one request's pictures go.

    Args:
        output: a file if its name has a known ending and it is no folder, else a folder, made when needed.
        overwrite: replace files of the same names.

    Raises:
        InvalidRequest: the name ends as that of a picture which is not written.
    """

    def __init__(self, output: Path, *, overwrite: bool) -> None:
        if output.suffix.lower() in NOT_WRITTEN and not output.is_dir():
            raise InvalidRequest(
                f"--output: {output.name} is not written; end it in {', '.join(FORMATS)}, or name a folder",
                field="output",
            )
        self._output = output
        self._overwrite = overwrite
        self._format = None if output.is_dir() else FORMATS.get(output.suffix.lower())

    def with_format(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the request's fields with the format that the file's name promises.

        Raises:
            InvalidRequest: another format was asked.
        """
        asked = fields.get("output_format", self._format)
        if self._format is not None and asked != self._format:
            raise InvalidRequest(
                f"output_format {asked} does not go with --output {self._output.name}; give only one of them, "
                f"or a name that ends in .{asked}",
                field="output_format",
            )
        return {**fields, "output_format": asked} if self._format else dict(fields)

    def check(self, num_images: int) -> None:
        """Refuse what would fail after the work is done: a file in the way, a folder that cannot be written.

        Raises:
            InvalidRequest: naming the file or folder.
        """
        if self._format is not None and not self._overwrite:
            for index in range(num_images):
                if (target := self._target(index, num_images)).exists():
                    raise InvalidRequest(
                        f"--output: {target} exists already; choose another name or give --overwrite", field="output"
                    )
        folder = (self._output if self._format is None else self._output.parent).absolute()
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise InvalidRequest(f"--output: {nearest} is not a folder that can be written", field="output")

    def put(self, image: "GalleryImage", *, num_images: int) -> Path:
        """Copy a finished picture and return the copy's path.

        Raises:
            StorageError: the disk refused.
        """
        from studio.files import publish

        target = self._output / image.path.name if self._format is None else self._target(image.index, num_images)
        with image.path.open("rb") as picture:
            publish(target, lambda file: shutil.copyfileobj(picture, file))
        return target

    def put_beside(self, image: "GalleryImage") -> Path:
        """Copy a picture into the folder; another file of that name is kept, and an equal one is not written again.

        Raises:
            NotFound: the picture's file is gone.
            StorageError: the disk refused.
        """
        from studio.files import publish

        try:
            data = image.path.read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"the file of picture {image.id} is gone: {image.path}") from error
        for number in count(1):
            target = self._output / (
                image.path.name if number == 1 else f"{image.path.stem}-{number}{image.path.suffix}"
            )
            if not target.exists():
                publish(target, lambda file: file.write(data), size=len(data))
                break
            if target.is_file() and target.read_bytes() == data:
                break
        return target

    def _target(self, index: int, num_images: int) -> Path:
        return self._output if num_images == 1 else self._output.with_stem(f"{self._output.stem}-{index:02d}")
