"""Studio: the one facade that every front door uses, and the place where the parts are put together."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

from PIL import Image

from pipelines.spec.errors import Cancelled, GenerationFailed, InvalidRequest, NotFound
from pipelines.spec.model import Model
from pipelines.spec.request import GenerationRequest
from pipelines.spec.templates import TEMPLATES, is_template
from pipelines.spec.upscalers import UPSCALERS
from studio.bars import job_bar, requests_bar
from studio.enlarging import enlarged, upscaled
from studio.expanding import as_typed
from studio.gallery import Gallery, GalleryImage, Rebuilt
from studio.inputs import InputStore, is_input_id
from studio.jobs import Job, JobState
from studio.metadata import FoundLora, Imported, Record, import_request, read_texts, texts_of
from studio.settings import Settings
from studio.storage import Storage
from studio.store import (
    InstalledEmbedding,
    InstalledLora,
    installed_models,
    installed_upscalers,
    small_picture,
    upscaler_finder,
)
from studio.stream import OnError, pictures_of
from studio.styles import Style
from studio.trainings import Trainings
from studio.verification import Verification, verify

if TYPE_CHECKING:
    from pipelines.spec.prompt import TokenCount

_IMAGE_FIELDS = ("init_image", "mask_image")


class Studio(Trainings):
    """Makes pictures and keeps them.

    A request becomes a job in the database. If a worker is alive (a server runs), it does the job; otherwise this
    process does. Either way the picture lands in the same gallery.

    Args:
        settings: read from studio.toml and STUDIO_* variables when not given.

    Raises:
        StorageError: the outputs folder cannot be written, or the database is damaged.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(Storage.open(settings or Settings.load()))

    @property
    def inputs(self) -> InputStore:
        """The images that users start from."""
        return self._storage.inputs

    @property
    def gallery(self) -> Gallery:
        """The finished pictures."""
        return self._storage.gallery

    @overload
    def generate(
        self, request: GenerationRequest | str | Mapping[str, Any] = "", *, progress: bool = True, **fields: Any
    ) -> list[GalleryImage]: ...

    @overload
    def generate(
        self,
        request: Iterable[GenerationRequest | str | Mapping[str, Any]],
        *,
        progress: bool = True,
        on_error: OnError | None = None,
        **fields: Any,
    ) -> Iterator[GalleryImage]: ...

    def generate(
        self,
        request: GenerationRequest
        | str
        | Mapping[str, Any]
        | Iterable[GenerationRequest | str | Mapping[str, Any]] = "",
        *,
        progress: bool = True,
        on_error: OnError | None = None,
        **fields: Any,
    ) -> list[GalleryImage] | Iterator[GalleryImage]:
        """Make pictures. One request: wait for them. Many: return an iterator that yields each as it is finished.

        Of many requests a few are queued ahead, so an endless generator is fine; nothing runs until the first picture
        is asked for. A list is made model by model, so that none is loaded twice. Leaving the loop early, or Ctrl-C,
        cancels what is queued.

        Args:
            request: a prompt, a whole request or a mapping of its fields; or any iterable of these.
            progress: show a progress bar on standard error, if that is a terminal, or in the notebook.
            on_error: for many requests: called with the position (from 0) and the error of each that is refused, fails
                or is cancelled, at once. Without it, SomeFailed lists them after the last picture.
            fields: fields of GenerationRequest; they win over the request's. `init_image` and `mask_image` may be
                Pillow images or files, and paths may be strings.

        Raises:
            InvalidRequest: naming the field, before anything runs.
            GenerationFailed: with the reason in words; pictures made before the failure are in the gallery.
            Cancelled: somebody cancelled the job.
        """
        if not isinstance(request, GenerationRequest | str | Mapping):
            iter(request)  # what is neither is a mistake to be told now, not at the first picture
            return self._stream(request, progress=progress, on_error=on_error, fields=fields)
        job = self.submit(self.request(request, **fields))
        with job_bar(is_wanted=progress) as show:
            job = self.wait(job.id, on_update=show)
        return self.result(job)

    def result(self, job: Job) -> list[GalleryImage]:
        """Return the pictures of a finished job.

        Raises:
            GenerationFailed: with the reason in words, and how many pictures were made before it.
            Cancelled: likewise.
        """
        images = self.gallery.of_job(job.id)
        kept = f"; {len(images)} of {job.num_images} images were made and are kept" if images else ""
        match job.state:
            case JobState.CANCELLED:
                raise Cancelled(f"job {job.id} was cancelled{kept}")
            case JobState.FAILED:
                raise GenerationFailed(f"{job.error or 'the job failed'}{kept}")
        return images

    def verify(self, path: Path, *, progress: bool = True) -> Verification:
        """Make a picture again from what it says about itself, and compare; see `studio.verification.verify`."""
        return verify(self, path, progress=progress)

    def read(self, image: Path | GalleryImage) -> Imported:
        """Return a picture of ours or of another program as a request, with a note on everything that it says.

        Args:
            image: any file (.txt too), or a picture of the gallery, whose file need not be there.

        Raises:
            NotFound: no such file, or it carries nothing that can be read.
        """
        return self._import(image.record if isinstance(image, GalleryImage) else read_texts(image))

    def read_text(self, text: str) -> Imported:
        """Return what a picture's text says, as `read` does.

        Args:
            text: an infotext as A1111 shows it, or the JSON of our own record, of Fooocus or of SwarmUI.

        Raises:
            NotFound: nothing of it can be read.
        """
        return self._import(texts_of(text))

    def hires(self, image: Path | GalleryImage, *, progress: bool = True, **fields: Any) -> GalleryImage:
        """Paint a finished picture again, larger: its first pass bit for bit, then a second one.

        Args:
            image: made here by text-to-image.
            progress: show a progress bar.
            fields: fields of GenerationRequest that begin with `hires_`; twice as large if no size is given.

        Raises:
            NotFound: no such file, or one without a record of ours.
            InvalidRequest, GenerationFailed, Cancelled: as `generate`.
        """
        (larger,) = self.generate(self.enlarged(image, **fields), progress=progress)
        return larger

    def upscale(
        self, image: Path | GalleryImage, *, scale: float | None = None, progress: bool = True, **fields: Any
    ) -> GalleryImage:
        """Make a picture larger and paint nothing; what it says of itself stays in the new one.

        Args:
            image: of the gallery, or any file.
            scale: so many times larger; 2 where neither it nor a size is given.
            progress: show a progress bar.
            fields: `upscaler`, `width`, `height`, `resize_mode`, `output_format`.

        Raises:
            NotFound: no such file.
            InvalidRequest, GenerationFailed, Cancelled: as `generate`.
        """
        (larger,) = self.generate(self.upscaled(image, scale=scale, **fields), progress=progress)
        return larger

    def upscaled(self, image: Path | GalleryImage, *, scale: float | None = None, **fields: Any) -> GenerationRequest:
        """Return the request that `upscale` makes; see `studio.enlarging.upscaled`."""
        path = image.path if isinstance(image, GalleryImage) else image
        init_image = self.inputs.put(path, field="init_image")
        return upscaled(path, init_image, self.inputs.size(init_image), scale=scale, fields=fields)

    def enlarged(self, image: Path | GalleryImage, **fields: Any) -> GenerationRequest:
        """Return the request that `hires` makes; see `studio.enlarging.enlarged`."""
        path = image.path if isinstance(image, GalleryImage) else image
        return enlarged(path, fields, find_model=self.find_model, find_lora=self.find_lora)

    def request(self, request: GenerationRequest | str | Mapping[str, Any] = "", **fields: Any) -> GenerationRequest:
        """Build a request from a prompt (another request, a mapping) and fields; images given as such are stored first.

        Raises:
            InvalidRequest: naming the field.
        """
        match request:
            case str():
                base: Mapping[str, Any] = {"prompt": request}
            case GenerationRequest():
                base = request.model_dump()
            case Mapping():
                base = request
            case _:
                kinds = "a prompt, a GenerationRequest or a mapping of its fields"
                raise InvalidRequest(f"a request must be {kinds}, got {request!r:.60}")
        values = {**base, **fields}
        for name in _IMAGE_FIELDS:
            given = values.get(name)
            if isinstance(given, str) and not is_input_id(given):
                given = Path(given)
            if isinstance(given, Image.Image | Path | bytes):
                values[name] = self.inputs.put(given, field=name)
        return GenerationRequest.parse(values)

    def check(self, request: GenerationRequest) -> None:
        """Check a request against its model, as `submit` does.

        Raises:
            InvalidRequest: naming the field.
        """
        self._storage.expand(request.with_seeds())

    def notes(self, request: GenerationRequest) -> list[str]:
        """Return sentences on what is likely not meant in prompts and mask; none keeps a picture from being made.

        Raises:
            InvalidRequest: naming the field.
            ModelError: the model's files cannot be read.
        """
        return self._storage.notes(request)

    def count_tokens(
        self,
        prompt: str,
        *,
        model: str | None = None,
        num_inference_steps: int | None = None,
        loras: Sequence[str] = (),
        comments: bool = True,
        composable: bool = True,
    ) -> "TokenCount":
        """Count a prompt's tokens as its model's text encoder sees them: the longest text of all steps and branches.

        Args:
            prompt: as typed, with the words that the LoRAs of its tags bring; a template is counted as it stands.
            model: whose tokenizer counts; the default model if None.
            num_inference_steps: in which the prompt changes; the model's default if None.
            loras: "name:weight" as in a request; they may bring words.
            comments: `prompt_comments` of a request.
            composable: False for a negative prompt, in which AND is a word.

        Raises:
            InvalidRequest: there is no such model, an embedding that the prompt names is too long, a tag means nothing.
            ModelError: the model's tokenizer cannot be read.
        """
        return self._storage.count_tokens(
            prompt,
            model_name=model,
            num_inference_steps=num_inference_steps,
            loras=loras,
            comments=comments,
            composable=composable,
        )

    def combinations(self, template: str, *, styles: Sequence[str] = ()) -> list[str]:
        """Return every prompt that a template such as "a {red|blue} boat" can become, once styles are applied to it.

        Raises:
            InvalidRequest: the template cannot be read, there are more than 10,000, or a style is unknown.
        """
        styled, _ = self._storage.styles().apply(styles, prompt=template)
        return self._storage.templates().combinations(styled) if is_template(styled) else [styled]

    def styles(self) -> list[Style]:
        """Return the styles that requests may name, as they stand in the styles files at this moment.

        Raises:
            InvalidRequest: a file cannot be read.
        """
        return list(self._storage.styles().by_name.values())

    def as_typed(self, request: GenerationRequest) -> GenerationRequest:
        """Return the request of a picture for editing; see `studio.expanding.as_typed`."""
        return as_typed(request, lambda typed: self._storage.expand(typed)[1])

    def like(self, image: Path | GalleryImage | Imported, **fields: Any) -> GenerationRequest:
        """Return the request of a picture, ours or another program's, with other values in some fields.

        Args:
            image: a file, a picture of the gallery, or what was read of one.
            fields: of GenerationRequest. A text that is replaced is no longer what a template became.

        Raises:
            NotFound: as `read`.
            InvalidRequest: naming the field.
        """
        imported = image if isinstance(image, Imported) else self.read(image)
        request = self.as_typed(GenerationRequest.parse(imported.request_fields))
        drawn = {note: None for field, note in TEMPLATES.items() if field in fields}
        return self.request(request, **{**drawn, **fields})

    def submit(self, request: GenerationRequest, *, idempotency_key: str | None = None) -> Job:
        """Check a request against its model and put it in the queue; returns at once. The job names its model.

        Raises:
            InvalidRequest: naming the field.
        """
        request = request.with_seeds()  # a template is checked with the seed it will run with
        model, _ = self._storage.expand(request)
        request = request.model_copy(update={"model": model.name})  # the default may be another when it runs
        return self._storage.jobs.submit(request, idempotency_key=idempotency_key)

    def models(self) -> list[Model]:
        """Return the installed models."""
        return installed_models(self.settings.models_dir)

    def model_hashes(self) -> dict[str, str]:
        """Return the hashes of those models that have painted here, by name. See `ModelHashes.of`."""
        return self._storage.model_hashes.known()

    def loras(self) -> list[InstalledLora]:
        """Return every LoRA file that is found, by name; those that cannot be used say why."""
        return self._storage.loras.installed()

    def loras_named(self, names: Iterable[str]) -> list[InstalledLora]:
        """Return the LoRAs of some names, as `lora` finds them; what finds none, or several, is left out."""
        return self._storage.loras.of_names(names)

    def lora(self, name: str) -> InstalledLora:
        """Return one LoRA by its name, its file's name or its title, with its hashes.

        Raises:
            NotFound: there is none, or several are called so.
            ModelError: the file cannot be read.
        """
        lora = self._storage.loras.find(name)
        return replace(lora, known_hashes=lora.hashes)

    def find_model(self, name: str, digest: str) -> str | None:
        """Return the name of the installed model of a hash; without one, of a name. See `ModelHashes.find`."""
        return self._storage.model_hashes.find(name, digest)

    def lora_preview(self, name: str) -> bytes:
        """Return what shows a LoRA, as a small WebP: the picture beside its file, else the one in its header.

        Raises:
            NotFound: there is no such LoRA, or nothing shows it.
        """
        lora = self._storage.loras.find(name)
        if lora.picture is None:
            raise NotFound(f"LoRA {lora.name} has no preview; put a picture of its name beside it")
        return small_picture(lora.picture)

    def find_lora(self, name: str, digest: str) -> FoundLora | None:
        """Return the LoRA that a picture of another program, or of another machine, was made with."""
        found = self._storage.loras.find_by_hash(name, digest)
        return None if found is None else FoundLora(*found)

    def rebuild_gallery(self) -> tuple[Rebuilt, int]:
        """Make the gallery's list anew from the picture files, then delete the inputs that nothing needs any more.

        Returns:
            What was found, and how many inputs are gone; see `Storage.forget_inputs`.
        """
        rebuilt = self.gallery.rebuild()
        return rebuilt, self._storage.forget_inputs(rebuilt.unreadable)

    def upscalers(self) -> list[str]:
        """Return what can enlarge a picture: the names of the table, and those of the model files."""
        return [*UPSCALERS, *installed_upscalers(self.settings.upscalers_dir)]

    def embeddings(self) -> list[InstalledEmbedding]:
        """Return the embeddings (textual inversion) that prompts may name, and those that cannot be used."""
        return self._storage.embeddings.all()

    def close(self) -> None:
        """Close the database."""
        self._storage.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _import(self, said: Mapping[str, str] | Record) -> Imported:
        return import_request(
            said,
            find_model=self.find_model,
            find_lora=self.find_lora,
            find_embedding=self._storage.embeddings.find,
            find_upscaler=upscaler_finder(self.settings.upscalers_dir),
        )

    def _stream(
        self, requests: Iterable[Any], *, progress: bool, on_error: OnError | None, fields: Mapping[str, Any]
    ) -> Iterator[GalleryImage]:
        total = len(requests) if isinstance(requests, Sized) else None
        with requests_bar(total, is_wanted=progress) as look:
            yield from pictures_of(self, requests, fields=fields, on_error=on_error, on_look=look)
