"""`studio train`: a folder of pictures in, the path of a LoRA out. Standard output carries nothing else."""

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from pipelines.spec.errors import Cancelled
from pipelines.spec.training import TrainingRequest
from studio.cli.generate import keep_log
from studio.cli.interruption import noticed
from studio.cli.options import SETTINGS_EPILOG, with_fields, with_settings
from studio.cli.output import print_json, printable
from studio.settings import Settings

if TYPE_CHECKING:
    from pipelines.spec.trainer import TrainedLora, TrainingPlan, TrainingStep

LINE_SECONDS = 30.0
"""How often progress is told where nobody watches a bar."""
SHOWN_FINDINGS = 20


def install(app: typer.Typer) -> None:
    """Add the command, with every field of a training as an option."""
    command = with_fields(train, TrainingRequest, leave_out=("data", "validation_prompts"), required=("name",))
    app.command(epilog=SETTINGS_EPILOG)(with_settings(command))


def train(
    data: Annotated[str, typer.Argument(help="Folder of pictures with captions (.txt files or metadata.jsonl).")],
    *,
    validation_prompt: Annotated[
        list[str] | None, typer.Option(help="Painted while training; may be given several times.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of this name.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only read the data set, predict, and leave.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a LoRA of this name.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the path.")] = False,
    fields: dict[str, Any],
    settings: Settings,
) -> None:
    """Train a LoRA on a folder of pictures, and print its path.

    Loss curve, validation pictures, checkpoints and a sweep of strengths are put into outputs/training/NAME.

    Ctrl-C stops, and keeps what is learnt: --resume goes on from there.
    """
    from studio.training import Training

    prompts = {} if validation_prompt is None else {"validation_prompts": tuple(validation_prompt)}
    request = TrainingRequest.parse({"data": data, **fields, **prompts})
    training = Training(settings, request, resume=resume, overwrite=overwrite)
    settings.outputs_dir.mkdir(parents=True, exist_ok=True)
    keep_log(settings)
    _tell(training.plan())
    if check:
        return
    with noticed() as asked:
        shown = _Bar() if sys.stderr.isatty() else _Lines()
        try:
            lora = training.run(_watch(shown, asked.is_set))
        except KeyboardInterrupt:
            raise Cancelled("training was interrupted; --resume goes on from the last checkpoint") from None
        finally:
            shown.close()
    _print(lora, as_json=as_json)
    if not lora.is_complete:
        raise Cancelled(f"stopped after {lora.steps} of {lora.num_steps} steps, which are kept; --resume goes on")


def _tell(plan: "TrainingPlan") -> None:
    for finding in plan.findings[:SHOWN_FINDINGS]:
        typer.echo(printable(f"{finding.severity}: {finding}"), err=True)
    if len(plan.findings) > SHOWN_FINDINGS:
        typer.echo(f"… and {len(plan.findings) - SHOWN_FINDINGS} more files", err=True)
    typer.echo(plan.sentence(), err=True)
    if plan.predicted_bytes > plan.free_bytes:
        typer.echo(f"note: only {plan.free_bytes / 2**20:,.0f} MiB of memory are free", err=True)


def _print(lora: "TrainedLora", *, as_json: bool) -> None:
    typer.echo(f"loss {lora.final_loss:.4f}; curve and pictures in {lora.folder}", err=True)
    if not as_json:
        typer.echo(str(lora.path))
        return
    print_json(
        {
            "path": str(lora.path),
            "folder": str(lora.folder),
            "steps": lora.steps,
            "num_steps": lora.num_steps,
            "loss": lora.final_loss,
        }
    )


class _Shown(Protocol):
    def show(self, step: "TrainingStep") -> None: ...

    def close(self) -> None: ...


def _watch(shown: _Shown, is_asked_to_stop: Callable[[], bool]) -> "Callable[[TrainingStep], bool]":
    def watch(step: "TrainingStep") -> bool:
        shown.show(step)
        return not is_asked_to_stop()

    return watch


def _sentence(step: "TrainingStep") -> str:
    left = "" if step.eta is None else f", {_duration(step.eta)} left"
    return f"step {step.step}/{step.num_steps}, loss {step.loss:.4f}{left}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class _Bar:
    """A bar; it goes when the training is over."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("reading", total=1.0)
        self._bar.start()

    def show(self, step: "TrainingStep") -> None:
        self._bar.update(self._task, completed=step.step / step.num_steps, description=_sentence(step))

    def close(self) -> None:
        self._bar.stop()


class _Lines:
    """A line now and then."""

    def __init__(self) -> None:
        self._shown_at = 0.0

    def show(self, step: "TrainingStep") -> None:
        if time.monotonic() - self._shown_at > LINE_SECONDS or step.step == step.num_steps:
            typer.echo(_sentence(step), err=True)
            self._shown_at = time.monotonic()

    def close(self) -> None:
        pass
