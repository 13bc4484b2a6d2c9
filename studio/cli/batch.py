"""`studio batch`: a file of requests in, paths of pictures out. The same command goes on where it was stopped."""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.spec.errors import Cancelled, GenerationFailed, InvalidRequest, ModelError, StudioError
from pipelines.spec.request import GenerationRequest
from pipelines.spec.values import MAX_SEED
from studio.cli.copies import FORMATS, Copies
from studio.cli.generate import IMAGE_FIELDS, described, keep_log
from studio.cli.interruption import noticed
from studio.cli.options import SETTINGS_EPILOG, with_request, with_settings
from studio.cli.output import print_json, printable
from studio.cli.progress import batch_progress
from studio.settings import Settings

if TYPE_CHECKING:
    from studio.batch import Line
    from studio.core import Studio
    from studio.jobs import Job


def install(app: typer.Typer) -> None:
    """Add the command, with every field of a request as an option."""
    command = with_request(batch, metavars=dict.fromkeys(IMAGE_FIELDS, "FILE|ID"))
    app.command(epilog=SETTINGS_EPILOG)(with_settings(command))


@dataclass(frozen=True)
class _Entry:
    """One job to be: a line, or one combination of its template."""

    line: int
    request: GenerationRequest
    """With a seed."""
    identity: str
    """Equal for equal lines; says nothing of a seed that was drawn."""


def batch(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="A .jsonl file (one request a line), a .csv file (a header of field names), or text: one prompt a "
            "line, then options as here (a boat --seed 7), # starts a comment; - reads standard input.",
        ),
    ],
    *,
    input_format: Annotated[
        str | None, typer.Option(help="jsonl, csv or text; follows from the file's name when left out.")
    ] = None,
    combinatorial: Annotated[
        bool,
        typer.Option("--combinatorial", help="Make every combination of a template, not a random one per picture."),
    ] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Make the other lines although some cannot work.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Make everything anew, not only what is missing since the last time.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="Also copy the pictures to this folder, and print those paths.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per picture instead.")] = False,
    fields: dict[str, Any],
    settings: Settings,
) -> None:
    """Make the pictures of a whole file, and print each path when it is finished.

    All lines are checked before the first runs. Options hold for lines that do not say otherwise.

    Ctrl-C stops and cancels what is queued. After that, or a crash, the same command makes what is missing.
    """
    from studio.core import Studio

    if output is not None:
        _check_folder(output)
    with Studio(settings) as studio:
        keep_log(settings)
        lines = _lines(file, input_format)
        entries, refused = _planned(studio, lines, fields, combinatorial=combinatorial)
        if refused and not keep_going:
            raise InvalidRequest(
                f"{_count(refused, 'line')} of {len(lines)} cannot work, and nothing was made; "
                "correct what is listed above, or give --keep-going to make the others"
            )
        keys = _keys(studio, entries, source=file if file == "-" else str(Path(file).resolve()), again=again)
        failed = _Run(studio, entries, keys, output=output, as_json=as_json).run()
    if failed:
        raise GenerationFailed(f"{_count(failed, 'line')} failed; the same command tries again what is missing")
    if refused:
        raise InvalidRequest(f"{_count(refused, 'line')} of {len(lines)} could not work; the others are made")


def _check_folder(output: Path) -> None:
    if output.suffix.lower() in FORMATS and not output.is_dir():
        raise InvalidRequest(f"--output must be a folder for a batch, got {output}", field="output")
    Copies(output, overwrite=False).check(0)


def _lines(file: str, input_format: str | None) -> "list[Line]":
    from studio import batch

    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{file} is not UTF-8: {error}; save it as UTF-8") from error
    try:
        kind = batch.guess_format(file, text) if input_format is None else batch.Format(input_format)
    except ValueError as error:
        known = ", ".join(batch.Format)
        raise InvalidRequest(f"--input-format must be one of {known}, got {input_format!r}") from error
    lines = batch.read(text, kind)
    if not lines:
        name = "standard input" if file == "-" else file
        raise InvalidRequest(f"{name} asks for nothing: no line of it is a request")
    return lines


def _planned(
    studio: "Studio",
    lines: "Sequence[Line]",
    fields: dict[str, Any],
    *,
    combinatorial: bool,
) -> tuple[list[_Entry], set[int]]:
    """Return what is to be made, all of it checked, and the lines that cannot work, each of which is told."""
    entries: list[_Entry] = []
    refused: set[int] = set()
    for line in lines:
        notes: dict[str, None] = {}  # a set in order
        try:
            if line.error is not None:
                raise line.error
            request = studio.request({**fields, **line.fields})
            for one in _combined(studio, request) if combinatorial else [request]:
                seeded = one.with_seeds()
                notes |= dict.fromkeys(studio.notes(seeded))  # and with that it is checked
                identity = json.dumps(one.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
                entries.append(_Entry(line.number, seeded, identity))
        except (InvalidRequest, ModelError) as error:
            refused.add(line.number)
            _tell(line.number, error)
        for note in notes:
            _tell(line.number, f"note: {note}")
    return [entry for entry in entries if entry.line not in refused], refused


def _combined(studio: "Studio", request: GenerationRequest) -> list[GenerationRequest]:
    """Return a request per combination of its prompt; seeds count on, as those of one request's pictures do."""
    if request.template is not None or not request.is_to_be_written_out:
        return [request]
    prompts = studio.combinations(request.prompt, styles=request.styles)
    if prompts == [request.prompt]:
        return [request]
    first = request.seed
    if first is not None and first + len(prompts) * request.num_images - 1 > MAX_SEED:
        raise InvalidRequest(
            f"seed {first} is too high for {len(prompts)} combinations; take a lower one", field="seed"
        )
    return [
        GenerationRequest.parse(
            {
                **request.model_dump(),
                "prompt": prompt,
                "template": request.prompt,
                "seed": None if first is None else first + number * request.num_images,
            }
        )
        for number, prompt in enumerate(prompts)
    ]


def _keys(studio: "Studio", entries: Sequence[_Entry], *, source: str, again: bool) -> list[str]:
    """Return an idempotency key per entry: of this file, this content, and the how-manieth line of that content.

    So lines may be added, moved or taken out between two runs. Each --again starts a run with keys of its own.
    """
    seen: Counter[str] = Counter()
    contents = []
    for entry in entries:
        contents.append([source, entry.identity, seen[entry.identity]])
        seen[entry.identity] += 1

    def keys(run: int) -> list[str]:
        return [f"batch-{hashlib.sha256(json.dumps([run, *one]).encode()).hexdigest()}" for one in contents]

    run = 0
    while studio.submitted(keys(run + 1)):
        run += 1
    return keys(run + 1) if again and studio.submitted(keys(run)) else keys(run)


class _Run:
    """Makes the entries and prints the pictures."""

    def __init__(
        self, studio: "Studio", entries: Sequence[_Entry], keys: Sequence[str], *, output: Path | None, as_json: bool
    ) -> None:
        self._studio = studio
        self._entries = entries
        self._keys = keys
        self._copies = None if output is None else Copies(output, overwrite=False)
        self._as_json = as_json
        self._failed: set[int] = set()
        self._before = self._pictures = 0

    def run(self) -> set[int]:
        """Make everything and return the lines that failed.

        Raises:
            Cancelled: the user asked to stop; what was queued is cancelled.
        """
        from studio.stream import Stream, by_likeness

        shown = batch_progress(len(self._entries))
        with noticed() as asked:

            def look(over: int, jobs: "list[Job]") -> None:
                if asked.is_set():
                    raise KeyboardInterrupt
                shown.show(over, jobs)

            ordered = by_likeness((number, entry.request) for number, entry in enumerate(self._entries))
            numbers = [(number, number) for number, _ in ordered]
            stream = Stream(self._studio, numbers, self._submit, on_error=self._fail, on_look=look)
            try:
                with closing(iter(stream)) as pictures:
                    for position, image in pictures:
                        with shown.aside():
                            self._print(position, image)
            except KeyboardInterrupt:
                way_out = "the same command goes on where it stopped"
                raise Cancelled(f"stopped after {self._pictures} pictures; {way_out}") from None
            finally:
                shown.close()
        made = self._pictures - self._before
        typer.echo(f"{made} made, {self._before} were there before" if self._before else f"{made} made", err=True)
        return self._failed

    def _submit(self, number: int) -> "Job":
        job = self._studio.submit(self._entries[number].request, idempotency_key=self._keys[number])
        there = self._studio.gallery.of_job(job.id)
        gone = [image for image in there if not image.path.is_file()]
        for image in gone:
            self._studio.gallery.delete(image.id)
        self._before += len(there) - len(gone)
        return self._studio.resume(job.id, is_incomplete=bool(gone))

    def _fail(self, number: int, error: StudioError) -> None:
        self._failed.add(self._entries[number].line)
        _tell(self._entries[number].line, error)

    def _print(self, number: int, image: Any) -> None:
        self._pictures += 1
        path = image.path
        if self._copies is not None:
            try:
                path = self._copies.put_beside(image)
            except StudioError as error:
                self._fail(number, error)
                return
        if self._as_json:
            print_json({"line": self._entries[number].line, **described(image, path)})
        else:
            typer.echo(str(path))
        sys.stdout.flush()


def _tell(line: int, said: StudioError | str) -> None:
    typer.echo(printable(f"line {line}: {said}"), err=True)


def _count(lines: set[int], what: str) -> str:
    return f"1 {what}" if len(lines) == 1 else f"{len(lines)} {what}s"
