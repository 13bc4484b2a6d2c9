"""The first tab: the form, the stage where the picture appears, and a strip of the latest."""

import re
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
from gradio.blocks import Block

from pipelines.spec.choosing import tagged_loras
from pipelines.spec.errors import InvalidRequest, StudioError
from studio.core import Studio
from studio.jobs import JobKind, JobState
from studio.ui import markup
from studio.ui.form import SHAPES, RequestForm
from studio.ui.keeping import keep
from studio.ui.masking import place_painter
from studio.ui.progress import View, observe
from studio.ui.widgets import QUIET, Updates, advice, clickable, complaint, pictures, place

ACTIVE_SECONDS = 0.4
"""How often the page looks while a job runs."""
IDLE_SECONDS = 2.0
"""How often it looks otherwise: other pages and programs submit jobs too."""
MAX_CANCELLED = 1000
"""So many jobs are cancelled by one press at most."""


@dataclass(frozen=True)
class GenerateTab:
    """The parts that the page connects with other tabs."""

    form: RequestForm
    complaint: gr.HTML
    start_from: gr.Accordion
    mask: gr.Accordion
    stage: gr.HTML
    strip: gr.HTML


class _Observer:
    """Shows what the studio does: the same view on every page, whoever asked."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self.complaint = gr.HTML("", elem_id="complaint", apply_default_css=False, render=False)
        self.stage = pictures(elem_id="stage", render=False)
        self.strip = pictures(elem_id="strip", render=False)
        self.cancel = gr.Button("Cancel", elem_id="cancel", interactive=False, render=False)
        self.cancel_waiting = gr.Button(
            "Cancel all that wait", size="sm", min_width=60, elem_id="cancel-waiting", visible=False, render=False
        )
        self.timer = gr.Timer(IDLE_SECONDS, render=False)
        self.shown = gr.State(None, render=False)
        """The view on the page: a later one updates only what differs. Its job is the one that Cancel means."""
        self.outputs: list[Block] = [
            *(self.stage, self.strip, self.cancel, self.cancel_waiting, self.timer, self.shown)
        ]

    def look(self, shown: View | None) -> Updates:
        """Return updates of what has changed since `shown`."""
        view = observe(self._studio)
        updates: Updates = {self.shown: view}
        if shown is None or view.stage != shown.stage:
            updates[self.stage] = view.stage
        if shown is None or view.strip != shown.strip:
            updates[self.strip] = view.strip
        if shown is None or view.is_active != shown.is_active:
            updates[self.cancel] = gr.update(interactive=view.is_active)
            updates[self.timer] = gr.Timer(ACTIVE_SECONDS if view.is_active else IDLE_SECONDS)
        if shown is None or (view.waiting > 0) != (shown.waiting > 0):
            updates[self.cancel_waiting] = gr.update(visible=view.waiting > 0)
        return updates

    def look_anew(self) -> Updates:
        """Return updates of everything: a page has just been opened."""
        return self.look(None)

    def stop(self, shown: View | None) -> Updates:
        """Cancel the job that the user sees."""
        if shown is not None and shown.job_id is not None and shown.is_active:
            self._studio.cancel(shown.job_id)
        return self.look(shown)

    def stop_waiting(self, shown: View | None) -> Updates:
        """Cancel the pictures that wait behind the job that the user sees."""
        for job in self._studio.jobs(states={JobState.QUEUED}, kind=JobKind.GENERATE, limit=MAX_CANCELLED):
            if shown is not None and job.id != shown.job_id:
                self._studio.cancel(job.id)
        return self.look(shown)


def build(studio: Studio, demo: gr.Blocks) -> GenerateTab:
    """Lay the tab out and connect it."""
    form, observer = RequestForm(studio), _Observer(studio)
    with gr.Row(elem_id="ask", equal_height=True):
        with gr.Column(scale=8, min_width=260):
            place(form["prompt"])
            _count_tokens(studio, form, "prompt")
        with gr.Column(scale=1, min_width=140, elem_id="actions"):
            generate = gr.Button("Generate", variant="primary", elem_id="generate")
            place(observer.cancel)
            place(observer.cancel_waiting)
    place(observer.complaint)
    with gr.Row(elem_id="work"):
        with gr.Column(scale=4, min_width=300, elem_id="form"):
            start_from, mask = _lay_out(studio, form)
        with gr.Column(scale=7, min_width=300, elem_id="result"):
            place(observer.stage)
            place(observer.strip)
    place(observer.timer)
    place(observer.shown)

    def submit(shown: View | None, *values: Any) -> Updates:
        try:
            request = form.read(values)
            notes = studio.notes(request)
            studio.submit(request)
        except StudioError as error:
            return {observer.complaint: complaint(str(error))}
        return {observer.complaint: advice(notes), **observer.look(shown)}

    generate.click(
        submit, [observer.shown, *form], [observer.complaint, *observer.outputs], trigger_mode="multiple", **QUIET
    )
    observer.cancel.click(observer.stop, observer.shown, observer.outputs, **QUIET)
    observer.cancel_waiting.click(observer.stop_waiting, observer.shown, observer.outputs, **QUIET)
    observer.timer.tick(observer.look, observer.shown, observer.outputs, **QUIET)
    demo.load(form.style_choices, None, form["styles"], **QUIET)
    demo.load(form.lora_choices, form["model"], form["loras"], **QUIET)
    demo.load(observer.look_anew, None, observer.outputs, **QUIET)
    kept = {name: widget for name, widget in form.widgets.items() if name not in form.images}
    keep("form", kept, restore=form.restore, demo=demo)
    return GenerateTab(form, observer.complaint, start_from, mask, observer.stage, observer.strip)


def _lay_out(studio: Studio, form: RequestForm) -> tuple[gr.Accordion, gr.Accordion]:
    """Place the form's widgets, connect those that depend on each other, return the parts for image and mask."""
    place(form["negative_prompt"])
    _count_tokens(studio, form, "negative_prompt")
    place(form["styles"])
    with gr.Column(elem_classes="card", min_width=0):
        place(form["model"])
        place(form["loras"])
        gr.HTML(
            '<p class="note">With a weight: type <kbd>name:0.8</kbd>, then Enter.</p>',
            elem_id="lora-help",
            apply_default_css=False,
        )
        _show_loras(studio, form)
        with gr.Row(elem_classes="tight"):
            place(form["width"])
            place(form["height"])
        with gr.Row(elem_classes="shapes"):
            for name, ratio in SHAPES.items():
                gr.Button(name, size="sm", min_width=60, elem_id=f"shape-{name.lower()}").click(
                    partial(form.shaped, ratio=ratio), form["model"], [form["width"], form["height"]], **QUIET
                )
        with gr.Row(elem_classes="tight"):
            place(form["num_inference_steps"])
            place(form["guidance_scale"])
        with gr.Row(elem_classes="tight"):
            place(form["num_images"])
            place(form["seed"])
        with gr.Row(elem_classes="shapes"):
            draw = gr.Button("Random seed", size="sm", min_width=100, elem_id="seed-random")
            reuse = gr.Button("Reuse last seed", size="sm", min_width=100, elem_id="seed-reuse")
    accordion, mask = _lay_out_image(form)
    with gr.Accordion("Paint again, larger (hires fix)", open=False, elem_id="hires"):
        _place_rows(
            form,
            ("hires_scale",),
            ("hires_width", "hires_height"),
            ("hires_upscaler", "hires_strength"),
            ("hires_steps", "hires_guidance_scale"),
            ("hires_scheduler", "hires_noise_schedule"),
            ("hires_prompt", "hires_negative_prompt"),
            ("hires_model",),
            ("hires_template", "hires_negative_template"),
        )
    with gr.Accordion("Advanced", open=False, elem_id="advanced"):
        _place_rows(
            form,
            ("scheduler", "noise_schedule"),
            ("clip_skip", "emphasis"),
            ("prompt_comments",),
            ("tile_size", "tile_overlap"),
            ("output_format",),
            ("template", "negative_template"),
        )
        with gr.Accordion("Seed and noise", open=False, elem_id="noise"):
            _place_rows(
                form,
                ("variation_strength", "variation_seed"),
                ("seed_resize_width", "seed_resize_height"),
                ("noise_source", "eta_noise_seed_delta"),
                ("sigma_max", "sigma_min"),
                ("rho",),
                ("eta", "s_noise"),
                ("s_churn",),
                ("s_tmin", "s_tmax"),
            )

    def follow(model: str | None, scheduler: str | None, noise_schedule: str | None, image: str | None) -> Updates:
        hints = form.hints(model, scheduler=scheduler, starts_from_image=image is not None)
        possible = {name for _, name in hints[form["noise_schedule"]]["choices"]}
        hints[form["noise_schedule"]]["value"] = noise_schedule if noise_schedule in possible else ""
        return {widget: gr.update(**update) for widget, update in hints.items()}

    sources = [form["model"], form["scheduler"], form["noise_schedule"], form["init_image"]]
    hinted = list(form.hints(None))  # no others: Gradio makes anew what an event may update, and forgets how it is read
    for source in sources[:2]:
        source.input(follow, sources, hinted, **QUIET)  # type: ignore[attr-defined]
    form["init_image"].change(follow, sources, hinted, **QUIET)  # type: ignore[attr-defined]
    form["styles"].focus(form.style_choices, None, form["styles"], **QUIET)  # type: ignore[attr-defined]
    draw.click(lambda: "", None, form["seed"], **QUIET)
    reuse.click(partial(_last_seed, studio), form["seed"], form["seed"], **QUIET)
    return accordion, mask


def _lay_out_image(form: RequestForm) -> tuple[gr.Accordion, gr.Accordion]:
    """Place what a picture may start from and its mask; return both parts."""
    with gr.Accordion("Start from an image", open=False, elem_id="start-from") as accordion:
        with gr.Row(elem_classes="tight"):
            place(form["init_image"])
            place(form["mask_image"])
        gr.HTML(
            '<p class="note">The picture starts from this image. With a mask, painted here or uploaded, only its white '
            "parts are repainted.</p>",
            apply_default_css=False,
        )
        place_painter(form["init_image"], form["mask_image"])
        _place_rows(form, ("strength", "resize_mode"), ("step_rule", "upscaler"))
        with gr.Accordion("Mask", open=False, elem_id="mask") as mask:
            _place_rows(
                form,
                ("inpaint_area", "mask_padding"),
                ("masked_content", "invert_mask"),
                ("mask_blur_x", "mask_blur_y"),
                ("mask_mode",),
            )
            with gr.Accordion("Soft mask", open=False, elem_id="soft-mask"):
                _place_rows(
                    form,
                    ("soft_schedule_bias", "soft_preservation"),
                    ("soft_contrast_boost", "soft_mask_influence"),
                    ("soft_difference_threshold", "soft_difference_contrast"),
                )
        with gr.Accordion("Grow the image (outpaint)", open=False, elem_id="outpaint"):
            _place_rows(form, ("outpaint_left", "outpaint_right"), ("outpaint_top", "outpaint_bottom"))
    return accordion, mask


def _show_loras(studio: Studio, form: RequestForm) -> None:
    """Place cards of the LoRAs that are chosen, in the list or by tags. A word of theirs that is pressed is typed."""

    def show(chosen: list[str], prompt: str, comments: bool) -> str:
        names = [text.partition(":")[0] for text in chosen]
        with suppress(InvalidRequest):  # half of a tag: it is being typed
            names += tagged_loras(prompt, comments=comments)
        return markup.lora_cards(studio.loras_named(names)) if names else ""

    def add(prompt: str, event: gr.EventData) -> str:
        word = str(event.word)
        return prompt if word in prompt else f"{prompt.rstrip(', ')}, {word}".lstrip(", ")

    cards = clickable("word", elem_id="lora-cards")
    sources = [form[name] for name in ("loras", "prompt", "prompt_comments")]
    changes = [source.change for source in sources]  # type: ignore[attr-defined]
    gr.on(changes, show, sources, cards, trigger_mode="always_last", **QUIET)
    cards.click(add, form["prompt"], form["prompt"], **QUIET)


def _count_tokens(studio: Studio, form: RequestForm, field: str) -> None:
    """Place a counter of tokens under a prompt. It follows every keystroke; of several at once only the last counts."""
    is_prompt = field == "prompt"

    def count(text: str, *others: Any) -> str:
        prompt, model, steps, loras, comments = others
        num_inference_steps = int(steps) if steps and re.fullmatch("[1-9][0-9]{0,2}", steps) else None
        try:
            counted = studio.count_tokens(
                text,
                model=model,
                num_inference_steps=num_inference_steps,
                loras=[*(loras or []), *([] if is_prompt else tagged_loras(prompt, comments=comments))],
                comments=comments,
                composable=is_prompt,
            )
        except StudioError:  # said where the picture is asked for
            return ""
        return f"{counted.used}/{counted.capacity}"

    counter = gr.HTML("0/75", elem_id=f"{field}-tokens", elem_classes="tokens", apply_default_css=False)
    sources = [form[name] for name in (field, "prompt", "model", "num_inference_steps", "loras", "prompt_comments")]
    changes = [source.change for source in dict.fromkeys(sources)]  # type: ignore[attr-defined]
    gr.on(changes, count, sources, counter, trigger_mode="always_last", **QUIET)


def _place_rows(form: RequestForm, *rows: tuple[str, ...]) -> None:
    for row in rows:
        with gr.Row(elem_classes="tight"):
            for name in row:
                place(form[name])


def _last_seed(studio: Studio, current: str) -> str:
    """Return the seed of the newest picture; what stands there if there is none."""
    newest = studio.gallery.page(limit=1)
    return str(newest[0].request.seed) if newest else current
