"""Where a mask is painted over the picture that it masks. All of it happens in the browser, in `mask.js`.

The painter is no field of the request: what is painted becomes the value of the field's own widget, as an upload does.
"""

import binascii
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.data_classes import ImageData

from studio.ui.widgets import QUIET, image_input, uploaded

_PAINTED = "data:image/png;base64,"
_BODY = """
<div class="board" data-part="board"><img data-part="picture" alt="The image to paint the mask on"><canvas
data-part="canvas" aria-label="Mask: paint what is to be repainted" role="img"></canvas><i data-part="ring"></i></div>
<div class="tools">
<label class="tool"><input type="radio" name="mask-tool" checked> Brush</label>
<label class="tool"><input type="radio" name="mask-tool" data-part="eraser"> Eraser</label>
<label class="size">Size <input type="range" data-part="size" min="1" max="50" value="12"></label>
<button type="button" data-part="undo" disabled>Undo</button>
<button type="button" data-part="clear">Clear</button>
<button type="button" data-part="large">Larger</button>
</div>
"""
_SHOW = "(image, mask) => ({ picture: image?.url ?? null, mask: mask?.url ?? null })"
_TAKE = "(painted) => painted.mask && { path: null, url: painted.mask, orig_name: 'mask.png' }"


def mask_input(**options: Any) -> gr.Image:
    """Return a place for a mask: the path of an upload, or the bytes of what was painted."""
    mask = image_input(**options)
    mask.preprocess = _path_or_bytes  # type: ignore[method-assign, assignment]
    return mask


def place_painter(image: Component, mask: Component) -> None:
    """Place a painter that shows an image and its mask, and fills in the mask. It is hidden while there is no image.

    Another image clears what was painted. Where nothing is painted, the mask is none, and not a black one.

    Args:
        image: the widget of what is masked.
        mask: the widget of the mask: white is repainted.
    """
    script = Path(__file__).with_name("mask.js").read_text("utf-8")
    painter = gr.HTML(None, html_template=_BODY, js_on_load=script, apply_default_css=False, elem_id="mask-painter")
    changes = [image.change, mask.change]  # type: ignore[attr-defined]
    gr.on(changes, None, [image, mask], painter, js=_SHOW, **QUIET)
    painter.input(None, painter, mask, js=_TAKE, **QUIET)


def _path_or_bytes(mask: ImageData | None) -> str | bytes | None:
    if mask is None or mask.path is not None:
        return uploaded(mask)
    try:
        return binascii.a2b_base64((mask.url or "").removeprefix(_PAINTED))
    except binascii.Error:
        return b""  # which is refused as no picture
