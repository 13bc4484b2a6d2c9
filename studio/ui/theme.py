"""How the page looks: neutral greys, so that the pictures carry the colour, and one accent for what can be done."""

from pathlib import Path

import gradio as gr

STYLESHEET = Path(__file__).with_name("style.css")

_GREY = gr.themes.Color(
    c50="#fafaf9",
    c100="#f3f2f0",
    c200="#e5e3df",
    c300="#cfccc6",
    c400="#a19d95",
    c500="#78746d",
    c600="#57544e",
    c700="#3d3a36",
    c800="#282624",
    c900="#1c1b19",
    c950="#131211",
    name="paper",
)
_CLAY = gr.themes.Color(
    c50="#fdf5f1",
    c100="#fae6dc",
    c200="#f4cbb8",
    c300="#eba88a",
    c400="#df7f58",
    c500="#cc6238",
    c600="#b14d28",
    c700="#923e21",
    c800="#76341f",
    c900="#612e1e",
    c950="#34150c",
    name="clay",
)

THEME = gr.themes.Base(
    primary_hue=_CLAY,
    secondary_hue=_GREY,
    neutral_hue=_GREY,
    radius_size=gr.themes.sizes.radius_lg,
    font=("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"),
    font_mono=("ui-monospace", "Consolas", "monospace"),
).set(
    body_background_fill="*neutral_100",
    body_background_fill_dark="*neutral_950",
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_400",
    block_background_fill="white",
    block_background_fill_dark="*neutral_900",
    block_border_width="1px",
    block_border_color="*neutral_200",
    block_border_color_dark="*neutral_800",
    block_shadow="none",
    block_label_border_width="0px",
    block_label_text_color="*neutral_600",
    block_label_text_color_dark="*neutral_400",
    block_title_text_color="*neutral_600",
    block_title_text_color_dark="*neutral_400",
    block_title_text_weight="500",
    input_background_fill="*neutral_50",
    input_background_fill_dark="*neutral_950",
    input_border_color="*neutral_200",
    input_border_color_dark="*neutral_700",
    input_border_color_focus="*primary_400",
    input_placeholder_color="*neutral_500",
    input_placeholder_color_dark="*neutral_500",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_dark="*primary_600",
    button_primary_background_fill_hover_dark="*primary_500",
    button_primary_text_color="white",
    button_secondary_background_fill="*neutral_200",
    button_secondary_background_fill_hover="*neutral_300",
    button_secondary_background_fill_dark="*neutral_800",
    button_secondary_background_fill_hover_dark="*neutral_700",
    button_cancel_background_fill="#b3261e",
    button_cancel_background_fill_hover="#8c1d18",
    button_cancel_background_fill_dark="#b3261e",
    button_cancel_background_fill_hover_dark="#8c1d18",
    button_cancel_text_color="white",
    button_cancel_text_color_hover="white",
    button_cancel_text_color_dark="white",
    button_transform_hover="none",
    button_large_text_weight="500",
    button_small_text_weight="400",
    checkbox_label_text_weight="400",
)

HEAD = """
<meta name="robots" content="noindex">
<script>
document.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    document.querySelector('#generate')?.click();
  }
});
document.addEventListener('click', (event) => {
  if (event.target.closest('[data-image]')) history.pushState(null, '');
});
window.addEventListener('popstate', () => document.querySelector('#gallery-back')?.click());
document.addEventListener('focusin', (event) => {
  if (event.target.closest('.number')) event.target.inputMode = 'decimal';
});
</script>
"""
"""Ctrl+Enter generates from anywhere on the page. The browser's Back leaves a picture that was opened. On a phone,
numbers are typed on the keys for numbers."""
