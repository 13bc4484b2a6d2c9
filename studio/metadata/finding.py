"""Which models, LoRAs and embeddings that a picture names are here, and what is to be said of each."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from studio.metadata.a1111_keys import name_in_hashes

FindModel = Callable[[str, str], str | None]
"""(name, hash), either may be empty -> the name of the installed model of that hash; without one, of that name."""


FindUpscaler = Callable[[str], str | None]
"""Name -> the name of the upscaler that is installed and can run, or None."""


class FoundLora(NamedTuple):
    """A LoRA that is installed."""

    name: str
    is_exact: bool
    """False if its hash is another than the one that was asked for, and only the name is the same."""


FindLora = Callable[[str, str], FoundLora | None]
"""(name, hash), either may be empty -> the installed LoRA, or None."""


class Outcome(StrEnum):
    """What became of something that a foreign picture says."""

    USED = "used"
    APPROXIMATED = "approximated"
    IGNORED = "ignored"
    MISSING = "missing"


@dataclass(frozen=True)
class Note:
    """What became of one thing that the picture says; `field` is ours, or the program's own key if we have none."""

    field: str
    value: str
    outcome: Outcome
    why: str


@dataclass(frozen=True)
class Reading:
    """A value for one field of a request, and why it is not simply what the file says."""

    value: Any
    outcome: Outcome = Outcome.USED
    why: str = ""


class Lacking(ValueError):
    """The file asks for something that is not here."""


def found_model(name: str, digest: str, find_model: FindModel) -> Reading:
    """Return the installed model of a hash, else of a name, and how sure that is; either may be empty.

    Raises:
        Lacking: there is none.
    """
    if digest and (found := find_model(name, digest)) is not None:
        return Reading(found, why="" if found == name else f"found as {found}")
    found = find_model(name, "") if name else None
    if found is None:
        raise Lacking(f"no model {shortened(name) if name else ''}{f' [{digest[:64]}]' if digest else ''} is installed")
    if digest:
        why = f"the hash of {found} is not [{digest[:64]}]: other weights, or the same in other files"
        return Reading(found, Outcome.APPROXIMATED, why)
    return Reading(found, why="" if found == name else f"found as {found}")


def lora_verdict(name: str, digest: str, found: FoundLora | None) -> tuple[Outcome, str]:
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


def embedding_notes(digests: Mapping[str, str], find_embedding: FindModel) -> Iterator[Note]:
    """Say which embeddings of the prompt are here: a name in a prompt is one only if a file has it."""
    for name, digest in digests.items():
        found, said = find_embedding(name, digest), f"{name} [{digest[:12]}]" if digest else name
        if found is None:
            which = "with this hash" if digest else f"called {name}"
            why = f"no embedding {which} is installed: {name} is read as words, or as another of that name"
            yield Note("prompt", said, Outcome.MISSING, why)
        elif _in_hashes(found) == _in_hashes(name):
            yield Note("prompt", said, Outcome.USED, "the same embedding is installed")
        else:
            why = f"it is installed as {found}: write that into the prompt instead of {name}"
            yield Note("prompt", said, Outcome.MISSING, why)


def shortened(text: str) -> str:
    """Return a text in quotes for a sentence, its first 60 characters at most."""
    return repr(text if len(text) <= 60 else f"{text[:59]}…")


def _in_hashes(name: str) -> str:
    return name_in_hashes(name).lower()
