"""The texts of a request written out: styles first, then templates. What was typed stays beside what it became.

Knows no folders: styles and word lists come from the caller, which reads them only if they are needed.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pipelines.spec.errors import InvalidRequest, StudioError
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.templates import TEMPLATES, is_template
from pipelines.spec.values import MAX_PROMPT_CHARACTERS
from studio.styles import Styles

if TYPE_CHECKING:
    from studio.prompts import Templates

Expand = Callable[[GenerationRequest], tuple[ResolvedRequest, ...]]

_NEGATIVE = {"prompt": "negative_prompt", "hires_prompt": "hires_negative_prompt"}


def write_out(
    pictures: tuple[ResolvedRequest, ...], *, styles: Callable[[], Styles], templates: Callable[[], "Templates"]
) -> tuple[ResolvedRequest, ...]:
    """Return the pictures of a request with their prompts as they will run.

    A text whose template is given is a text of a record and stands. To any other its styles are applied; then it is
    expanded with the seed of its picture, or its variation seed where there is one.

    Raises:
        InvalidRequest: a style or a word list is unknown or cannot be read; a text cannot be expanded, or grows too
            long.
    """
    first = pictures[0]
    typed = {
        field: str(getattr(first, field))
        for field, note in TEMPLATES.items()
        if getattr(first, note) is None and getattr(first, field) is not None
    }
    if not typed:
        return pictures
    texts = _styled(typed, first, styles()) if first.styles else typed
    open_ones = {field: text for field, text in texts.items() if is_template(text)}
    notes = {TEMPLATES[field]: text for field, text in typed.items() if first.styles or field in open_ones}
    seeds = [one.seed if one.variation_seed is None else one.variation_seed for one in pictures]
    expanded = templates().expand_all(open_ones, seeds=seeds) if open_ones else [{} for _ in seeds]
    return tuple(
        one.model_copy(update={**notes, **_said({**texts, **of_its_own})})
        for one, of_its_own in zip(pictures, expanded, strict=True)
    )


def _styled(typed: Mapping[str, str], first: ResolvedRequest, styles: Styles) -> dict[str, str]:
    """Apply the styles to the prompts of both passes, as A1111 does; a second pass without its own has the first's.

    Each pair is styled as one, and what stands already, or is not there, stays so.
    """
    texts = dict(typed)
    for field, negative in _NEGATIVE.items():
        prompt, negative_prompt = styles.apply(
            first.styles, prompt=typed.get(field, ""), negative_prompt=typed.get(negative, "")
        )
        texts |= {name: text for name, text in ((field, prompt), (negative, negative_prompt)) if name in typed}
    for field, text in texts.items():
        if len(text) > MAX_PROMPT_CHARACTERS:
            raise InvalidRequest(
                f"{field} grows to {len(text)} characters with styles {', '.join(first.styles)}, and "
                f"{MAX_PROMPT_CHARACTERS} is the most; shorten it or leave a style out",
                field=field,
            )
    return texts


def _said(texts: Mapping[str, str]) -> dict[str, str | None]:
    """Return the texts as a record says them: an empty one of the second pass means the first pass's."""
    return {field: text or None if field.startswith("hires_") else text for field, text in texts.items()}


def as_typed(request: GenerationRequest, expand: Expand) -> GenerationRequest:
    """Return the request of a styled picture as it was typed, if that makes the same picture still.

    Otherwise (a style or a word list has changed) its prompts stand as they ran, and name no styles: they hold them.

    Args:
        request: which makes a picture again; one without styles is returned as it is.
        expand: returns the pictures that a request becomes.
    """
    if not request.styles:
        return request
    kept = {field: note for field, note in TEMPLATES.items() if getattr(request, note) is not None}
    typed = request.model_copy(
        update={field: getattr(request, note) for field, note in kept.items()} | dict.fromkeys(kept.values())
    )
    try:
        (made,) = expand(typed)
    except StudioError:
        made = None
    if made is not None and all(getattr(made, field) == getattr(request, field) for field in TEMPLATES):
        return typed
    return request.model_copy(update={"styles": ()})
