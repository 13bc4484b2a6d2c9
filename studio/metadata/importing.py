"""From what another program's picture says to a request of ours, with a note on everything that was said.

Nothing is replaced in silence: a sampler, model or LoRA that is not here is missing, and the field stays empty.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.spec.characters import whole
from pipelines.spec.errors import InvalidRequest, NotFound
from pipelines.spec.families.sd1 import SD1
from pipelines.spec.lora_tags import LORA_KINDS
from pipelines.spec.model import Model
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import check_prompts, resolve
from pipelines.spec.templates import as_it_stands
from studio.metadata import a1111, comfyui, fooocus, invokeai, native, novelai, swarmui, weights
from studio.metadata.a1111_keys import ENLARGED, EXTRAS, KEY, OURS, name_in_hashes
from studio.metadata.a1111_writing import write_extras
from studio.metadata.finding import (
    FindLora,
    FindModel,
    FindUpscaler,
    Lacking,
    Note,
    Outcome,
    Reading,
    embedding_notes,
    lora_verdict,
)
from studio.metadata.foreign import Foreign, Lora, stem
from studio.metadata.meanings import MEANINGS, NOT_HERE, OWN_VAE, SAYS_NOTHING, Meaning
from studio.metadata.ours import asked_here, files_here
from studio.metadata.readers import OTHER_NOISE, Source
from studio.metadata.record import Record
from studio.metadata.tags import TAG, read_tag

FORMATS = (invokeai, fooocus, novelai, swarmui, a1111, comfyui)
"""Tried in order. ComfyUI is last: where one of its nodes wrote A1111's text too, that tells more."""

_BEYOND_THE_END = re.compile(r":\s{0,9}[1-9][0-9]{0,9}\.[0-9]{0,9}\s{0,9}\]")
"""The end of `[from:to:1.5]`: since A1111 1.6 a fraction, in the hires pass; before, and in SD.Next, a step."""

_ENLARGING = ("init_image", "strength", "width", "height", "resize_mode", "upscaler", "output_format")
"""Fields that matter where nothing is painted."""

_NOTHING = frozenset({"", "None", "False"})
_MAX_NOTES = 200

_OTHER_SIDES = {"seed_resize_width": "seed_resize_height", "seed_resize_height": "seed_resize_width"}
"""Without the first there is no use for the second."""

_ANY_MODEL = Model("", Path(), SD1, 512, 512, 4, text_encoder_layers=12, text_encoder_widths=(768,), defaults={})
"""Refuses what every model refuses."""


@dataclass(frozen=True)
class Imported:
    """A picture as a request. `request_fields` are valid for `GenerationRequest.parse`."""

    program: str
    request_fields: dict[str, Any]
    notes: tuple[Note, ...]

    @property
    def is_ours(self) -> bool:
        """Whether the picture was made here, so that its record is complete."""
        return self.program == OURS


def read_foreign(texts: Mapping[str, str]) -> Foreign | None:
    """Return what the first program that knows these texts says, or None."""
    return next(filter(None, (format_.read(texts) for format_ in FORMATS)), None)


def nothing_installed(name: str, digest: str) -> None:
    """Find no model and no LoRA: for who only wants to read."""


def import_request(
    said: Mapping[str, str] | Record,
    *,
    find_model: FindModel = nothing_installed,
    find_lora: FindLora = nothing_installed,
    find_embedding: FindModel = nothing_installed,
    find_upscaler: FindUpscaler = lambda name: None,
) -> Imported:
    """Turn the texts of a picture, ours or another program's, into the fields of a request.

    A LoRA of ours that is not here stays in the request, which is refused then: a record is whole. One of another
    program is left out.

    Args:
        said: the texts as `read_texts` returns them, or what our own record holds.
        find_model: (name, hash) -> name of an installed model, or None.
        find_lora: the same for LoRAs, the hash first: files get other names.
        find_embedding: the same for embeddings (textual inversion).
        find_upscaler: name -> name of an installed upscaler, or None.

    Raises:
        NotFound: no program that we know wrote these texts.
    """
    record, texts = (said, {}) if isinstance(said, Record) else (_record(said, native.KEY), said)
    if record is not None:
        asked = asked_here(record, find_model=find_model, find_lora=find_lora).model_dump(exclude_defaults=True)
        files = files_here(record, find_model=find_model, find_lora=find_lora, find_embedding=find_embedding)
        return Imported(OURS, asked, (*files, *_own_enlarging(texts)))
    if (larger := _only_enlarged(texts)) is not None:
        return Imported(OURS, larger.model_dump(exclude_defaults=True, include=set(_ENLARGING)), ())
    foreign = read_foreign(_with_extras(texts))
    if foreign is None:
        there = f"there is only {', '.join(texts)}" if texts else "it carries no metadata"
        raise NotFound(f"no settings of a picture can be read here: {there}")
    fields: dict[str, Any] = {}
    notes: list[Note] = []
    prompts, loras = _prompts(foreign)
    for field, prompt in prompts.items():
        notes += _apply_prompt(field, prompt, foreign, fields)
        if _BEYOND_THE_END.search(prompt) and _has_old_fractions(foreign):
            why = "in SD.Next, and before A1111 1.6, [a:b:1.5] switches at a step"
            notes.append(Note(field, prompt, Outcome.APPROXIMATED, why))
    if foreign.format != "a1111" and any("#" in prompt for prompt in prompts.values()):
        fields["prompt_comments"] = False
    for meaning in MEANINGS:
        notes += _apply(meaning, Source(foreign, find_model, find_upscaler), fields)
    notes += _other_tags(foreign, fields)
    notes += _loras(loras[:_MAX_NOTES], find_lora, fields)
    notes += embedding_notes(_embedding_hashes(foreign), find_embedding)
    notes += _input(foreign, fields)
    notes = _without_refused(fields, notes)
    notes += _styles(foreign)
    notes += _enlarged(foreign)
    sizes = {f"{key}-{side}" for key in ENLARGED for side in (1, 2)}
    known = {meaning.key(foreign) for meaning in MEANINGS} | SAYS_NOTHING | sizes
    notes += _unknown({key: value for key, value in foreign.pairs.items() if key not in known})
    told = (Note(whole(note.field), whole(note.value), note.outcome, whole(note.why)) for note in notes[:_MAX_NOTES])
    return Imported(whole(foreign.program), as_it_stands(fields), tuple(told))


def _unknown(pairs: Mapping[str, str]) -> Iterator[Note]:
    """Say of what cannot be asked here that it is left out."""
    for key, value in pairs.items():
        if key in NOT_HERE and value in OWN_VAE:
            yield Note(key, value, Outcome.USED, "the model's own VAE decodes pictures here too")
        elif value not in _NOTHING and not (key == "VAE hash" and "VAE" in pairs):
            yield Note(key, value, Outcome.IGNORED, NOT_HERE.get(key, "there is nothing like it here"))


def _record(texts: Mapping[str, str], key: str) -> Record | None:
    try:
        return native.read(texts[key]) if key in texts else None
    except ValueError:  # something else may be in the picture
        return None


def _own_enlarging(texts: Mapping[str, str]) -> Iterator[Note]:
    """Say what was done to a picture of ours when it was finished."""
    extras = a1111.read(_with_extras({key: text for key, text in texts.items() if key != KEY}))
    return iter(()) if extras is None else _enlarged(extras)


def _only_enlarged(texts: Mapping[str, str]) -> GenerationRequest | None:
    """Return how a picture that no program painted was made larger here, if that is all that is said."""
    record = _record(texts, native.ENLARGED)
    is_all = record is not None and read_foreign({key: texts[key] for key in texts.keys() - set(EXTRAS)}) is None
    return record.request.asked() if record is not None and is_all else None


def _with_extras(texts: Mapping[str, str]) -> Mapping[str, str]:
    """Add what A1111's Extras tab would say of a picture that was made larger here: EXIF has no room for it."""
    try:
        return {EXTRAS[0]: write_extras(native.read(texts[native.ENLARGED]).request), **texts}
    except (KeyError, ValueError):
        return texts


def _prompts(foreign: Foreign) -> tuple[dict[str, str], list[Lora]]:
    """Return the prompts without tags of extra networks, and the LoRAs of tags, fields and hashes."""
    pairs = foreign.pairs
    digests = a1111.hashes(pairs, "Lora hashes")
    for name, digest in a1111.hashes(pairs, "Hashes").items():
        if name.startswith("lora:"):
            digests.setdefault(name.removeprefix("lora:"), digest)
    loras = list(foreign.loras)
    if foreign.format == "comfyui":  # its core takes tags for words
        return {"prompt": foreign.prompt, "negative_prompt": foreign.negative_prompt}, loras
    for kind, arguments in TAG.findall(foreign.prompt):
        if kind in LORA_KINDS:
            lora = read_tag(arguments)
            loras.append(replace(lora, hash=digests.pop(name_in_hashes(lora.name), "")))
    loras += [Lora(name, 1.0, digest) for name, digest in digests.items()]
    return {"prompt": TAG.sub("", foreign.prompt).strip(), "negative_prompt": foreign.negative_prompt}, loras


def _other_tags(foreign: Foreign, fields: dict[str, Any]) -> Iterator[Note]:
    """Say which tags are left out: those that load no LoRA, and those anywhere but in the prompt, which go too."""
    if foreign.format == "comfyui":
        return
    for kind, arguments in TAG.findall(foreign.prompt):
        if kind not in LORA_KINDS:
            yield Note("prompt", f"<{kind}:{arguments}>", Outcome.MISSING, f"there is no {kind} here, only lora")
    for field in ("negative_prompt", "hires_prompt", "hires_negative_prompt"):
        text = fields.get(field, "")
        for tag in TAG.finditer(text):
            yield Note(field, tag[0], Outcome.IGNORED, "tags count in the prompt only, for both passes")
            fields[field] = TAG.sub("", text).strip()


def _has_old_fractions(foreign: Foreign) -> bool:
    version = re.match(r"v?([0-9]{1,4})\.([0-9]{1,4})", foreign.pairs.get("Version", "v0.0"))
    is_old = version is not None and (int(version[1]), int(version[2])) < (1, 6)
    return foreign.program == "SD.Next" or (foreign.program == "A1111" and is_old)


def _apply_prompt(field: str, prompt: str, foreign: Foreign, fields: dict[str, Any]) -> Iterator[Note]:
    """Set a prompt, in our syntax, and say what of it the file does not hold."""
    doubt = foreign.doubts.get(field, "")
    if doubt and not prompt:
        yield Note(field, prompt, Outcome.MISSING, doubt)
        return
    reading = weights.reading(prompt, foreign)
    if doubt:
        why = "; ".join(filter(None, (doubt, reading.why)))
        reading = Reading(reading.value, Outcome.APPROXIMATED, why)
    note = _set(fields, field, reading, said=prompt)
    if prompt:
        yield note


def _apply(meaning: Meaning, source: Source, fields: dict[str, Any]) -> Iterator[Note]:
    """Set one field from its key. What a program means by default is noted only where it makes a difference."""
    foreign, key = source.foreign, meaning.key(source.foreign)
    text = foreign.get(key)
    if not key or not text:
        return
    stated = key in foreign.pairs
    try:
        reading = meaning.read(text, source)
    except Lacking as error:
        yield Note(meaning.field, text, Outcome.MISSING, str(error))
        return
    except ValueError as error:
        yield Note(meaning.field, text, Outcome.IGNORED, f"{key} {error}")
        return
    if reading is None:
        return
    note = _set(fields, meaning.field, reading, said=text)
    if stated or note.outcome in {Outcome.APPROXIMATED, Outcome.MISSING}:
        yield note


def _set(fields: dict[str, Any], field: str, reading: Reading, *, said: str) -> Note:
    """Put a value into the request if requests have that field and the value is within its bounds."""
    if field not in GenerationRequest.model_fields:
        if field == "noise_source":  # until it can be chosen, all our noise is drawn on the CPU
            if reading.value == "cpu":
                return Note(field, said, Outcome.USED, "noise is drawn on the CPU here too")
            return Note(field, said, Outcome.APPROXIMATED, f"noise is drawn on the CPU here; {OTHER_NOISE}")
        return Note(field, said, Outcome.IGNORED, f"requests have no {field} yet")
    try:
        GenerationRequest.parse({field: reading.value})
    except InvalidRequest as error:
        return Note(field, said, Outcome.IGNORED, str(error))
    fields[field] = reading.value
    written_alike = str(reading.value) == said or not isinstance(reading.value, str)
    return Note(field, said, reading.outcome, reading.why or ("as it is" if written_alike else f"as {reading.value}"))


def _without_refused(fields: dict[str, Any], notes: list[Note]) -> list[Note]:
    """Take out what any model would refuse the request for, and return the notes that say so."""
    missing = {note.field for note in notes if note.outcome is Outcome.MISSING}
    images: dict[str, Any] = {field: "0" * 64 for field in ("init_image", "mask_image") if field in missing}
    size = (fields.get("width", _ANY_MODEL.native_width), fields.get("height", _ANY_MODEL.native_height))
    for _ in range(len(fields)):
        try:
            request = GenerationRequest.parse({**fields, **images})
            check_prompts(resolve(request, _ANY_MODEL, input_size=size if images else None)[0])
        except InvalidRequest as error:
            field = error.field if error.field in fields else _OTHER_SIDES.get(str(error.field))
            if field not in fields:  # what a default comes to
                return [*notes, Note(error.field or "", "", Outcome.MISSING, str(error))]
            said = next((note.value for note in notes if note.field == field), str(fields[field]))
            others = [note for note in notes if note.field != field]
            notes = [*others, Note(field, said, Outcome.IGNORED, str(error))]
            del fields[field]
        else:
            break
    return notes


def _loras(loras: list[Lora], find_lora: FindLora, fields: dict[str, Any]) -> Iterator[Note]:
    chosen: dict[str, dict[str, Any]] = {}
    for lora in loras:
        found = find_lora(lora.name, lora.hash)
        te = "" if lora.text_encoder_weight is None else f"{lora.text_encoder_weight:g} "
        said = f"{lora.name} {te}{lora.weight:g}"
        outcome, why = lora_verdict(lora.name, lora.hash, found)
        if found is None:
            yield Note("loras", said, outcome, why)
            continue
        if found.name in chosen:
            yield Note("loras", said, Outcome.IGNORED, f"the LoRA {found.name} is there already")
            continue
        if lora.unlike:
            outcome, why = Outcome.APPROXIMATED, ", ".join(filter(None, (why, lora.unlike)))
        entry = {"name": found.name, "weight": lora.weight, **lora.more}
        if lora.text_encoder_weight is not None:
            entry["text_encoder_weight"] = lora.text_encoder_weight
        note = _set(fields, "loras", Reading([*chosen.values(), entry], outcome, why), said=said)
        if note.outcome is not Outcome.IGNORED:
            chosen[found.name] = entry
        yield note


def _embedding_hashes(foreign: Foreign) -> dict[str, str]:
    digests = a1111.hashes(foreign.pairs, "TI hashes")
    for name, digest in a1111.hashes(foreign.pairs, "Hashes").items():
        if name.startswith("embed:"):
            digests.setdefault(name.removeprefix("embed:"), digest)
    if foreign.format in {"comfyui", "swarmui"}:
        named = weights.EMBEDDING.findall(f"{foreign.prompt}\n{foreign.negative_prompt}")
        digests |= dict.fromkeys(map(stem, named), "")
    return digests


def _styles(foreign: Foreign) -> Iterator[Note]:
    """Say that styles are in the prompts already: to name them again would apply them twice."""
    if foreign.format == "a1111" and (names := foreign.pairs.get("Styles")) is not None and names not in _NOTHING:
        yield Note("styles", names, Outcome.USED, "the prompts hold what these styles add")


def _enlarged(foreign: Foreign) -> Iterator[Note]:
    """Say what was done to the finished picture in A1111's Extras tab, or here with strength 0."""
    for key in ENLARGED:
        size = "x".join(foreign.pairs.get(f"{key}-{side}", "") for side in (1, 2))
        value = foreign.pairs.get(key) or (size if size != "x" else "")
        if value:
            why = "it was made larger when it was finished; make it, then enlarge it (`studio upscale`)"
            yield Note(key, value, Outcome.IGNORED, why)


def _input(foreign: Foreign, fields: dict[str, Any]) -> Iterator[Note]:
    """Say that the input of an image-to-image picture is needed: the file does not hold it."""
    masks = {"Mask blur", "Mask mode", "Inpaint area", "Masked content"} & foreign.pairs.keys()
    if "strength" in fields or masks:
        given = foreign.get("image", foreign.get("Init image hash"))
        yield Note("init_image", given, Outcome.MISSING, "made from another picture, which is not in the file; give it")
    if masks:
        has_grown = any(key.startswith("Outpaint ") for key in foreign.pairs)
        made = "if it was made with a mask of its own, that" if has_grown else "made with a mask, which"
        yield Note("mask_image", "", Outcome.MISSING, f"{made} is not in the file; give it")
