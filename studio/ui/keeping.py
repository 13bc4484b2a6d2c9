"""Keeps what stands in a form through a reload: in the browser's tab, and nowhere else."""

import json
from collections.abc import Callable, Mapping

import gradio as gr
from gradio.components import Component

from studio.ui.widgets import QUIET, Updates

_KEEP = """(...values) => {
  const kept = Object.fromEntries(NAMES.map((name, place) => [name, values[place]]));
  sessionStorage.setItem(KEY, JSON.stringify(kept));
}"""
_RECALL = "() => [JSON.parse(sessionStorage.getItem(KEY))]"


def keep(key: str, widgets: Mapping[str, Component], *, restore: Callable[[object], Updates], demo: gr.Blocks) -> None:
    """Note every change of a form on the page itself, and put the form back when the page is loaded again.

    Args:
        key: names the form in the browser's tab.
        widgets: by the name that their values are kept under. Uploads do not belong here: the server deletes them
            after a day.
        restore: returns updates for a mapping of names to values that a page kept, or for None.
        demo: the page.
    """
    kept = gr.JSON(visible=False)
    names, places = json.dumps(list(widgets)), list(widgets.values())
    changes = [widget.change for widget in places]  # type: ignore[attr-defined]
    js = _KEEP.replace("NAMES", names).replace("KEY", json.dumps(key))
    gr.on(changes, None, places, None, js=js, **QUIET)
    demo.load(restore, kept, places, js=_RECALL.replace("KEY", json.dumps(key)), **QUIET)
