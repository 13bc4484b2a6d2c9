"""From what another program's picture says to a request of ours, with a note on everything that was said.

Nothing is replaced in silence: a sampler, model or LoRA that is not here is missing, and the field stays empty.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipelines.spec.errors import InvalidRequest, NotFound
from pipelines.spec.lora_tags import write_lora
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolved import ResolvedRequest
from pipelines.spec.templates import as_it_stands
from studio.metadata import a1111, comfyui, fooocus, invokeai, native, novelai, swarmui
from studio.metadata.foreign import Foreign, Lora
from studio.metadata.meanings import (
    MEANINGS,
    OTHER_NOISE,
    SAYS_NOTHING,
    FindLora,
    FindModel,
    FoundLora,
    Lacking,
    Meaning,
    Outcome,
    Reading,
    Source,
)
from studio.metadata.ours import asked_here
from studio.metadata.tags import LORA_KINDS, TAG, read_tag

FORMATS = (invokeai, fooocus, novelai, swarmui, a1111, comfyui)
"""Tried in order. ComfyUI is last: where one of its nodes wrote A1111's text too, that tells more."""

_BEYOND_THE_END = re.compile(r":\s{0,9}[1-9][0-9]{0,9}\.[0-9]{0,9}\s{0,9}\]")
"""The end of `[from:to:1.5]`: since A1111 1.6 a fraction, which means the hires pass; before that, a step."""

OURS = "Open Weights Studio"
"""The program whose pictures carry our own record."""

_NOTHING = frozenset({"", "None", "False"})
_MAX_NOTES = 200


@dataclass(frozen=True)
class Note:
    """What became of one thing that the picture says; `field` is ours, or the program's own key if we have none."""

    field: str
    value: str
    outcome: Outcome
    why: str


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
    said: Mapping[str, str] | ResolvedRequest,
    *,
    find_model: FindModel = nothing_installed,
    find_lora: FindLora = nothing_installed,
    find_embedding: FindModel = nothing_installed,
) -> Imported:
    """Turn the texts of a picture, ours or another program's, into the fields of a request.

    A LoRA of ours that is not here stays in the request, which is refused then: a record is whole. One of another
    program is left out.

    Args:
        said: the texts as `read_texts` returns them, or what our own record holds.
        find_model: (name, hash) -> name of an installed model, or None.
        find_lora: the same for LoRAs, the hash first: files get other names.
        find_embedding: the same for embeddings (textual inversion).

    Raises:
        NotFound: no program that we know wrote these texts.
    """
    ours, texts = (said, {}) if isinstance(said, ResolvedRequest) else (_ours(said), said)
    if ours is not None:
        asked = asked_here(ours, find_lora).model_dump(exclude_defaults=True)
        told = (*_models(ours, find_model), *_own_loras(ours, find_lora), *_own_embeddings(ours, find_embedding))
        return Imported(OURS, asked, told)
    foreign = read_foreign(texts)
    if foreign is None:
        raise NotFound(f"no settings of a picture can be read here; there is {', '.join(texts) or 'nothing'}")
    fields: dict[str, Any] = {}
    notes: list[Note] = []
    prompts, loras = _prompts(foreign)
    for field, prompt in prompts.items():
        note = _set(fields, field, Reading(prompt), said=prompt)
        notes += [note] if prompt else []
        if _BEYOND_THE_END.search(prompt) and _is_before_1_6(foreign):
            notes.append(Note(field, prompt, Outcome.APPROXIMATED, "before A1111 1.6, [a:b:1.5] switched at a step"))
    for meaning in MEANINGS:
        notes += _apply(meaning, Source(foreign, find_model), fields)
    notes += _other_tags(foreign, fields)
    notes += _loras(loras, find_lora, fields)
    notes += _embeddings(_embedding_hashes(foreign), find_embedding)
    notes += _input(foreign, fields)
    notes += _styles(foreign)
    notes += _enlarged(foreign, fields)
    sizes = {f"{key}-{side}" for key in a1111.ENLARGED for side in (1, 2)}
    known = {meaning.key(foreign) for meaning in MEANINGS} | SAYS_NOTHING | sizes
    for key, value in foreign.pairs.items():
        if key not in known and value not in _NOTHING:
            notes.append(Note(key, value, Outcome.IGNORED, "there is nothing like it here"))
    return Imported(foreign.program, as_it_stands(fields), tuple(notes[:_MAX_NOTES]))


def _ours(texts: Mapping[str, str]) -> ResolvedRequest | None:
    try:
        return native.read(texts[native.KEY]).request if native.KEY in texts else None
    except ValueError:  # something else may be in the picture
        return None


def _models(ours: ResolvedRequest, find_model: FindModel) -> Iterator[Note]:
    """Say which models are gone."""
    for field, name in (("model", ours.model), ("hires_model", ours.hires_model)):
        if name is not None and find_model(name, "") is None:
            yield Note(field, name, Outcome.MISSING, f"no model {name!r} is installed")


def _own_loras(ours: ResolvedRequest, find_lora: FindLora) -> Iterator[Note]:
    for lora in ours.loras:
        outcome, why = _verdict(lora.name, lora.sha256, find_lora(lora.name, lora.sha256))
        yield Note("loras", write_lora(lora), outcome, why or "as it is")


def _own_embeddings(ours: ResolvedRequest, find_embedding: FindModel) -> Iterator[Note]:
    """Say which embeddings are here; those that LoRAs bring are there with them."""
    brought = {lora.sha256 for lora in ours.loras}
    digests = {name: digest for name, digest in ours.embeddings.items() if digest not in brought}
    return _embeddings(digests, find_embedding)


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
            loras.append(replace(lora, hash=digests.pop(a1111.name_in_hashes(lora.name), "")))
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


def _is_before_1_6(foreign: Foreign) -> bool:
    version = re.match(r"v?([0-9]{1,4})\.([0-9]{1,4})", foreign.pairs.get("Version", "v0.0"))
    return foreign.program == "A1111" and version is not None and (int(version[1]), int(version[2])) < (1, 6)


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


def _loras(loras: list[Lora], find_lora: FindLora, fields: dict[str, Any]) -> Iterator[Note]:
    chosen: dict[str, dict[str, Any]] = {}
    for lora in loras:
        found = find_lora(lora.name, lora.hash)
        te = "" if lora.text_encoder_weight is None else f"{lora.text_encoder_weight:g} "
        said = f"{lora.name} {te}{lora.weight:g}"
        outcome, why = _verdict(lora.name, lora.hash, found)
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


def _verdict(name: str, digest: str, found: FoundLora | None) -> tuple[Outcome, str]:
    """Return what becomes of a LoRA of a name and a hash, and why; as it is, there is nothing to say."""
    shown = f" [{digest[:12]}]" if digest else ""
    if found is None:
        return Outcome.MISSING, f"no LoRA {name!r}{shown} is installed"
    if not found.is_exact:
        return (
            Outcome.APPROXIMATED,
            f"{found.name} is another file: its hash is not{shown}, and the picture will differ",
        )
    return Outcome.USED, "" if found.name == name else f"found as {found.name}"


def _embedding_hashes(foreign: Foreign) -> dict[str, str]:
    digests = a1111.hashes(foreign.pairs, "TI hashes")
    for name, digest in a1111.hashes(foreign.pairs, "Hashes").items():
        if name.startswith("embed:"):
            digests.setdefault(name.removeprefix("embed:"), digest)
    return digests


def _embeddings(digests: Mapping[str, str], find_embedding: FindModel) -> Iterator[Note]:
    """Say which embeddings of the prompt are here: a name in a prompt is one only if a file has it."""
    for name, digest in digests.items():
        found = find_embedding(name, digest)
        if found is None:
            why = f"no embedding with this hash is installed: {name} is read as words, or as another of that name"
            yield Note("prompt", f"{name} [{digest[:12]}]", Outcome.MISSING, why)
        elif _in_hashes(found) == _in_hashes(name):
            yield Note("prompt", f"{name} [{digest[:12]}]", Outcome.USED, "the same embedding is installed")
        else:
            why = f"it is installed as {found}: write that into the prompt instead of {name}"
            yield Note("prompt", f"{name} [{digest[:12]}]", Outcome.MISSING, why)


def _in_hashes(name: str) -> str:
    return name.translate(a1111.NOT_IN_HASHES).lower()


def _styles(foreign: Foreign) -> Iterator[Note]:
    """Say that styles are in the prompts already: to name them again would apply them twice."""
    if foreign.format == "a1111" and (names := foreign.pairs.get("Styles")) is not None and names not in _NOTHING:
        yield Note("styles", names, Outcome.USED, "the prompts hold what these styles add")


def _enlarged(foreign: Foreign, fields: Mapping[str, Any]) -> Iterator[Note]:
    """Say what was done to the finished picture in A1111's Extras tab, or here with strength 0."""
    paints_nothing = fields.get("strength") == 0
    for key in a1111.ENLARGED:
        size = "x".join(foreign.pairs.get(f"{key}-{side}", "") for side in (1, 2))
        value = foreign.pairs.get(key) or (size if size != "x" else "")
        if not value:
            continue
        if paints_nothing:
            yield Note(key, value, Outcome.USED, "image-to-image of strength 0")
        else:
            why = "it was made larger when it was finished; make it, then enlarge it (`studio upscale`)"
            yield Note(key, value, Outcome.IGNORED, why)


def _input(foreign: Foreign, fields: dict[str, Any]) -> Iterator[Note]:
    """Say that the input of an image-to-image picture is needed: the file does not hold it."""
    if "strength" in fields:
        given = foreign.get("image", foreign.get("Init image hash"))
        yield Note("init_image", given, Outcome.MISSING, "made from another picture, which is not in the file; give it")
    masks = {"Mask blur", "Mask mode", "Inpaint area", "Masked content"} & foreign.pairs.keys()
    if masks:
        has_grown = any(key.startswith("Outpaint ") for key in foreign.pairs)
        made = "if it was made with a mask of its own, that" if has_grown else "made with a mask, which"
        yield Note("mask_image", "", Outcome.MISSING, f"{made} is not in the file; give it")
