"""Which LoRAs a picture gets: those of the request's field and of its own prompt's tags, found and checked.

Each picture of a batch may have others. Tags leave the prompt, so what is resolved asks for every LoRA exactly once.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from pydantic import ValidationError

from pipelines.spec.errors import InvalidRequest, ModelError, NotFound
from pipelines.spec.fields import explained
from pipelines.spec.lora_tags import LORA_KINDS, lora_fields
from pipelines.spec.loras import LoraSpec, ResolvedLora
from pipelines.spec.model import Model
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.schedulers import SCHEDULERS
from pipelines.spec.values import MAX_LORAS


class KnownLora(Protocol):
    """A LoRA that can be applied."""

    @property
    def name(self) -> str:
        """The one name by which records and metadata know it."""

    @property
    def sha256(self) -> str:
        """Of its tensors, as in ResolvedLora; reads the file the first time."""

    def check_fits(self, model: Model) -> None:
        """Check that it is made for such a model, as far as its header tells.

        Raises:
            ModelError: naming both sides.
        """


FindLora = Callable[[str], KnownLora]
"""Name or alias -> LoRA. Raises NotFound with the names that are near, or ModelError where the file cannot be used."""


def choose_loras(
    request: ResolvedRequest,
    asked: Sequence[LoraSpec],
    *,
    model: Model,
    find: FindLora,
    hires_model: Model | None = None,
) -> ResolvedRequest:
    """Return the request with its LoRAs, and without tags in its prompt.

    Those of the field come first, then those of tags in the order of the prompt. One whose weights are all 0 changes
    nothing and is left out.

    Args:
        request: resolved, but for its LoRAs; its prompt is final.
        asked: the LoRAs of the field.
        model: what they are applied to.
        find: knows the LoRAs there are.
        hires_model: the model of the second pass where that is another; the LoRAs are applied to it too.

    Raises:
        InvalidRequest: a LoRA that is not there, does not fit or is asked for twice; a tag that means nothing.
    """
    for field in ("negative_prompt", "hires_prompt", "hires_negative_prompt"):
        _refuse_tags(field, getattr(request, field) or "", comments=request.prompt_comments)
    prompt, tagged = _tags(request.prompt, comments=request.prompt_comments)
    hires_model = hires_model if request.hires_model else None
    if not asked and not tagged:
        return request
    chosen: dict[str, ResolvedLora] = {}
    for field, specs in (("loras", asked), ("prompt", tagged)):
        for spec in specs:
            _check_range(spec, field, request.scheduler)
            lora = _resolved(spec, field, model=model, hires_model=hires_model, find=find)
            if lora.name in chosen:
                raise InvalidRequest(f"{field} names the LoRA {lora.name} again; say once how it is meant", field=field)
            chosen[lora.name] = lora
    applied = tuple(lora for lora in chosen.values() if lora.weight or lora.text_encoder_weight)
    if len(applied) > MAX_LORAS:
        raise InvalidRequest(f"{len(applied)} LoRAs are asked for, and {MAX_LORAS} is the most; leave some out")
    return request.model_copy(update={"prompt": prompt, "loras": applied})


def tagged_loras(prompt: str, *, comments: bool = True) -> list[str]:
    """Return the names of the LoRAs that a prompt's own tags apply; `comments` as in `parse`.

    Raises:
        InvalidRequest: a tag means nothing.
    """
    return [spec.name for spec in _tags(prompt, comments=comments)[1] if spec.weight or spec.text_encoder_weight]


def _refuse_tags(field: str, text: str, *, comments: bool) -> None:
    """Refuse tags anywhere but in the prompt: what they name acts on the whole picture, in both of its passes."""
    if "<" not in text:
        return
    from pipelines.spec.prompt import parse  # a sixth of a second, and most prompts have no such sign

    for tag in parse(text, comments=comments, composable=False).extra_networks:
        shown = f"<{tag.kind}:{tag.name}>"
        way_out = "take the tag out"
        if tag.kind in LORA_KINDS:
            way_out = "give a negative weight in the prompt instead" if field == "negative_prompt" else "put it there"
        raise InvalidRequest(
            f"{field} names {shown}, which acts on the whole picture and so stands in the prompt only; {way_out}",
            field=field,
        )


def _tags(prompt: str, *, comments: bool) -> tuple[str, list[LoraSpec]]:
    """Return the prompt without its tags (and, if it has any, without its comments), and the LoRAs they name."""
    if "<" not in prompt:
        return prompt, []
    from pipelines.spec.prompt import parse, without_tags

    tags = parse(prompt, comments=comments).extra_networks
    if not tags:
        return prompt, []
    specs = []
    for tag in tags:
        shown = ":".join([tag.name, *tag.positional, *(f"{key}={value}" for key, value in tag.named.items())])
        shown = f"<{tag.kind}:{shown:.100}>"
        if tag.kind not in LORA_KINDS:
            raise InvalidRequest(
                f"prompt names {shown}, and {tag.kind} is not supported; only <lora:…> is: take the tag out",
                field="prompt",
            )
        try:
            specs.append(LoraSpec(**lora_fields(tag.name, tag.positional, tag.named)))
        except ValidationError as error:
            reason = explained(error, LoraSpec, other_names={})
            raise InvalidRequest(f"prompt names {shown}: {reason}", field="prompt") from error
        except ValueError as error:
            raise InvalidRequest(f"prompt names {shown}: {error}", field="prompt") from error
    return without_tags(prompt, comments=comments).strip(), specs


def _check_range(spec: LoraSpec, field: str, scheduler: str) -> None:
    range_ = f"{field} names the LoRA {spec.name} from {spec.start:g} to {spec.end:g} of the steps"
    if spec.start >= spec.end:
        raise InvalidRequest(f"{range_}; start must be below end", field=field)
    if (spec.start, spec.end) != (0, 1) and SCHEDULERS[scheduler].steps(10) is None:
        raise InvalidRequest(
            f"{range_}, and scheduler {scheduler} has no fixed number of them; choose another scheduler", field=field
        )


def _resolved(spec: LoraSpec, field: str, *, model: Model, hires_model: Model | None, find: FindLora) -> ResolvedLora:
    try:
        lora = find(spec.name)
        lora.check_fits(model)
        digest = lora.sha256
    except (NotFound, ModelError) as error:
        raise InvalidRequest(str(error), field=field) from error
    if hires_model is not None and (spec.weight or spec.text_encoder_weight):
        try:
            lora.check_fits(hires_model)
        except ModelError as error:
            raise InvalidRequest(
                f"hires_model {hires_model.name} gets the picture's LoRAs too: {error}", field="hires_model"
            ) from error
    return ResolvedLora(
        name=lora.name,
        sha256=digest,
        weight=spec.weight,
        text_encoder_weight=spec.weight if spec.text_encoder_weight is None else spec.text_encoder_weight,
        block_weights=dict(spec.block_weights),
        start=spec.start,
        end=spec.end,
    )
