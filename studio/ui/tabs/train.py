"""The tab that trains a LoRA: pictures, settings, and how far it is. It only submits and observes the job."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from pipelines.spec.dataset import CAPTION_SUFFIX
from pipelines.spec.errors import InvalidRequest, StudioError
from pipelines.spec.fields import field_rules
from pipelines.spec.trainer import TrainingPlan
from pipelines.spec.training import TrainingRequest
from studio.core import Studio
from studio.datasets import PICTURE_SUFFIXES
from studio.jobs import UNFINISHED, JobKind, JobState, TrainingJob
from studio.ui.keeping import keep
from studio.ui.markup import curve
from studio.ui.progress import duration
from studio.ui.widgets import (
    QUIET,
    Updates,
    advice,
    can_show,
    complaint,
    empty_means,
    files_input,
    hint,
    number_input,
    place,
    read_number,
    waiting,
)

LOOK_SECONDS = 1.0
SHOWN_FINDINGS = 20
LOOKS_AT_PICTURES: Mapping[str, Any] = {**QUIET, "show_progress": "minimal"}
"""Options of events that take a while."""
MAIN_ROWS = (
    *(("name", "trigger_word"), ("caption",), ("model",), ("rank", "steps"), ("learning_rate", "resolution")),
    *(("validation_prompts",), ("validation_every", "existing")),
)
"""Fields that everybody sees, row by row; the others are behind the accordion."""
TRAINING_LABELS: Mapping[str, str] = {
    "caption": "Caption for all",
    "validation_prompts": "Pictures on the way, one prompt a line",
    "validation_every": "Paint them every … steps",
    "existing": "Existing LoRA of this name",
    "lr_schedule": "Learning rate schedule",
    "min_snr_gamma": "Min-SNR gamma",
    "ema_decay": "EMA decay",
}
"""How fields are called whose own names do not say it."""
_RULES = field_rules(TrainingRequest)
_NUMBERS = frozenset(name for name, rules in _RULES.items() if rules["type"] in {"integer", "number"})
_WELCOME = (
    '<p class="welcome"><strong>Your own style</strong>Ten to thirty pictures of it, each with a caption that says '
    "everything but the style, are enough. A training goes on when this page is closed.</p>"
)


class TrainingForm:
    """Widgets of all fields of a training, made from the fields themselves; and where its pictures come from.

    Args:
        studio: knows the models, and keeps what is uploaded.
    """

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        kinds = [*PICTURE_SUFFIXES, CAPTION_SUFFIX]
        self.uploads = files_input(
            label="Pictures, and captions as .txt files of the same names",
            file_types=kinds,
            height=180,
            elem_id="train-uploads",
            render=False,
        )
        self.folder = gr.Textbox(
            label="or a folder on this machine",
            info=hint(_RULES["data"]),
            visible=studio.settings.is_private,
            elem_id="train-data",
            render=False,
        )
        self.widgets: dict[str, Component] = {name: self._make(name) for name in _RULES if name != "data"}

    @property
    def inputs(self) -> list[Component]:
        """What `read` wants the values of."""
        return [self.uploads, self.folder, *self.widgets.values()]

    def read(self, values: Sequence[Any]) -> TrainingRequest:
        """Turn the values of `inputs` into a request. Uploads are stored first.

        Raises:
            InvalidRequest: naming the field.
        """
        uploads, folder, *fields = values
        given = {name: value for name, value in zip(self.widgets, fields, strict=True) if value not in (None, "")}
        request = {name: _to_field(name, value) for name, value in given.items()}
        TrainingRequest.parse({"data": "unknown", **request})  # before a hundred pictures are looked at
        return TrainingRequest.parse({**request, "data": self._data(uploads or [], folder or "")})

    @property
    def kept(self) -> dict[str, Component]:
        """What a reload must not lose; uploads cannot be kept."""
        return {"data": self.folder, **self.widgets}

    def restore(self, kept: object) -> Updates:
        """Return updates that put back what a page kept; what cannot be shown any more stays as on a new page."""
        given = kept if isinstance(kept, dict) else {}
        return {
            widget: gr.update(value=given[name]) if can_show(widget, given.get(name)) else gr.skip()
            for name, widget in self.kept.items()
        }

    def _data(self, uploads: Sequence[str], folder: str) -> str:
        if uploads and folder:
            raise InvalidRequest("data: pictures were uploaded, and a folder is named; give only one", field="data")
        if folder:
            self._studio.check_folder(folder)
        if not uploads and not folder:
            raise InvalidRequest("data: there are no pictures yet; upload some", field="data")
        return folder or self._studio.store_pictures([Path(file) for file in uploads])

    def _make(self, name: str) -> Component:
        rules = _RULES[name]
        default = rules.get("default")
        common: dict[str, Any] = {
            "label": TRAINING_LABELS.get(name, name.replace("_", " ").capitalize()),
            "info": hint(rules, limits=name not in {"seed", "validation_seed"}),
            "elem_id": f"train-{name}",
            "render": False,
        }
        if name == "model":
            names = [model.name for model in self._studio.models()]
            wanted = self._studio.settings.default_model
            return gr.Dropdown(names, value=wanted if wanted in names else None, **common)
        if name == "validation_every":  # somebody looks on here
            return number_input(value=str(_RULES["save_every"]["default"]), **common)
        if name in _NUMBERS:
            return number_input(placeholder=empty_means(rules), **common)
        if rules["type"] == "boolean":
            return gr.Checkbox(value=bool(default), min_width=120, **common)
        if "enum" in rules:
            return gr.Dropdown(rules["enum"], value=default, min_width=120, **common)
        lines = 2 if name in {"validation_prompts", "description"} else 1
        return gr.Textbox(placeholder=empty_means(rules), lines=lines, **common)


class View(NamedTuple):
    """What a page shows of a training at one moment."""

    job_id: str = ""
    state: str = ""
    stage: str = _WELCOME
    picture: str = ""


class TrainingObserver:
    """Shows the training that runs, else the next one, else how the last one ended. Every page sees the same.

    Args:
        studio: has the jobs.
    """

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self.words = gr.HTML("", elem_id="train-words", apply_default_css=False, render=False)
        self.stage = gr.HTML("", elem_id="train-stage", apply_default_css=False, render=False)
        self.picture = gr.HTML("", elem_id="train-picture", apply_default_css=False, render=False)
        self.cancel = gr.Button("Stop and keep", elem_id="train-cancel", interactive=False, render=False)
        self.resume = gr.Button("Go on", elem_id="train-resume", visible=False, render=False)
        self.timer = gr.Timer(LOOK_SECONDS, active=False, render=False)
        self.shown: gr.State = gr.State(None, render=False)
        """The view on the page: a later one updates only what differs."""
        self.outputs: list[Block] = [self.stage, self.picture, self.cancel, self.resume, self.timer, self.shown]

    def look(self, shown: View | None) -> Updates:
        """Return updates of what has changed since `shown`."""
        view = self._view()
        updates: Updates = {self.shown: view}
        if shown is None or shown.stage != view.stage:
            updates[self.stage] = view.stage
        if shown is None or shown.picture != view.picture:
            updates[self.picture] = view.picture
        if shown is None or (shown.job_id, shown.state) != (view.job_id, view.state):
            updates[self.cancel] = gr.update(interactive=view.state in UNFINISHED)
            updates[self.resume] = gr.update(visible=view.state in {JobState.FAILED, JobState.CANCELLED})
        return updates

    def look_anew(self) -> Updates:
        """Return updates of everything, and begin to look: the tab has just been opened."""
        return {**self.look(None), self.timer: gr.Timer(active=True)}

    def stop(self, shown: View | None) -> Updates:
        """Cancel the training on view."""
        if shown is not None and shown.job_id:
            self._studio.cancel(shown.job_id)
        return self.look(shown)

    def go_on(self, shown: View | None) -> Updates:
        """Queue the training on view again: it goes on from its last checkpoint."""
        if shown is not None and shown.job_id:
            try:
                self._studio.resume(shown.job_id)
            except StudioError as error:
                return {self.words: complaint(str(error)), **self.look(shown)}
        return {self.words: "", **self.look(shown)}

    def _view(self) -> View:
        kind = JobKind.TRAIN
        job = self._studio.current_job(kind=kind) or next(iter(self._studio.jobs(kind=kind, limit=1)), None)
        if not isinstance(job, TrainingJob):
            return View()
        drawn, picture = self._seen(job)
        return View(job.id, str(job.state), _stage(job, _status(self._studio, job), drawn), picture)

    def _seen(self, job: TrainingJob) -> tuple[str, str]:
        """Return the loss curve and the latest pictures; until the first step, those there are of an older training."""
        if not job.num_steps:
            return "", ""
        try:
            training = self._studio.training(job)
            latest = training.picture()
            return curve(training.losses()), "" if latest is None else _picture(latest)
        except (StudioError, OSError):  # its model or its folder is gone, or a picture is just being replaced
            return "", ""


def build(studio: Studio, demo: gr.Blocks) -> TrainingObserver:
    """Lay the tab out and connect it; what looks on is for the page to wake when the tab is opened."""
    form, observer = TrainingForm(studio), TrainingObserver(studio)
    with gr.Row(elem_id="train"):
        with gr.Column(scale=5, min_width=300, elem_id="train-form"):
            place(form.uploads)
            place(form.folder)
            for row in MAIN_ROWS:
                with gr.Row(elem_classes="tight"):
                    for name in row:
                        place(form.widgets[name])
            with gr.Accordion("Advanced", open=False, elem_id="train-advanced"):
                for name, widget in form.widgets.items():
                    if not any(name in row for row in MAIN_ROWS):
                        place(widget)
        with gr.Column(scale=6, min_width=300):
            with gr.Row(elem_classes="tight"):
                check = gr.Button("Check", elem_id="train-check")
                start = gr.Button("Start training", variant="primary", elem_id="train-start")
                place(observer.cancel)
                place(observer.resume)
            place(observer.words)
            place(observer.stage)
            place(observer.picture)
    place(observer.timer)
    place(observer.shown)

    def submit(shown: View | None, *values: Any) -> Updates:
        try:
            studio.submit_training(form.read(values))
        except StudioError as error:
            return {observer.words: complaint(str(error))}
        return {observer.words: "", **observer.look(shown)}

    _connect_check(check, studio, form=form, words=observer.words)
    start.click(
        submit,
        [observer.shown, *form.inputs],
        [observer.words, *observer.outputs],
        trigger_mode="once",
        **LOOKS_AT_PICTURES,
    )
    observer.cancel.click(observer.stop, observer.shown, observer.outputs, **QUIET)
    observer.resume.click(observer.go_on, observer.shown, [observer.words, *observer.outputs], **QUIET)
    observer.timer.tick(observer.look, observer.shown, observer.outputs, **QUIET)
    keep("training", form.kept, restore=form.restore, demo=demo)
    return observer


def _connect_check(check: gr.Button, studio: Studio, *, form: TrainingForm, words: gr.HTML) -> None:
    """Tell at once what is wrong with which picture, and some seconds later what the training takes."""
    asked: gr.State = gr.State(None)

    def look_through(*values: Any) -> tuple[str, TrainingRequest | None]:
        try:
            request = form.read(values)
            plan = studio.plan_training(request)
        except StudioError as error:
            return complaint(str(error)), None
        return _told(f"{plan.work()}; memory and time are being predicted …", plan), request

    def foresee(request: TrainingRequest | None) -> Any:
        if request is None:
            return gr.skip()
        try:
            plan = studio.foresee_training(request)
        except StudioError as error:
            return complaint(str(error))
        return _told(f"{plan.sentence()}.", plan)

    looked = check.click(look_through, form.inputs, [words, asked], **LOOKS_AT_PICTURES)
    looked.then(foresee, asked, words, **LOOKS_AT_PICTURES)


def _to_field(name: str, value: Any) -> Any:
    if name in _NUMBERS:
        return read_number(_RULES[name], value)
    if name == "validation_prompts":
        return tuple(line for line in value.splitlines() if line.strip())
    return value


def _told(sentence: str, plan: TrainingPlan) -> str:
    """Return what a training will be, and what is wrong with which picture, as HTML."""
    findings = [f"{finding.severity}: {finding}" for finding in plan.findings[:SHOWN_FINDINGS]]
    more = len(plan.findings) - SHOWN_FINDINGS
    shortage = "" if plan.demand is None else plan.demand.shortage()
    notes = [*findings, f"… and {more} more files" if more > 0 else "", f"note: {shortage}" if shortage else ""]
    return waiting(sentence) + advice([note for note in notes if note])


def _status(studio: Studio, job: TrainingJob) -> str:
    if job.state is JobState.FAILED:
        return job.error or "The training failed."
    if job.state is JobState.QUEUED:
        return "In the queue" if studio.live_workers() else "Waiting for the worker to start"
    left = "" if job.eta is None else f", {duration(job.eta)} left"
    done = "; ".join(filter(None, ("Done; choose it under LoRAs", job.note)))
    words = {JobState.DONE: done, JobState.CANCELLED: f"Stopped; {job.kept}"}
    text = words.get(job.state, f"{job.status}{left}")
    return text[:1].upper() + text[1:]


def _stage(job: TrainingJob, status: str, drawn: str) -> str:
    percent = round(100 * job.progress)
    role = 'class="complaint" role="alert"' if job.state is JobState.FAILED else 'class="status" role="status"'
    bar = (
        f'<div class="bar" role="progressbar" aria-label="Progress" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent}"><span style="width: {percent}%"></span></div>'
    )
    return (
        f'<div class="stage" data-state="{job.state}" data-job="{job.id}"><p class="prompt">{escape(job.title)}</p>'
        f"{'' if job.is_finished else bar}<p {role}>{escape(status)}</p>{drawn}</div>"
    )


def _picture(path: Path) -> str:
    caption = f"After step {int(path.stem.rpartition('-')[2])}"
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )
