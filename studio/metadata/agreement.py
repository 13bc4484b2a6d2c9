"""Whether the texts that a picture of ours carries for other programs say what its record says."""

from collections.abc import Iterator, Mapping
from contextlib import suppress

from studio import __version__
from studio.metadata import a1111, native
from studio.metadata.a1111_keys import EXTRAS, KEY, OURS
from studio.metadata.a1111_writing import write, write_extras
from studio.metadata.record import Record


def disagreements(texts: Mapping[str, str]) -> tuple[str, ...]:
    """Return sentences on what the texts beside a record that can be read say otherwise than it."""
    found: list[tuple[str, str, str]] = []
    with suppress(ValueError):
        found += _of_infotext(native.read(texts.get(native.KEY, "")), texts)
    if native.ENLARGED in texts and (said := texts.get(EXTRAS[0])) is not None:
        meant = write_extras(native.read(texts[native.ENLARGED]).request)
        found += [(EXTRAS[0], said, meant)] if said != meant else []
    return tuple(f"its infotext says {key} {said:.60}, and its record {meant:.60}" for key, said, meant in found)


def _of_infotext(record: Record, texts: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield what the infotext beside a record says otherwise: a key, what the text says, and what the record says.

    A text that another version wrote may lack keys, or have others; what both have must be the same.
    """
    byte_order_mark = "\ufeff"  # EXIF loses one that begins a prompt
    infotexts = (text.removeprefix(byte_order_mark) for text in (write(record), texts.get(KEY, "")))
    meant, said = (a1111.read({KEY: infotext}) for infotext in infotexts)
    if KEY not in texts or meant is None:
        return
    if said is None:
        yield "infotext", texts[KEY], "the settings of the picture"
        return
    yield from (
        (field, getattr(said, field), getattr(meant, field))
        for field in ("prompt", "negative_prompt")
        if getattr(said, field) != getattr(meant, field)
    )
    is_of_this_version = record.software == f"{OURS} {__version__}"
    keys = [*meant.pairs, *said.pairs] if is_of_this_version else [key for key in meant.pairs if key in said.pairs]
    for key in dict.fromkeys(keys):
        before, after = said.pairs.get(key, "nothing"), meant.pairs.get(key, "nothing")
        if before != after and (is_of_this_version or key != "Version"):
            yield key, before, after
