"""What all tabs share: how events are declared, and the box that shows pictures."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.data_classes import ImageData

QUIET: Mapping[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""Options of every event here. They take milliseconds, so none waits in Gradio's queue, and none is an API."""

_TO_TOP = "() => document.querySelector('.landed') || window.scrollTo(0, 0)"
TO_TOP: Mapping[str, Any] = {"fn": None, "js": _TO_TOP, **QUIET}
"""An event after which another view is seen from its top, unless the page has just gone to a part of it: `.landed`."""

Updates = dict[Block, Any]
"""What an event returns: a new value, or new properties, for some of its outputs."""

_TELL_WHICH = """
element.addEventListener('click', (event) => {
  const hit = event.target.closest('[data-KEY]');
  if (hit) trigger('click', {KEY: hit.dataset.KEY});
});
"""

_EMPTY = re.compile(r"Empty: ([^.]+)\.")
"""How the description of a field says what none of it means."""


def image_input(**options: Any) -> gr.Image:
    """Return a place for a file that users give, whose bytes stay as they were uploaded."""
    image = gr.Image(
        type="filepath", format="png", image_mode=None, sources=["upload", "clipboard"], buttons=[], **options
    )
    image.example_payload = lambda: None  # type: ignore[method-assign]  # or every page names a picture on Gradio's site
    image.preprocess = uploaded  # type: ignore[method-assign, assignment]  # see there
    return image


def files_input(**options: Any) -> gr.File:
    """Return a place for many files that users give."""
    files = gr.File(file_count="multiple", **options)
    files.example_payload = lambda: None  # type: ignore[method-assign]  # see `image_input`
    return files


def number_input(**options: Any) -> gr.Textbox:
    """Return a place for a number, or for none."""
    # gr.Number shows None as 0 and rounds seeds beyond 2**53; a text box is empty when empty, and exact
    plain = gr.InputHTMLAttributes(autocomplete="off", spellcheck=False)
    return gr.Textbox(html_attributes=plain, elem_classes="number", max_lines=1, min_width=80, **options)


def read_number(rules: Mapping[str, Any], text: str) -> int | float | str:
    """Read a number as it was typed; what is none is left for the request to refuse by name.

    Args:
        rules: the field's, as `pipelines.spec.fields.field_rules` returns them.
        text: what was typed.
    """
    if re.fullmatch(r"[+-]?[1-9]\d{0,2}(,\d{3})+", text.strip()):
        return text  # 1,000 is a thousand to some and one to others
    kind = int if rules["type"] == "integer" else float
    try:
        return kind(text.replace(",", ".") if kind is float else text)
    except ValueError:
        return text


def hint(rules: Mapping[str, Any], *, limits: bool = True) -> str:
    """Return what a field means and, if asked, between which bounds it lies."""
    low, high = rules.get("minimum", rules.get("exclusiveMinimum")), rules.get("maximum")
    between = f" {low} to {high}." if low is not None and high is not None and limits else ""
    return f"{rules['description']}{between}"


def empty_means(rules: Mapping[str, Any]) -> str:
    """Return what an empty widget means, for its placeholder: the default, or what the field's description says."""
    default = rules.get("default")
    if isinstance(default, int | float):
        return f"{default:g}"
    said = _EMPTY.search(rules["description"])
    return said[1] if said else ""


def can_show(widget: Block, value: object, *, choices: Sequence[tuple[str, Any]] | None = None) -> bool:
    """Whether a value is one that a widget may have.

    Args:
        widget: of a form.
        value: anything, such as what an older page kept.
        choices: of a dropdown, where they are others than when it was made.
    """
    match widget:
        case gr.Dropdown(multiselect=True):
            return isinstance(value, list) and all(isinstance(each, str) for each in value)
        case gr.Dropdown():
            return value in [possible for _, possible in choices or widget.choices]
        case gr.Checkbox():
            return isinstance(value, bool)
        case gr.Textbox():
            return isinstance(value, str)
    return False


def pictures(value: str = "", *, elem_id: str, **options: Any) -> gr.HTML:
    """Return a box of HTML. A click on anything with `data-image` raises `click`, with the image id in the event."""
    return clickable("image", value, elem_id=elem_id, **options)


def clickable(key: str, value: str = "", *, elem_id: str, **options: Any) -> gr.HTML:
    """Return a box of HTML. A click on anything with `data-KEY` raises `click`, with its text in the event."""
    js = _TELL_WHICH.replace("KEY", key)
    return gr.HTML(value, elem_id=elem_id, js_on_load=js, apply_default_css=False, **options)


def place(widget: Block) -> None:
    """Render a widget that was made earlier into the layout that is open now."""
    widget.render()  # type: ignore[no-untyped-call]


def clicked_image(event: gr.EventData) -> str:
    """Return the image id of a click in a box of pictures."""
    return str(event.image)


def uploaded(upload: ImageData | None) -> str | None:
    """Return the file that was uploaded, unopened: Gradio's own way answers a mere "Error" to what is no picture.

    That it was uploaded, and is no other file of this machine, `api.guard` has made sure of.
    """
    return None if upload is None else upload.path


def advice(sentences: Sequence[str]) -> str:
    """Return sentences that may be of use, as HTML. Empty for none."""
    return "".join(map(waiting, sentences))


def waiting(status: str) -> str:
    """Return how far something is, as HTML."""
    return f'<p class="note" role="status">{escape(status)}</p>'


def complaint(message: str) -> str:
    """Return a sentence that asks for attention, as HTML. Empty for an empty message."""
    return f'<p class="complaint" role="alert">{escape(message)}</p>' if message else ""
