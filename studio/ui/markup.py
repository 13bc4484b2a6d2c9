"""Pictures and settings as HTML. Everything that a user typed is escaped here."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from urllib.parse import quote

from pipelines.spec.lora_tags import write_lora
from pipelines.spec.loras import LoraSpec
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.schedulers import NOISE_SCHEDULES, SCHEDULERS
from pipelines.spec.upscalers import UPSCALERS, upscaler_label
from studio.gallery import GalleryImage
from studio.metadata import Imported, Outcome
from studio.store import InstalledLora
from studio.ui.form import CHOICE_LABELS, LABELS
from studio.verification import Verification

_API = "/api/v1"
"""Pictures come from the REST routes: as files, byte for byte, and never through Gradio's cache."""

CURVE_WIDTH, CURVE_HEIGHT, CURVE_POINTS = 600, 160, 300
CURVE_WINDOW = 50
"""Steps that the smooth line of a loss curve is about the mean of."""


def thumbnail(image: GalleryImage) -> str:
    """A small picture that can be pressed."""
    return (
        f'<button type="button" class="thumbnail" data-image="{image.id}" title="{escape(_title(image))}">'
        f'<img src="{_API}/images/{image.id}/thumbnail" alt="{escape(_title(image))}" loading="lazy"></button>'
    )


def picture(image: GalleryImage) -> str:
    """A large picture that can be pressed."""
    return (
        f'<button type="button" class="picture" data-image="{image.id}">'
        f'<img src="{_API}/images/{image.id}/file" alt="{escape(_title(image))}" '
        f'width="{image.width}" height="{image.height}"></button>'
    )


def full_picture(image: GalleryImage) -> str:
    """The picture as large as it fits; pressing it opens the file."""
    address = f"{_API}/images/{image.id}/file"
    return (
        f'<a class="full" href="{address}" target="_blank" rel="noopener" title="Open in full size">'
        f'<img src="{address}" alt="{escape(_title(image))}" '
        f'width="{image.width}" height="{image.height}"></a>'
    )


def download_link(image: GalleryImage) -> str:
    """A link that saves the file itself, with the record inside it."""
    return (
        f'<a class="download" href="{_API}/images/{image.id}/file?download=true" '
        f'download="{escape(image.path.name)}">Download</a>'
    )


def bare_download_link(image: GalleryImage) -> str:
    """A link that saves a copy that says nothing of how it was made, not in its name either."""
    return (
        f'<a class="download" href="{_API}/images/{image.id}/file?download=true&amp;metadata=false" '
        f'download="{image.id}{image.path.suffix}">Download without metadata</a>'
    )


def grid(images: Iterable[GalleryImage], *, label: str) -> str:
    """Thumbnails in rows."""
    return f'<div class="grid" role="group" aria-label="{escape(label)}">{"".join(map(thumbnail, images))}</div>'


def caption(image: GalleryImage) -> str:
    """One line under a result."""
    request = image.request
    facts = (f"Seed {request.seed}", f"{image.width} × {image.height}", request.model)
    return " · ".join(map(escape, facts))


def settings(image: GalleryImage) -> str:
    """What made a picture, for reading."""
    request = image.request
    rows = [("Prompt", request.prompt or "–")]
    if request.negative_prompt:
        rows.append(("Negative prompt", request.negative_prompt))
    if request.styles:
        rows.append(("Styles", ", ".join(request.styles)))
    size = ("Size", f"{image.width} × {image.height}")
    if request.paints_nothing:
        rows += [size, ("Enlarged with", upscaler_label(request.upscaler or "lanczos"))]
    else:
        rows += _painted(image, size)
    rows += [("Note", note) for note in image.notes]
    rows += [("Format", request.output_format), ("File", image.path.name)]
    body = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    return f'<dl class="settings">{body}</dl>{_inputs(request)}'


def _painted(image: GalleryImage, size: tuple[str, str]) -> list[tuple[str, str]]:
    request = image.request
    rows = [("Model", request.model)]
    if request.loras:
        rows.append(("LoRAs", "\n".join(_applied(image))))
    rows += [
        ("Seed", str(request.seed)),
        size,
        ("Steps", str(request.num_inference_steps)),
        ("Guidance", f"{request.guidance_scale:g}"),
        ("Scheduler", _sampling(request)),
    ]
    if request.strength is not None:
        rows.append(("Strength", f"{request.strength:g}"))
    if request.enlargement is not None:
        rows.append(("Second pass", _second_pass(request)))
    return rows


def lora_cards(loras: Iterable[InstalledLora]) -> str:
    """What is chosen: a small picture, the family, and words that call it up, which can be pressed; or the trouble."""
    return "".join(map(_lora_card, loras))


def _lora_card(lora: InstalledLora) -> str:
    name, notes = escape(lora.name), lora.notes
    address = f"{_API}/loras/{quote(lora.name)}/preview"
    shown = f'<img src="{address}" alt="" loading="lazy">' if lora.picture is not None else "<i></i>"
    weight = "" if notes.preferred_weight is None else f"weight {notes.preferred_weight:g}"
    facts = " · ".join(filter(None, (lora.family_label, weight)))
    about = f'<span class="reason">{escape(lora.problem)}</span>' if lora.problem else f"<span>{escape(facts)}</span>"
    words = "".join(
        f'<button type="button" data-word="{escape(word)}" title="Add to the prompt">{escape(word)}</button>'
        for word in lora.trigger_words
    )
    return (
        f'<figure class="lora" title="{escape(notes.description)}">{shown}<figcaption><b>{name}</b>'
        f"{about}<div>{words}</div></figcaption></figure>"
    )


def imported(imported: Imported) -> str:
    """What a picture says, and what became of each thing."""
    fields = imported.request_fields.items()
    rows = [("Made with", imported.program), *((name, _said(name, value)) for name, value in fields)]
    body = "".join(f"<dt>{escape(_words(name))}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    return f'<dl class="settings">{body}</dl>{"".join(_outcome(imported, outcome) for outcome in Outcome)}'


def verdict(result: Verification) -> str:
    """Whether a picture came out the same a second time."""
    kind, sentence = ("exact", result.sentence) if result.is_exact else ("complaint", result.sentence)
    return f'<p class="{kind}" role="status">{escape(sentence[0].upper() + sentence[1:])}.</p>'


def _applied(image: GalleryImage) -> Iterator[str]:
    """Yield each LoRA as it would be typed, and how much of it was applied."""
    for lora in image.request.loras:
        audit = image.lora_audits.get(lora.name)
        yield write_lora(lora) + (f" (applied {audit})" if audit else "")


def _outcome(imported: Imported, outcome: Outcome) -> str:
    notes = [note for note in imported.notes if note.outcome is outcome]
    if not notes:
        return ""
    items = "".join(
        f"<dt>{escape(_words(note.field))}</dt><dd>{escape(note.value)}<span> {escape(note.why)}</span></dd>"
        for note in notes
    )
    is_open = "" if outcome is Outcome.USED else " open"
    return (
        f'<details class="outcome" data-outcome="{outcome}"{is_open}><summary>{outcome.capitalize()} ({len(notes)})'
        f'</summary><dl class="settings">{items}</dl></details>'
    )


def _said(field: str, value: object) -> str:
    """Return the value of a field as the form has it: LoRAs like tags, several things with commas between them."""
    match value:
        case list() | tuple():
            return ", ".join(_said(field, each) for each in value)
        case {"name": _}:
            return write_lora(LoraSpec.model_validate(value))
        case float():
            return f"{value:g}"
    return _CHOICES.get(field, {}).get(str(value), str(value))


def _words(name: str) -> str:
    """Return what the form calls a field; what is none of its fields is called by its own name."""
    return LABELS.get(name, name[:1].upper() + name[1:].replace("_", " "))


_SCHEDULER_LABELS = {name: row.label for name, row in SCHEDULERS.items()}
_UPSCALER_LABELS = {name: row.label for name, row in UPSCALERS.items()}
_CHOICES: Mapping[str, Mapping[str, str]] = {
    **CHOICE_LABELS,
    **dict.fromkeys(("scheduler", "hires_scheduler"), _SCHEDULER_LABELS),
    **dict.fromkeys(("noise_schedule", "hires_noise_schedule"), NOISE_SCHEDULES),
    **dict.fromkeys(("upscaler", "hires_upscaler"), _UPSCALER_LABELS),
}
"""How the form calls the choices of a field."""


def _sampling(request: ResolvedRequest) -> str:
    scheduler, schedule = SCHEDULERS.get(request.scheduler), NOISE_SCHEDULES.get(request.noise_schedule)
    names = (
        scheduler.label if scheduler else request.scheduler,
        schedule.lower() if schedule else request.noise_schedule,
    )
    return ", ".join(names)


def _inputs(request: ResolvedRequest) -> str:
    named = (("Started from", request.init_image), ("Mask", request.mask_image))
    shown = "".join(
        f'<figure><img src="{_API}/inputs/{name}/file" alt="{label}"><figcaption>{label}</figcaption></figure>'
        for label, name in named
        if name is not None
    )
    return f'<div class="inputs">{shown}</div>' if shown else ""


def _title(image: GalleryImage) -> str:
    return image.request.prompt[:200] or f"Picture {image.id}"


def _second_pass(request: ResolvedRequest) -> str:
    width, height = request.final_size
    upscaler = upscaler_label(str(request.hires_upscaler))
    return f"{width} × {height}, {upscaler}, {request.hires_steps} steps, strength {request.hires_strength:g}"


def curve(losses: Sequence[tuple[int, float]]) -> str:
    """Return a training's loss by step as a drawing: every step in grey, the mean of the latest in the accent colour.

    Args:
        losses: steps, from 1, and their losses.
    """
    if len(losses) < 2:
        return ""
    smooth: list[tuple[int, float]] = []
    mean = losses[0][1]
    for step, loss in losses:
        mean += (loss - mean) / min(len(smooth) + 1, CURVE_WINDOW)
        smooth.append((step, mean))
    first, last = losses[0][0], losses[-1][0]
    top = sorted(loss for _, loss in losses)[int(0.98 * (len(losses) - 1))] * 1.1 or 1.0
    lines = "".join(
        f'<polyline class="{name}" points="{_points(line, first=first, last=last, top=top)}"/>'
        for name, line in (("each", losses), ("mean", smooth))
    )
    words = f"Loss {mean:.4f} after step {last}"
    return (
        f'<figure class="curve"><svg viewBox="0 0 {CURVE_WIDTH} {CURVE_HEIGHT}" preserveAspectRatio="none" '
        f'role="img" aria-label="{words}">{lines}</svg><figcaption>{words}</figcaption></figure>'
    )


def _points(line: Sequence[tuple[int, float]], *, first: int, last: int, top: float) -> str:
    """Return at most CURVE_POINTS places of a line, as SVG writes them; the last is always among them."""
    chosen = [*line[:: -(-len(line) // CURVE_POINTS)], line[-1]]
    return " ".join(
        f"{CURVE_WIDTH * (step - first) / (last - first):.1f},{CURVE_HEIGHT * (1 - min(loss, top) / top):.1f}"
        for step, loss in chosen
    )
