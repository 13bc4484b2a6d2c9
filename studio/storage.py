"""Everything that is kept, opened together: settings, inputs, jobs, gallery. And the locks that say who is alive."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import sqlalchemy as sa

from pipelines.spec.engine import Inputs
from pipelines.spec.errors import InvalidRequest, NotFound, StorageError
from pipelines.spec.model import Model
from pipelines.spec.request import GenerationRequest, ResolvedRequest
from pipelines.spec.resolve import check_prompts, resolve
from studio import metadata
from studio.database import Database, outputs_table
from studio.files import InputStore, ProcessLock, publish
from studio.gallery import Gallery
from studio.jobs import JobStore
from studio.settings import Settings
from studio.store import find_model

if TYPE_CHECKING:
    from studio.prompts import Templates


@dataclass(frozen=True)
class Storage:
    """What a studio keeps, and how a request is read against it."""

    settings: Settings
    database: Database
    inputs: InputStore
    jobs: JobStore
    gallery: Gallery

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Open (and make or migrate) everything.

        Raises:
            StorageError: a folder cannot be written, or the database is damaged or belongs to another folder.
        """
        outputs = settings.outputs_dir
        try:
            outputs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make the folder {outputs}: {error.strerror}") from error
        database = Database(settings.database_url)
        try:
            _keep_together(database, outputs)
        except StorageError:
            database.close()
            raise
        jobs = JobStore(database)
        gallery = Gallery(outputs, database, jobs, filename_pattern=settings.filename_pattern)
        return cls(settings, database, InputStore(outputs / "inputs"), jobs, gallery)

    def expand(self, request: GenerationRequest) -> tuple[Model, tuple[ResolvedRequest, ...]]:
        """Return the model and one resolved request per image; refuses what cannot work. Loads nothing.

        Raises:
            InvalidRequest: naming the field; a model or an input that does not exist is one too.
            ModelError: the model's configuration cannot be read.
        """
        with _naming("model"):
            model = find_model(request.model or self.settings.default_model, self.settings.models_dir)
        with _naming("init_image"):
            input_size = None if request.init_image is None else self.inputs.size(request.init_image)
        with _naming("mask_image"):
            if request.mask_image is not None:
                self.inputs.path(request.mask_image)
        resolved = resolve(request, model, input_size=input_size)
        if request.is_template:
            resolved = self._expand_template(request.prompt, resolved)
        for distinct in {one.prompt: one for one in resolved}.values():
            check_prompts(distinct)
            metadata.check_room(distinct)
        return model, resolved

    def notes(self, request: GenerationRequest) -> list[str]:
        """Return sentences on what in the prompts is likely not meant: an open bracket, a switch that never comes.

        Raises:
            InvalidRequest: naming the field.
        """
        _, (first, *_) = self.expand(request.with_seeds())
        prompts = {"prompt": first.prompt, "negative_prompt": first.negative_prompt}
        with_signs = {field: text for field, text in prompts.items() if any(sign in text for sign in "()[]<>:#")}
        if not with_signs:
            return []
        from pipelines.spec.prompt import lint  # a sixth of a second, and most prompts are plain words

        return [
            f"{field}: {note.message}"
            for field, text in with_signs.items()
            for note in lint(text, num_inference_steps=first.num_inference_steps, composable=field == "prompt")
            if note.is_warning
        ]

    def templates(self) -> "Templates":
        """Read the word lists of the folder `wildcards`.

        Raises:
            InvalidRequest: one cannot be read.
        """
        from studio.prompts import Templates  # a tenth of a second, and most prompts are no template

        return Templates(self.settings.home / "wildcards")

    def _expand_template(self, template: str, resolved: tuple[ResolvedRequest, ...]) -> tuple[ResolvedRequest, ...]:
        seeds = [one.seed if one.variation_seed is None else one.variation_seed for one in resolved]
        prompts = self.templates().expand(template, seeds=seeds)
        return tuple(
            one.model_copy(update={"prompt": prompt, "template": template})
            for one, prompt in zip(resolved, prompts, strict=True)
        )

    def open_inputs(self, request: GenerationRequest, model: Model) -> Inputs:
        """Open the images that a request names."""
        init_image, mask_image = (
            None if name is None else self.inputs.open(name) for name in (request.init_image, request.mask_image)
        )
        return Inputs(
            model,
            init_image=None if init_image is None else init_image.convert("RGB"),
            mask_image=None if mask_image is None else mask_image.convert("L"),
        )


@contextmanager
def _naming(field: str) -> Iterator[None]:
    """What a field names must exist: a request that names something else is invalid."""
    try:
        yield
    except NotFound as error:
        raise InvalidRequest(str(error), field=field) from error


def _keep_together(database: Database, outputs: Path) -> None:
    """See that a database serves one outputs folder only, which holds its pictures and the locks of who works on them.

    The folder may move: its id goes along in a file.
    """
    own = outputs / "outputs.id"
    with database.read() as connection:
        if _owner(connection) == _read(own) is not None:
            return
    with database.write() as connection:  # one at a time: the first to come decides
        if _owner(connection) is None:
            if _read(own) is None:
                publish(own, lambda file: file.write(secrets.token_hex(16).encode()))
            connection.execute(sa.insert(outputs_table).values(id=_read(own), path=str(outputs.absolute())))
        elif _owner(connection) != _read(own):
            path = connection.execute(sa.select(outputs_table.c.path)).scalar_one()
            raise StorageError(
                f"database {database.place} belongs to another outputs folder than {outputs}: it was made for {path}; "
                f"choose that one with --outputs (with its file {own.name}, if it has moved), or another --database"
            )


def _owner(connection: sa.Connection) -> str | None:
    return connection.execute(sa.select(outputs_table.c.id)).scalar()


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def server_lock(settings: Settings) -> ProcessLock:
    """Return the lock of the one server that may own the outputs folder."""
    return ProcessLock(settings.outputs_dir / "run" / "server.lock")


def worker_lock(settings: Settings, device: str) -> ProcessLock:
    """Return the lock of the one process that may run jobs on a device. Held means: its running jobs are alive."""
    return ProcessLock(settings.outputs_dir / "run" / f"worker-{device.replace(':', '-')}.lock")
