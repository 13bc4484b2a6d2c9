"""Everything that is kept, opened together: settings, inputs, LoRAs, jobs, gallery. And the locks of who is alive."""

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import sqlalchemy as sa

from pipelines.spec.choosing import FindLora, choose_loras, tagged_loras
from pipelines.spec.embeddings import EmbeddingFile
from pipelines.spec.engine import Inputs
from pipelines.spec.errors import InvalidRequest, NotFound, StorageError
from pipelines.spec.geometry import binary_mask, grey_mask
from pipelines.spec.loras import LoraSpec
from pipelines.spec.model import Model
from pipelines.spec.pictures import on_white, to_mask
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import check_prompts, resolve
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.templates import TEMPLATES, open_brace
from pipelines.spec.training import TrainingRequest
from pipelines.spec.upscalers import UPSCALERS
from studio import metadata
from studio.database import Database, image_table, job_table, outputs_table
from studio.datasets import DataSets
from studio.expanding import write_out
from studio.files import publish
from studio.gallery import Gallery
from studio.inputs import InputStore, ids_in
from studio.jobs import JobState, JobStore
from studio.locks import ProcessLock
from studio.settings import Settings
from studio.store import (
    EmbeddingCatalogue,
    FileHashes,
    FileHeaders,
    LoraCatalogue,
    ModelHashes,
    brought_by,
    find_model,
    find_upscaler,
)
from studio.styles import Styles
from studio.training import Training

if TYPE_CHECKING:
    from pipelines.spec.prompt import ChunkRules, TokenCount
    from studio.prompts import Templates

MASKS_NOTHING = (
    "mask_image: it masks nothing; what is to be repainted must be white (with invert_mask, black), or opaque where "
    "the rest is transparent"
)
CHUNK_LENGTH = 75
"""Of a CLIP text encoder, in tokens. A token is a byte or more, so a text of so many bytes is no longer."""


@dataclass(frozen=True)
class Storage:
    """What a studio keeps, and how a request is read against it."""

    settings: Settings
    database: Database
    inputs: InputStore
    loras: LoraCatalogue
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
        gallery = Gallery(
            outputs,
            database,
            jobs,
            filename_pattern=settings.filename_pattern,
            provenance_mark=settings.provenance_mark,
        )
        loras = LoraCatalogue(settings.lora_folders, FileHashes(database), FileHeaders(database))
        return cls(settings, database, InputStore(outputs / "inputs"), loras, jobs, gallery)

    @cached_property
    def embeddings(self) -> EmbeddingCatalogue:
        """The embeddings that prompts may name."""
        return EmbeddingCatalogue(self.settings.embeddings_dir)

    @cached_property
    def model_hashes(self) -> ModelHashes:
        """What tells models by their weights."""
        return ModelHashes(self.settings.models_dir, FileHashes(self.database))

    @cached_property
    def datasets(self) -> DataSets:
        """What was uploaded to be trained on."""
        return DataSets(self.settings.outputs_dir / "datasets", self.inputs)

    def expand(self, request: GenerationRequest) -> tuple[Model, tuple[ResolvedRequest, ...]]:
        """Return the model and one resolved request per image; refuses what cannot work. Loads nothing.

        Raises:
            InvalidRequest: naming the field; a model, a LoRA or an input that does not exist is one too.
            ModelError: the model's configuration cannot be read.
        """
        with _naming("model"):
            model = find_model(request.model or self.settings.default_model, self.settings.models_dir)
        with _naming("init_image"):
            input_size = None if request.init_image is None else self.inputs.size(request.init_image)
        with _naming("mask_image"):
            if request.mask_image is not None:
                mask_size = self.inputs.size(request.mask_image)
                if input_size is not None:
                    _check_mask_shape(mask_size, input_size)
        hires_model = self._hires_model(request)
        for field in ("upscaler", "hires_upscaler"):
            self._upscaler(request, field)
        resolved = resolve(request, model, input_size=input_size, hires_model=hires_model)
        if request.is_to_be_written_out:
            resolved = write_out(resolved, styles=self.styles, templates=self.templates)
        find_lora = cache(self.loras.find)  # each look at the folders takes milliseconds
        resolved = _choose_loras(request.loras, resolved, model, find_lora, hires_model=hires_model)
        for distinct in {_texts(one): one for one in resolved}.values():
            check_prompts(distinct)
        named = self.embeddings.named_by(resolved, model, find_lora=find_lora)
        resolved = tuple(
            one.model_copy(update={"embeddings": {name: embedding.sha256 for name, embedding in each.items()}})
            for one, each in zip(resolved, named, strict=True)
        )
        for distinct in {_texts(one): one for one in resolved}.values():
            metadata.check_room(distinct, source=self.inputs.source_of(distinct))
        return model, resolved

    def forget_inputs(self, unlisted: Iterable[Path] = ()) -> int:
        """Delete the inputs that no picture names, nor a job that is not done, and nobody has asked for within a day.

        The list of pictures must be whole: this is for after `Gallery.rebuild`.

        Args:
            unlisted: pictures that are in no list; what they name is kept.

        Returns:
            How many are gone.

        Raises:
            StorageError: a picture or an input cannot be read, so that nobody knows what it names; all inputs stay.
        """
        requests = sa.select(sa.cast(job_table.c.request, sa.Text)).where(job_table.c.state != JobState.DONE)
        needed: set[str] = set()
        with self.database.read() as connection:
            for query in (requests, sa.select(sa.cast(image_table.c.record, sa.Text))):
                for text in connection.execute(query).scalars():
                    needed |= ids_in(text.encode())
        try:
            for path in filter(Path.is_file, unlisted):
                needed |= ids_in(path.read_bytes())
            return self.inputs.sweep(needed)
        except OSError as error:
            sentence = f"cannot read {error.filename}: {error.strerror}"
            raise StorageError(f"{sentence}; no stored input was deleted, for it may be needed") from error

    def training(self, request: TrainingRequest) -> Training:
        """Return a training's model and files; the request names its model and a folder that any process finds.

        Raises:
            InvalidRequest: the model does not exist.
        """
        with _naming("model"):
            model = find_model(request.model or self.settings.default_model, self.settings.models_dir)
        data = str(Path(request.data).expanduser().absolute())
        return Training(
            request.model_copy(update={"model": model.name, "data": data}),
            model,
            folder=self.settings.outputs_dir / "training" / request.name,
            output=self.settings.home / "loras" / f"{request.name}.safetensors",
        )

    def notes(self, request: GenerationRequest) -> list[str]:
        """Return sentences on what is likely not meant: an open bracket, a switch that never comes, a mask of nothing.

        Raises:
            InvalidRequest: naming the field.
            ModelError: the model's files cannot be read.
        """
        model, (first, *_) = self.expand(request.with_seeds())
        counts = model.family.pools_first_chunk
        fields = ("prompt", "negative_prompt", "hires_prompt", "hires_negative_prompt")
        worth_it: dict[str, str] = {
            field: text
            for field in fields
            if (text := getattr(first, field))
            and (any(sign in text for sign in "()[]<>:#") or (counts and len(text.encode()) > CHUNK_LENGTH))
        }
        known = [
            f'{field}: "{opened:.20}": this "{{" is never closed, so it is no template and is read as text.'
            for field, note in TEMPLATES.items()
            if getattr(request, note) is None and (opened := open_brace(getattr(request, field) or ""))
        ]
        if self._masks_nothing(request):
            known.append(MASKS_NOTHING)
        if not worth_it:
            return known
        from pipelines.spec.prompt import lint  # a sixth of a second, and most prompts are plain words

        brought = {each.name.lower(): each.vectors for each in brought_by(first.loras, self.loras.find)}
        rules = self._chunk_rules(model, brought) if counts else None
        return known + [
            f"{field}: {note.message}"
            for field, text in worth_it.items()
            for note in lint(
                text,
                num_inference_steps=first.num_inference_steps,
                scheduler=first.scheduler,
                hires_steps=first.hires_steps,
                hires_scheduler=first.hires_scheduler,
                rules=rules,
                pools_first_chunk=counts,
                comments=first.prompt_comments,
                composable=not field.endswith("negative_prompt"),
            )
            if note.is_warning
        ]

    def _masks_nothing(self, request: GenerationRequest) -> bool:
        if request.mask_image is None or any(request.margins):
            return False
        levels = binary_mask if request.mask_mode == "hard" else grey_mask
        mask = to_mask(self.inputs.open(request.mask_image))
        return levels(mask, size=mask.size, invert=request.invert_mask).getextrema() == (0, 0)

    def count_tokens(
        self,
        prompt: str,
        *,
        model_name: str | None,
        num_inference_steps: int | None,
        loras: Sequence[str],
        comments: bool,
        composable: bool,
    ) -> "TokenCount":
        """Count the tokens of a prompt's longest text; see `Studio.count_tokens`."""
        from pipelines.spec.prompt import count_prompt  # see `notes`

        with _naming("model"):
            model = find_model(model_name or self.settings.default_model, self.settings.models_dir)
        chosen = GenerationRequest.parse({"loras": list(loras)}).loras
        names = [lora.name for lora in chosen if lora.weight or lora.text_encoder_weight]
        return count_prompt(
            prompt,
            num_inference_steps=num_inference_steps or model.default("num_inference_steps"),
            comments=comments,
            rules=self._chunk_rules(model, self._words_of([*names, *tagged_loras(prompt, comments=comments)])),
            composable=composable,
        )

    def _words_of(self, names: Iterable[str]) -> dict[str, int]:
        """Return the words that LoRAs bring, with their vectors; one that is not there, none."""
        words: dict[str, int] = {}
        for name in names:
            with suppress(NotFound):
                header = self.loras.find(name).header
                words |= {word.lower(): each.vectors for word, each in header.embeddings.items()} if header else {}
        return words

    def _chunk_rules(self, model: Model, brought: Mapping[str, int] | None = None) -> "ChunkRules":
        """Return how the model's tokenizer reads prompts; LoRAs may bring words of so many vectors."""
        from pipelines.spec.prompt.tokenizing import chunk_rules  # see `notes`

        return chunk_rules(model.path / "tokenizer", embeddings={**self.embeddings.vectors(), **(brought or {})})

    def templates(self) -> "Templates":
        """Read the word lists of the folder `wildcards`.

        Raises:
            InvalidRequest: one cannot be read.
        """
        from studio.prompts import Templates  # a tenth of a second, and most prompts are no template

        return Templates(self.settings.home / "wildcards")

    def styles(self) -> Styles:
        """Read the styles of `home`.

        Raises:
            InvalidRequest: a file cannot be read.
        """
        return Styles(self.settings.home)

    def open_inputs(self, request: GenerationRequest, model: Model, resolved: Sequence[ResolvedRequest]) -> Inputs:
        """Open the images that a request names, and find the files of the LoRAs and embeddings that it was resolved to.

        Raises:
            NotFound: an image or a LoRA is gone.
            ModelError: a LoRA cannot be read.
        """
        names = {lora.sha256: lora.name for one in resolved for lora in one.loras}
        init_image, mask_image = (
            None if name is None else self.inputs.open(name) for name in (request.init_image, request.mask_image)
        )
        return Inputs(
            model,
            init_image=None if init_image is None else on_white(init_image),
            mask_image=None if mask_image is None else to_mask(mask_image),
            loras={digest: self.loras.find(name).file() for digest, name in names.items()},
            embeddings=self._embedding_files(resolved),
            hires_model=self._hires_model(request),
            upscaler=self._upscaler(request, "upscaler"),
            hires_upscaler=self._upscaler(request, "hires_upscaler"),
        )

    def hashes_of(self, inputs: Inputs) -> dict[str, str]:
        """Return the hashes of the models that paint, as a record's provenance keeps them; see `ModelHashes.of`."""
        models = {"model_hash": inputs.model, "hires_model_hash": inputs.hires_model}
        hashes = {name: self.model_hashes.of(model) for name, model in models.items() if model is not None}
        return {name: digest for name, digest in hashes.items() if digest}

    def _embedding_files(self, resolved: Sequence[ResolvedRequest]) -> dict[str, EmbeddingFile]:
        """Return the files that the prompts name, by name; what LoRAs bring comes with their files."""
        brought = {lora.sha256 for one in resolved for lora in one.loras}
        wanted = {name for one in resolved for name, digest in one.embeddings.items() if digest not in brought}
        installed = self.embeddings.all() if wanted else []
        return {each.name: each.file() for each in installed if each.name in wanted}

    def _hires_model(self, request: GenerationRequest) -> Model | None:
        if request.hires_model in {None, request.model}:
            return None
        with _naming("hires_model"):
            return find_model(request.hires_model, self.settings.models_dir)

    def _upscaler(self, request: GenerationRequest, field: str) -> Path | None:
        name: str | None = getattr(request, field)
        if name is None or name in UPSCALERS:
            return None
        with _naming(field):
            return find_upscaler(name, self.settings.upscalers_dir, field=field)


def _choose_loras(
    asked: Sequence[LoraSpec],
    resolved: tuple[ResolvedRequest, ...],
    model: Model,
    find: FindLora,
    *,
    hires_model: Model | None,
) -> tuple[ResolvedRequest, ...]:
    """Give each picture its LoRAs; those of the same prompts have the same."""
    chosen: dict[tuple[str | None, ...], ResolvedRequest] = {}
    for one in resolved:
        if _texts(one) not in chosen:
            chosen[_texts(one)] = choose_loras(one, asked, model=model, find=find, hires_model=hires_model)
    return tuple(
        one.model_copy(update={"prompt": chosen[_texts(one)].prompt, "loras": chosen[_texts(one)].loras})
        for one in resolved
    )


def _texts(one: ResolvedRequest) -> tuple[str | None, ...]:
    return tuple(getattr(one, field) for field in TEMPLATES)


def _check_mask_shape(mask_size: tuple[int, int], input_size: tuple[int, int]) -> None:
    """Refuse a mask that would be distorted over its picture. The same shape at another size is right to a pixel."""
    (mask_width, mask_height), (width, height) = mask_size, input_size
    if abs(mask_width * height - mask_height * width) > max(width, height):
        raise InvalidRequest(
            f"mask_image must have the shape of init_image, {width}×{height}, got {mask_width}×{mask_height}; "
            f"give a mask of {width}×{height}",
            field="mask_image",
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
