"""Texts that hypothesis makes: plain words, and everything that could upset a parser."""

from hypothesis import strategies as st

PLAIN_TEXTS = st.text(
    alphabet=st.characters(exclude_characters="()[]\\:|<>#", exclude_categories=["Cs"]), max_size=60
).filter(lambda text: "AND" not in text and "BREAK" not in text)
"""Without any character or word that has a meaning."""

_PIECES = [
    "(",
    ")",
    "[",
    "]",
    ":",
    "|",
    "\\",
    "#",
    "<",
    ">",
    "\n",
    " ",
    "a",
    "b,",
    "AND",
    "BREAK",
    ":1.3)",
    ":0.5]",
    ":3]",
]
_PIECES += ["<lora:x:1>", "[a:b:3]", "[a|b]", "(c:2)", "\\(", "\\]", "=", "é", "٣", "-1", ".", "999"]

TEXTS = st.one_of(st.text(max_size=80), st.lists(st.sampled_from(_PIECES), max_size=40).map("".join))
"""Anything; half of it made of pieces of syntax."""
