"""Which file a new picture becomes: a name from the pattern, under which nobody else's picture stands in any format."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from pipelines.spec.engine import GeneratedImage
from pipelines.spec.errors import NotFound
from studio import metadata, naming
from studio.database import Database, image_table
from studio.jobs import Job
from studio.locks import ProcessLock

SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "avif": ".avif"}
"""By output format."""


class Names:
    """Gives names to pictures.

    Args:
        images_dir: where they lie.
        database: holds their index.
        lock: file that is locked while a name is chosen and written.
        pattern: see `studio.naming`.
    """

    def __init__(self, images_dir: Path, database: Database, *, lock: Path, pattern: str) -> None:
        self._images_dir = images_dir
        self._database = database
        self._lock = lock
        self._pattern = pattern

    @contextmanager
    def chosen(self, job: Job, generated: GeneratedImage) -> Iterator[str]:
        """Find folder and file name; the same job and index always give the same, so that a second try replaces.

        Names that may be taken are found and written under a lock, and get a number if somebody else's is in the way.
        """
        named = naming.Named(generated, job.id, job.num_images, job.created_at)
        stem = naming.relative_path(self._pattern, named)
        suffix = SUFFIXES[generated.request.output_format]
        if self._pattern == naming.DEFAULT_PATTERN:
            yield f"{stem}{suffix}"
            return
        with ProcessLock(self._lock).held():
            yield f"{self._free(stem, owner=(job.id, generated.index))}{suffix}"

    def _free(self, stem: str, *, owner: tuple[str, int]) -> str:
        """Return the stem, or one with a number, under which no picture but the owner's stands in any format.

        Names that differ only in case are the same to some file systems, and so they are here.
        """
        column = image_table.c.path
        query = sa.select(column, image_table.c.job_id, image_table.c.index)
        query = query.where(column.istartswith(stem, autoescape=True))
        if "/" in stem:  # the index of paths finds the folder; what it misses is found on the disk
            parent = stem.rpartition("/")[0]
            query = query.where(column > f"{parent}/", column < f"{parent}0")  # 0 follows /
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        owners: dict[str, tuple[str, int] | None] = {row.path: (row.job_id, row[2]) for row in rows}
        folder = (self._images_dir / stem).parent
        for path in folder.iterdir() if folder.is_dir() else ():
            name = path.relative_to(self._images_dir).as_posix()
            if name not in owners and _number(name, stem) is not None:
                owners[name] = _owner(path)
        taken = {path: number for path in owners if (number := _number(path, stem)) is not None}
        if ours := [path for path in taken if owners[path] == owner]:
            return ours[0].rpartition(".")[0]
        return f"{stem}-{max([1, *taken.values()]) + 1}" if 0 in taken.values() else stem


def _number(name: str, stem: str) -> int | None:
    """Return the number of a picture's path that is this stem with a number, in any format; 0 for the stem alone."""
    pattern = rf"{re.escape(stem.casefold())}(?:-([0-9]{{1,9}}))?(?:{'|'.join(map(re.escape, SUFFIXES.values()))})"
    match = re.fullmatch(pattern, name.casefold())
    return None if match is None else int(match[1] or 0)


def _owner(path: Path) -> tuple[str, int] | None:
    try:
        record = metadata.read(path)
    except NotFound:
        return None
    return record.job_id, record.index
