"""Everything that is kept, opened together: settings, inputs, jobs, gallery. And the locks that say who is alive."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pipelines.spec.engine import Inputs
from pipelines.spec.errors import InvalidRequest, NotFound, StorageError
from pipelines.spec.model import Model
from pipelines.spec.request import GenerationRequest, ResolvedRequest
from pipelines.spec.resolve import check_prompts, resolve
from pipelines.spec.upscalers import UPSCALERS
from studio import metadata
from studio.database import Database
from studio.files import InputStore, ProcessLock
from studio.gallery import Gallery
from studio.jobs import JobStore
from studio.settings import Settings
from studio.store import find_model, find_upscaler

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
            StorageError: a folder cannot be written, or the database is damaged.
        """
        outputs = settings.outputs_dir
        try:
            outputs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make the folder {outputs}: {error.strerror}") from error
        database = Database(settings.database_url)
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
        hires_model = self._hires_model(request)
        self._upscaler(request)
        resolved = resolve(request, model, input_size=input_size, hires_model=hires_model)
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
        fields = ("prompt", "negative_prompt", "hires_prompt", "hires_negative_prompt")
        prompts: dict[str, str] = {field: text for field in fields if (text := getattr(first, field))}
        with_signs = {field: text for field, text in prompts.items() if any(sign in text for sign in "()[]<>:#")}
        if not with_signs:
            return []
        from pipelines.spec.prompt import lint  # a sixth of a second, and most prompts are plain words

        return [
            f"{field}: {note.message}"
            for field, text in with_signs.items()
            for note in lint(
                text,
                num_inference_steps=first.num_inference_steps,
                hires_steps=first.hires_steps,
                composable=not field.endswith("negative_prompt"),
            )
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
        """Open the images that a request names, and find what its second pass needs."""
        init_image, mask_image = (
            None if name is None else self.inputs.open(name) for name in (request.init_image, request.mask_image)
        )
        return Inputs(
            model,
            init_image=None if init_image is None else init_image.convert("RGB"),
            mask_image=None if mask_image is None else mask_image.convert("L"),
            hires_model=self._hires_model(request),
            upscaler=self._upscaler(request),
        )

    def _hires_model(self, request: GenerationRequest) -> Model | None:
        if request.hires_model in {None, request.model}:
            return None
        with _naming("hires_model"):
            return find_model(request.hires_model, self.settings.models_dir)

    def _upscaler(self, request: GenerationRequest) -> Path | None:
        if request.hires_upscaler is None or request.hires_upscaler in UPSCALERS:
            return None
        with _naming("hires_upscaler"):
            return find_upscaler(request.hires_upscaler, self.settings.upscalers_dir)


@contextmanager
def _naming(field: str) -> Iterator[None]:
    """What a field names must exist: a request that names something else is invalid."""
    try:
        yield
    except NotFound as error:
        raise InvalidRequest(str(error), field=field) from error


def server_lock(settings: Settings) -> ProcessLock:
    """Return the lock of the one server that may own the outputs folder."""
    return ProcessLock(settings.outputs_dir / "run" / "server.lock")


def worker_lock(settings: Settings, device: str) -> ProcessLock:
    """Return the lock of the one process that may run jobs on a device. Held means: its running jobs are alive."""
    return ProcessLock(settings.outputs_dir / "run" / f"worker-{device.replace(':', '-')}.lock")
