"""`studio train`: a folder of pictures in, the path of a LoRA out. Standard output carries nothing else."""

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.spec.errors import InvalidRequest
from pipelines.spec.trainer import duration
from pipelines.spec.training import TrainingRequest
from studio.cli.generate import keep_log
from studio.cli.options import SETTINGS_EPILOG, with_fields, with_settings
from studio.cli.output import print_json, printable
from studio.cli.progress import Progress, follow, progress
from studio.settings import Settings

if TYPE_CHECKING:
    from pipelines.spec.trainer import TrainedLora, TrainingPlan
    from studio.jobs import Job

LINE_SECONDS = 30.0
"""How often progress is told where nobody watches a bar."""
SHOWN_FINDINGS = 20


def install(app: typer.Typer) -> None:
    """Add the command, with every field of a training as an option."""
    leave_out = ("data", "existing", "validation_prompts")
    command = with_fields(train, TrainingRequest, leave_out=leave_out, required=("name",))
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

    A running server does the work, else this process. Ctrl-C stops, and keeps what is learnt: --resume goes on from
    there.
    """
    from studio.core import Studio

    if resume and overwrite:
        raise InvalidRequest("--resume and --overwrite both say what to do with what is there; give one")
    existing = "resume" if resume else "overwrite" if overwrite else "refuse"
    prompts = {} if validation_prompt is None else {"validation_prompts": tuple(validation_prompt)}
    request = TrainingRequest.parse({"data": data, "existing": existing, **fields, **prompts})
    with Studio(settings) as studio:
        keep_log(settings)
        if check:
            _tell(studio.plan_training(request, is_for_here=True))
            return
        submitted = studio.submit_training(request, is_for_here=not studio.live_workers(), on_plan=_tell)
        job = follow(studio, submitted, progress() if sys.stderr.isatty() else _Lines())
        lora = studio.outcome(job)
        if job.state in {"done", "cancelled"} and lora.steps and lora.path.exists():  # stopped, it has learnt too
            _print(lora, as_json=as_json)
        studio.trained(job)


def _tell(plan: "TrainingPlan") -> None:
    for finding in plan.findings[:SHOWN_FINDINGS]:
        typer.echo(printable(f"{finding.severity}: {finding}"), err=True)
    if len(plan.findings) > SHOWN_FINDINGS:
        typer.echo(f"… and {len(plan.findings) - SHOWN_FINDINGS} more files", err=True)
    typer.echo(plan.sentence(), err=True)
    if plan.demand is not None and (shortage := plan.demand.shortage()):
        typer.echo(f"note: {shortage}", err=True)


def _print(lora: "TrainedLora", *, as_json: bool) -> None:
    typer.echo(f"loss {lora.final_loss:.4f}; curve and pictures in {lora.folder}", err=True)
    if lora.note:
        typer.echo(f"note: {lora.note}", err=True)
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
            "note": lora.note,
        }
    )


class _Lines(Progress):
    """A line whenever the stage changes, and now and then between."""

    def __init__(self) -> None:
        self._stage, self._shown_at = "", 0.0

    def show(self, job: "Job") -> None:
        if job.stage != self._stage or time.monotonic() - self._shown_at > LINE_SECONDS:
            left = "" if job.eta is None else f", {duration(job.eta)} left"
            typer.echo(f"job {job.id}: {job.status}{left}", err=True)
            self._stage, self._shown_at = job.stage, time.monotonic()

    def close(self) -> None:
        pass
