"""What all tabs share: how events are declared, and the box that shows pictures."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr
from gradio.blocks import Block

QUIET: Mapping[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""Options of every event here. They take milliseconds, so none waits in Gradio's queue, and none is an API."""

Updates = dict[Block, Any]
"""What an event returns: a new value, or new properties, for some of its outputs."""

_TELL_WHICH_PICTURE = """
element.addEventListener('click', (event) => {
  const picture = event.target.closest('[data-image]');
  if (picture) trigger('click', {image: picture.dataset.image});
});
"""


def image_input(**options: Any) -> gr.Image:
    """Return a place for a file that users give, whose bytes stay as they were uploaded."""
    image = gr.Image(type="filepath", image_mode=None, sources=["upload", "clipboard"], buttons=[], **options)
    image.example_payload = lambda: None  # type: ignore[method-assign]  # or every page names a picture on Gradio's site
    return image


def pictures(value: str = "", *, elem_id: str, **options: Any) -> gr.HTML:
    """Return a box of HTML. A click on anything with `data-image` raises `click`, with the image id in the event."""
    return gr.HTML(value, elem_id=elem_id, js_on_load=_TELL_WHICH_PICTURE, apply_default_css=False, **options)


def place(widget: Block) -> None:
    """Render a widget that was made earlier into the layout that is open now."""
    widget.render()  # type: ignore[no-untyped-call]


def clicked_image(event: gr.EventData) -> str:
    """Return the image id of a click in a box of pictures."""
    return str(event.image)


def advice(sentences: Sequence[str]) -> str:
    """Return sentences that may be of use, as HTML. Empty for none."""
    return "".join(map(waiting, sentences))


def waiting(status: str) -> str:
    """Return how far something is, as HTML."""
    return f'<p class="note" role="status">{escape(status)}</p>'


def complaint(message: str) -> str:
    """Return a sentence that asks for attention, as HTML. Empty for an empty message."""
    return f'<p class="complaint" role="alert">{escape(message)}</p>' if message else ""
