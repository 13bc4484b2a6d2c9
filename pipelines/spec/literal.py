"""Text as a prompt in which every sign is only a sign: a backslash before what our syntax would take for more."""

import re

_SYNTAX = re.compile(r"[()\[\]\\]|\bBREAK\b|(?<=\bA)(?=ND\b)|<(?=\w+:)|:(?=\s*[+-]?[0-9.]+\s*\Z)")
"""What our syntax would take for more than text; the last is the weight of a branch, as in "16:9" at the end."""


def as_text(text: str) -> str:
    """Return the prompt that means this text and nothing else, at most twice as long.

    "#" stays: whether it starts a comment is up to `prompt_comments` of the request.
    """
    return _SYNTAX.sub(_escaped, text)


def _escaped(sign: re.Match[str]) -> str:
    if sign[0] == "BREAK":
        return "break"  # nothing makes it text, and CLIP's tokenizers know no capitals
    return f"{sign[0]}\\" if sign[0] in {"<", ":"} else f"\\{sign[0]}"
