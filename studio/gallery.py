"""Finished pictures: written once as file + record + thumbnail + row, found again by row, rebuilt from the files."""

import hashlib
import io
import json
import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from PIL import Image

from pipelines.spec.engine import GeneratedImage
from pipelines.spec.errors import NotFound, StorageError
from pipelines.spec.resolved import ResolvedRequest
from studio import metadata, naming
from studio.database import Database, image_table
from studio.files import InputStore, ProcessLock, publish, temporary_suffix
from studio.jobs import Job, JobStore
from studio.metadata import Record

THUMBNAIL_SIDE = 256
_SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "avif": ".avif"}
_RECORD = sa.cast(image_table.c.record, sa.Text).label("record")  # read in `_record`: one damaged row hurts no other
_COLUMNS = [*(column for column in image_table.columns if column.name != "record"), _RECORD]

log = logging.getLogger(__name__)


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
        jobs: asked, inside the transaction, whether the job still belongs to the writer.
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
        self._pattern = filename_pattern
        self._provenance_mark = provenance_mark
        self._names_lock = outputs / "run" / "names.lock"
        self.images_dir = outputs / "images"
        self.thumbnails_dir = outputs / "thumbnails"
        self._database = database
        self._jobs = jobs
        self._inputs = InputStore(outputs / "inputs")

    def add(self, job: Job, generated: GeneratedImage) -> GalleryImage:
        """Publish a picture: file with record, thumbnail, row; visible exactly once, whole or not at all.

        Raises:
            StorageError: the disk refused; nothing partial stays.
            NotFound: the input that the picture is, larger, is gone.
            ClaimLost: the job is no longer this worker's; nothing becomes visible.
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
        with self._name(job, generated) as name:
            path = self.images_dir / name
            self._publish(path, generated, data, temporary=f".{path.name}{temporary_suffix(job.device or '')}")
        try:
            with self._database.write() as connection:
                self._jobs.assert_ours(connection, job)
                row = _row(record, name, data, size=generated.image.size)
                connection.execute(sa.delete(image_table).where(*_same(row)))  # a rebuild may have found the file first
                return self._image(connection.execute(sa.insert(image_table).values(row).returning(*_COLUMNS)).one())
        except StorageError:
            self._unlink(path)
            raise

    def made(self, job: Job) -> set[int]:
        """Return the indexes of a job's pictures that are already published."""
        query = sa.select(image_table.c.index).where(image_table.c.job_id == job.id)
        with self._database.read() as connection:
            return set(connection.execute(query).scalars())

    def of_job(self, job_id: str) -> list[GalleryImage]:
        """Return a job's pictures in their order; those whose row is damaged are left out."""
        return self._images(sa.select(*_COLUMNS).where(image_table.c.job_id == job_id).order_by(image_table.c.index))

    def page(self, *, limit: int = 50, offset: int = 0) -> list[GalleryImage]:
        """Return pictures, newest first; those whose row is damaged are left out."""
        newest = (image_table.c.created_at.desc(), image_table.c.sequence.desc())
        return self._images(sa.select(*_COLUMNS).order_by(*newest).limit(limit).offset(offset))

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
                row = connection.execute(sa.select(*_COLUMNS).where(*same)).one_or_none()
            if row is not None:
                return self._image(row)
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
            listed = {row.path: row for row in connection.execute(sa.select(*_COLUMNS))}
        names = {  # after the rows: the file of each was there before it
            path.relative_to(self.images_dir).as_posix()
            for path in self.images_dir.glob("**/*")
            if path.suffix in _SUFFIXES.values() and not path.name.startswith(".")
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
            except (NotFound, OSError, RuntimeError):  # Pillow's AVIF decoder raises the last
                unreadable.append(path)
                continue
            if owners.setdefault((record.job_id, record.index), name) != name:
                continue  # a copy
            whole.add(name)
            row = _row(record, name, data, size=size)
            if name not in listed or not _agrees(listed[name], row):
                rows.append(row)
        gone = [row for name, row in listed.items() if name not in whole and self._is_lost(name, names)]
        with self._database.write() as connection:
            for lost in gone:
                connection.execute(sa.delete(image_table).where(image_table.c.sequence == lost.sequence))
            for row in rows:
                replaced = sa.and_(*_same(row)) | (image_table.c.path == row["path"])
                connection.execute(sa.delete(image_table).where(replaced))
                connection.execute(sa.insert(image_table).values(row))
        return Rebuilt(found=len(names), added=len(rows), removed=len(gone), unreadable=tuple(unreadable))

    def _is_lost(self, name: str, names: set[str]) -> bool:
        """Whether a listed picture is no picture of ours any more: looked at and refused, or really gone."""
        return name in names or not (self.images_dir / name).exists()

    @contextmanager
    def _name(self, job: Job, generated: GeneratedImage) -> Iterator[str]:
        """Find folder and file name; the same job and index always give the same, so that a second try replaces.

        Names that may be taken are found and written under a lock, and get a number if somebody else's is in the way.
        """
        named = naming.Named(generated, job.id, job.num_images, job.created_at)
        stem = naming.relative_path(self._pattern, named)
        suffix = _SUFFIXES[generated.request.output_format]
        if self._pattern == naming.DEFAULT_PATTERN:
            yield f"{stem}{suffix}"
            return
        with ProcessLock(self._names_lock).held():
            yield f"{self._free(stem, owner=(job.id, generated.index))}{suffix}"

    def _free(self, stem: str, *, owner: tuple[str, int]) -> str:
        """Return the stem, or one with a number, under which no picture but the owner's stands in any format.

        Names that differ only in case are the same to some file systems, and so they are here.
        """
        query = sa.select(image_table.c.path, image_table.c.job_id, image_table.c.index)
        with self._database.read() as connection:
            rows = connection.execute(query.where(image_table.c.path.istartswith(stem, autoescape=True))).all()
        owners: dict[str, tuple[str, int] | None] = {row.path: (row.job_id, row[2]) for row in rows}
        folder = (self.images_dir / stem).parent
        for path in folder.iterdir() if folder.is_dir() else ():
            name = path.relative_to(self.images_dir).as_posix()
            if name not in owners and _number(name, stem) is not None:
                owners[name] = _owner(path)
        taken = {path: number for path in owners if (number := _number(path, stem)) is not None}
        if ours := [path for path in taken if owners[path] == owner]:
            return ours[0].rpartition(".")[0]
        return f"{stem}-{max([1, *taken.values()]) + 1}" if 0 in taken.values() else stem

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

    def _images(self, query: sa.Select[Any]) -> list[GalleryImage]:
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        images = []
        for row in rows:
            try:
                images.append(self._image(row))
            except StorageError as error:
                log.warning("%s", error)
        return images

    def _image(self, row: sa.Row[Any]) -> GalleryImage:
        index = row._mapping["index"]
        record = _record(row)
        if record is None:
            sentence = f"picture {row.job_id}-{index} is damaged in the database, not in its file {row.path}"
            raise StorageError(f"{sentence}; run `studio gallery rebuild`")
        return GalleryImage(
            id=f"{row.job_id}-{index}",
            job_id=row.job_id,
            index=index,
            path=self.images_dir / row.path,
            thumbnail=self._thumbnail(row.path),
            width=row.width,
            height=row.height,
            request=record.request,
            provenance=record.provenance,
            notes=record.notes,
            sha256=row.sha256,
            created_at=row.created_at,
        )


def _number(name: str, stem: str) -> int | None:
    """Return the number of a picture's path that is this stem with a number, in any format; 0 for the stem alone."""
    pattern = rf"{re.escape(stem.casefold())}(?:-([0-9]{{1,9}}))?(?:{'|'.join(map(re.escape, _SUFFIXES.values()))})"
    match = re.fullmatch(pattern, name.casefold())
    return None if match is None else int(match[1] or 0)


def _owner(path: Path) -> tuple[str, int] | None:
    try:
        record = metadata.read(path)
    except NotFound:
        return None
    return record.job_id, record.index


def _record(row: sa.Row[Any]) -> Record | None:
    """Return what a row says about its picture, or None if the row is damaged."""
    try:
        return Record.from_json(json.loads(row.record))
    except (ValueError, TypeError):
        return None


def _agrees(listed: sa.Row[Any], row: Mapping[str, Any]) -> bool:
    """Whether a listed row says what its file says; the version that wrote it may differ."""
    said = _record(listed)
    is_same = all(listed._mapping[name] == row[name] for name in ("job_id", "index", "sha256", "width", "height"))
    return is_same and said == Record.from_json(row["record"])


def _same(row: Mapping[str, Any]) -> tuple[sa.ColumnElement[bool], ...]:
    """Match the picture that a new row stands for."""
    return image_table.c.job_id == row["job_id"], image_table.c.index == row["index"]


def _row(record: Record, name: str, data: bytes, *, size: tuple[int, int]) -> dict[str, Any]:
    width, height = size
    return {
        "job_id": record.job_id,
        "index": record.index,
        "path": name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "record": record.to_json(),
        "width": width,
        "height": height,
        "created_at": record.created_at,
    }
