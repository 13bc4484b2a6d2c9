"""The words of A1111's infotext that both its writer and its reader need."""

from collections.abc import Mapping

KEY = "parameters"
OURS = "Open Weights Studio"
"""The program whose pictures carry our own record."""
NEGATIVE = "Negative prompt:"

TEMPLATE_KEYS: Mapping[str, str] = {
    "prompt": "Template",
    "negative_prompt": "Negative template",
    "hires_prompt": "Hires template",
    "hires_negative_prompt": "Hires negative template",
}
"""Our texts -> the keys of what they were made from."""

EXTRAS = ("postprocessing", "extras")
"""The text fields where A1111's Extras tab says what it did to a finished picture."""

ENLARGED = (
    *("Postprocess upscale by", "Postprocess upscale to", "Postprocess max side length", "Postprocess crop to"),
    *("Postprocess upscaler", "Postprocess upscaler 2"),
)
"""A1111's keys of a picture that was made larger without painting."""

_NOT_IN_HASHES = str.maketrans("", "", ":,")


def name_in_hashes(name: str) -> str:
    """Return the name of a LoRA or an embedding as A1111 writes it beside its hash."""
    return name.translate(_NOT_IN_HASHES)
