"""The pictures and their index: publishing, finding, deleting, and making the index anew from the files."""

import io
import logging
import re
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from PIL import Image

from pipelines.spec.engine import GeneratedImage
from pipelines.spec.errors import NotFound, StorageError
from studio import metadata, naming
from studio.database import Database, image_table
from studio.files import publish, temporary_suffix
from studio.gallery.image import GalleryImage
from studio.gallery.names import SUFFIXES, Names
from studio.gallery.rows import COLUMNS, agrees, put_row, record_of, row_of
from studio.inputs import InputStore
from studio.jobs import Job, JobState, JobStore
from studio.metadata import Record

THUMBNAIL_SIDE = 256

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rebuilt:
    """What `Gallery.rebuild` found."""

    found: int
    added: int
    """Rows that are new, or that said something else than their file."""
    removed: int
    """Rows whose file is gone, cannot be read, or is a copy of another row's."""
    unreadable: tuple[Path, ...]


class Gallery:
    """The pictures and their index.

    Args:
        outputs: folder with `images/` and `thumbnails/`.
        database: holds the index.
        jobs: asked, inside the transaction, whether the job still belongs to the writer; closes it with its last one.
        filename_pattern: how new pictures are named; see `studio.naming`.
        provenance_mark: see `metadata.save`.
    """

    def __init__(
        self,
        outputs: Path,
        database: Database,
        jobs: JobStore,
        *,
        filename_pattern: str = naming.DEFAULT_PATTERN,
        provenance_mark: bool = True,
    ) -> None:
        self._provenance_mark = provenance_mark
        self.images_dir = outputs / "images"
        self.thumbnails_dir = outputs / "thumbnails"
        self._database = database
        self._names = Names(self.images_dir, database, lock=outputs / "run" / "names.lock", pattern=filename_pattern)
        self._jobs = jobs
        self._inputs = InputStore(outputs / "inputs")

    def add(
        self, job: Job, generated: GeneratedImage, *, closing: AbstractContextManager[object] | None = None
    ) -> GalleryImage:
        """Publish a picture: file with record, thumbnail, row; visible exactly once, whole or not at all.

        Args:
            job: who asked for it; the writer's.
            generated: the picture.
            closing: given for the last picture of a job only, which is closed, as done, in the transaction that shows
                the picture; held meanwhile.

        Raises:
            StorageError: the disk refused; nothing partial stays.
            NotFound: the input that the picture is, larger, is gone.
            ClaimLost: the job is no longer this worker's; nothing becomes visible. The file stays, for who has the job
                now may have written it.
        """
        record = Record(job.id, generated.index, time.time(), generated.request, generated.provenance)
        buffer = io.BytesIO()
        metadata.save(
            generated.image,
            buffer,
            record,
            output_format=generated.request.output_format,
            source=self._inputs.source_of(generated.request),
            provenance_mark=self._provenance_mark,
        )
        data = buffer.getvalue()
        with self._names.chosen(job, generated) as name:
            path = self.images_dir / name
            self._publish(path, generated, data, temporary=f".{path.name}{temporary_suffix(job.device or '')}")
        try:
            row = row_of(record, name, data, size=generated.image.size)
            with closing or nullcontext(), self._database.write() as connection:
                if closing is None:
                    self._jobs.assert_ours(connection, job)
                else:
                    self._jobs.finish_in(connection, job, JobState.DONE)
                put_row(connection, row)  # a rebuild may have found the file first
        except StorageError:
            self._unlink(path)
            raise
        return self._image(row, record)

    def made(self, job: Job) -> set[int]:
        """Return the indexes of a job's pictures that are already published."""
        with self._database.read() as connection:
            return set(connection.execute(_MADE, {"of_job": job.id}).scalars())

    def of_job(self, job_id: str) -> list[GalleryImage]:
        """Return a job's pictures in their order; those whose row is damaged are left out."""
        return self._images(_OF_JOB, {"of_job": job_id})

    def page(self, *, limit: int = 50, offset: int = 0) -> list[GalleryImage]:
        """Return pictures, newest first; those whose row is damaged are left out."""
        newest = (image_table.c.created_at.desc(), image_table.c.sequence.desc())
        return self._images(sa.select(*COLUMNS).order_by(*newest).limit(limit).offset(offset))

    def count(self) -> int:
        """Return how many pictures there are."""
        with self._database.read() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(image_table)).scalar_one()

    def position(self, image_id: str) -> int:
        """Return how many pictures are newer than one.

        Raises:
            NotFound: there is none of this id.
        """
        image = self.get(image_id)
        age = sa.tuple_(image_table.c.created_at, image_table.c.sequence)
        same = (image_table.c.job_id == image.job_id, image_table.c.index == image.index)
        own = sa.select(image_table.c.created_at, image_table.c.sequence).where(*same).scalar_subquery()
        with self._database.read() as connection:
            query = sa.select(sa.func.count()).select_from(image_table).where(age > own)
            return connection.execute(query).scalar_one()

    def get(self, image_id: str) -> GalleryImage:
        """Return one picture by its id ("job-index").

        Raises:
            NotFound: there is none.
            StorageError: its row is damaged.
        """
        if match := re.fullmatch(r"([0-9a-f]{16})-([0-9]{1,4})", image_id):
            same = (image_table.c.job_id == match[1], image_table.c.index == int(match[2]))
            with self._database.read() as connection:
                row = connection.execute(sa.select(*COLUMNS).where(*same)).one_or_none()
            if row is not None:
                return self._read(row)
        raise NotFound(f"there is no image {image_id[:80]!r}; `studio gallery` lists them")

    def delete(self, image_id: str) -> None:
        """Delete a picture: file, thumbnail and row.

        Raises:
            NotFound: there is none.
            StorageError: the file cannot be deleted; the picture stays.
        """
        image = self.get(image_id)
        try:
            image.path.unlink(missing_ok=True)
            image.thumbnail.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot delete {error.filename}: {error.strerror}; close what uses it, and see that its folder can be "
                "written"
            ) from error
        with self._database.write() as connection:
            connection.execute(
                sa.delete(image_table).where(image_table.c.job_id == image.job_id, image_table.c.index == image.index)
            )

    def rebuild(self) -> Rebuilt:
        """Make the index anew from the files: every picture carries its own record. Others may publish meanwhile."""
        with self._database.read() as connection:
            listed = {row.path: row for row in connection.execute(sa.select(*COLUMNS))}
        names = {  # after the rows: the file of each was there before it
            path.relative_to(self.images_dir).as_posix()
            for path in self.images_dir.glob("**/*")
            if path.suffix in SUFFIXES.values() and not path.name.startswith(".")
        }
        whole: set[str] = set()
        owners = {(row.job_id, row._mapping["index"]): name for name, row in listed.items() if name in names}
        rows, unreadable = [], []
        for name in sorted(names):
            path = self.images_dir / name
            try:
                record, data = metadata.read(path), path.read_bytes()
                with Image.open(path) as image:
                    size = image.size
                    if not self._thumbnail(name).exists():
                        self._write_thumbnail(image, name)
            except (NotFound, OSError, RuntimeError, SyntaxError, ValueError):  # what Pillow raises for damaged files
                unreadable.append(path)
                continue
            if owners.setdefault((record.job_id, record.index), name) != name:
                continue  # a copy
            whole.add(name)
            row = row_of(record, name, data, size=size)
            if name not in listed or not agrees(listed[name], row):
                rows.append(row)
        gone = [row for name, row in listed.items() if name not in whole and self._is_lost(name, names)]
        with self._database.write() as connection:
            for lost in gone:
                connection.execute(sa.delete(image_table).where(image_table.c.sequence == lost.sequence))
            for row in rows:
                put_row(connection, row)
        return Rebuilt(found=len(names), added=len(rows), removed=len(gone), unreadable=tuple(unreadable))

    def _is_lost(self, name: str, names: set[str]) -> bool:
        """Whether a listed picture is no picture of ours any more: looked at and refused, or really gone."""
        return name in names or not (self.images_dir / name).exists()

    def _publish(self, path: Path, generated: GeneratedImage, data: bytes, *, temporary: str) -> None:
        name = path.relative_to(self.images_dir).as_posix()
        try:
            self._write_thumbnail(generated.image, name, temporary=temporary)
            publish(path, lambda file: file.write(data), temporary=temporary, size=len(data))
        except StorageError:
            self._unlink(path)
            raise

    def _unlink(self, path: Path) -> None:
        for file in (path, self._thumbnail(path.relative_to(self.images_dir).as_posix())):
            with suppress(OSError):
                file.unlink()

    def _write_thumbnail(self, image: Image.Image, name: str, *, temporary: str | None = None) -> None:
        small = image.copy()
        small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        write = partial(small.save, format="WEBP", quality=85, method=2)  # half the time of Pillow's 4, 6 % larger
        publish(self._thumbnail(name), write, temporary=temporary)

    def _thumbnail(self, name: str) -> Path:
        return (self.thumbnails_dir / name).with_suffix(".webp")

    def _images(self, query: sa.Select[Any], values: Mapping[str, Any] | None = None) -> list[GalleryImage]:
        with self._database.read() as connection:
            rows = connection.execute(query, values).all()
        images = []
        for row in rows:
            try:
                images.append(self._read(row))
            except StorageError as error:
                log.warning("%s", error)
        return images

    def _read(self, row: sa.Row[Any]) -> GalleryImage:
        record = record_of(row)
        if record is None:
            picture = f"{row.job_id}-{row._mapping['index']}"
            sentence = f"picture {picture} is damaged in the database, not in its file {row.path}"
            raise StorageError(f"{sentence}; run `studio gallery rebuild`")
        return self._image(row._asdict(), record)

    def _image(self, row: Mapping[str, Any], record: Record) -> GalleryImage:
        job_id, index, path = row["job_id"], row["index"], row["path"]
        return GalleryImage(
            id=f"{job_id}-{index}",
            job_id=job_id,
            index=index,
            path=self.images_dir / path,
            thumbnail=self._thumbnail(path),
            width=row["width"],
            height=row["height"],
            request=record.request,
            provenance=record.provenance,
            notes=record.notes,
            sha256=row["sha256"],
            created_at=row["created_at"],
        )


# What every job asks is built once.
_IS_OF_JOB = image_table.c.job_id == sa.bindparam("of_job")
_MADE = sa.select(image_table.c.index).where(_IS_OF_JOB)
_OF_JOB = sa.select(*COLUMNS).where(_IS_OF_JOB).order_by(image_table.c.index)
