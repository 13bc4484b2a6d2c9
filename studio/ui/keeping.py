"""Keeps what stands in the form through a reload: in the browser's tab, and nowhere else."""

import json

import gradio as gr

from studio.ui.form import RequestForm
from studio.ui.widgets import QUIET

_KEEP = """(...values) => {
  const kept = Object.fromEntries(NAMES.map((name, place) => [name, values[place]]));
  sessionStorage.setItem('form', JSON.stringify(kept));
}"""
_RECALL = "() => [JSON.parse(sessionStorage.getItem('form'))]"


def keep(form: RequestForm, demo: gr.Blocks) -> None:
    """Note every change of the form on the page itself, and put the form back when the page is loaded again.

    Uploaded images are not kept: the server deletes them after a day.
    """
    kept = gr.JSON(visible=False)
    names = [name for name in form.widgets if name not in form.images]
    widgets = [form[name] for name in names]
    changes = [widget.change for widget in widgets]  # type: ignore[attr-defined]
    gr.on(changes, None, widgets, None, js=_KEEP.replace("NAMES", json.dumps(names)), **QUIET)
    demo.load(form.restore, kept, widgets, js=_RECALL, **QUIET)
