"""How other programs' prompts weigh their words, in our syntax: `(x:1.2)`, and a backslash before what is only text.

Each grammar returns runs: text, and how much it weighs. What an encoder does with a weight is not known here.
"""

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import groupby
from typing import NamedTuple

from pipelines.spec.literal import as_text
from pipelines.spec.prompt import Weighted, parse, schedule, weigh
from pipelines.spec.values import MAX_PROMPT_CHARACTERS, Emphasis
from studio.metadata.finding import Outcome, Reading
from studio.metadata.foreign import Foreign, stem

Run = tuple[str, float]

BREAK = "\nBREAK\n"
"""Stands between texts that Fooocus encodes one by one."""

_MAX_DEPTH = 60
"""Of brackets, and of signs behind a word: more is nothing that anyone meant."""

EMBEDDING = re.compile(r"\bembedding:([^\s,():]{1,200})")
"""How ComfyUI names an embedding; here its name alone is enough."""

SDNEXT_PARSERS: Mapping[str, Emphasis] = {
    "native": "comfy",
    "a1111": "comfy",
    "compel": "comfy",
    "fixed": "comfy",
    "xhinker": "no_norm",
}
"""SD.Next's parsers -> how it then acts on weights: all but the last encode with compel."""

_SOME_STEPS = 20
"""In which the alternatives of a prompt show up."""

_CHUNK = 75
_WORD = re.compile(r"[^\W\d_]+|\d|_+|[^\s\w]+")
"""What is at least one token of CLIP."""

_COMFYUI = re.compile(r"\\[()]|[()]|[^()\\]+|\\")
_NOVELAI = re.compile(r"(-?(?:[0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9}))?::|[{}\[\]]|[^{}\[\]:0-9.-]+|.", re.DOTALL)
_BEHIND = r"\++|-+|[0-9]{1,9}(?:\.[0-9]{1,9})?"
_COMPEL = re.compile(
    rf"""\\(?P<escaped>[()"])|(?P<open>\()|(?P<close>\))(?P<close_weight>{_BEHIND})?"""
    rf"""|"(?P<quoted>(?:[^"\\]|\\.)*)"(?P<quoted_weight>{_BEHIND})?"""
    r"""|(?P<word>[^\s()",.=\\+-]+(?:[+-]+[^\s()",.=\\+-]+)*)(?P<word_weight>\++|-+)(?=[\s()",.=]|\Z)"""
    r"""|[^\s()",.=\\]+|.""",
    re.DOTALL,
)
_COMPEL_OPERATOR = re.compile(r"\)\s*\.(?:and|add|blend|swap|attend)\(")


def reading(prompt: str, foreign: Foreign) -> Reading:
    """Return a prompt in our syntax; the prompts of A1111 and its kin are."""
    grammar = _grammar_of(foreign)
    if grammar is None:
        return Reading(prompt)
    if grammar.runs is None:
        doubt = grammar.doubt(prompt, _weights_in(prompt))
        return Reading(prompt, Outcome.APPROXIMATED if doubt else Outcome.USED, doubt)
    parts = prompt.split(BREAK) if foreign.format == "fooocus" else [prompt]
    runs = [list(grammar.runs(part)) for part in parts]
    ours = BREAK.join(map(_written, runs))
    if doubt := grammar.doubt(prompt, {weight for part in runs for _, weight in part} - {1.0}):
        return Reading(ours, Outcome.APPROXIMATED, doubt)
    return Reading(ours, why="" if ours == prompt else "weights and brackets are written as they are here")


def is_sdnext_on_diffusers(foreign: Foreign) -> bool:
    """Whether a prompt went through one of SD.Next's own parsers; its old backend is A1111's."""
    return foreign.program == "SD.Next" and foreign.get("Backend").lower() != "original"


def sdnext_parser(foreign: Foreign) -> str:
    """Return which parser took a prompt apart, by its name today: it was "Full parser" before it was "native"."""
    name = foreign.get("Parser").lower().partition(" ")[0]
    return "native" if name == "full" else name


def of_comfyui(text: str) -> Iterator[Run]:
    """Read `(x)` and `(x:1.2)`: a weight without a number multiplies that around it, a number replaces it."""
    named = EMBEDDING.sub(lambda embedding: stem(embedding[1]), text)
    return _of_comfyui(_COMFYUI.findall(named), 1.0, depth=_MAX_DEPTH)


def _of_comfyui(pieces: Iterable[str], weight: float, *, depth: int) -> Iterator[Run]:
    for item in _comfyui_items(pieces):
        if depth == 0 or len(item) < 2 or (item[0], item[-1]) != ("(", ")"):
            yield "".join(piece[1:] if piece in {"\\(", "\\)"} else piece for piece in item), weight
            continue
        *before, last = ["", *item[1:-1]]
        text, _, number = last.rpartition(":")
        own = _float(number) if text or any(before) else None
        inner = [*before, last] if own is None else [*before, text]
        yield from _of_comfyui(filter(None, inner), weight * 1.1 if own is None else own, depth=depth - 1)


def _comfyui_items(pieces: Iterable[str]) -> Iterator[list[str]]:
    """Yield what stands in a pair of brackets, and what stands between pairs. Brackets are counted, not matched."""
    item: list[str] = []
    level = 0
    for piece in pieces:
        if piece == "(" and level == 0 and item:
            yield item
            item = []
        item.append(piece)
        level += (piece == "(") - (piece == ")")
        if piece == ")" and level == 0:
            yield item
            item = []
    if item:
        yield item


def of_novelai(text: str) -> Iterator[Run]:
    """Read `{x}`, 1.05 times as loud, `[x]`, as much quieter, and `1.5::x::`; what is open lasts until the end."""
    opened = {"{": 0, "[": 0}
    number = 1.0
    for piece in _NOVELAI.finditer(text):
        bracket = {"}": "{", "]": "["}.get(piece[0], piece[0])
        if bracket in opened and (piece[0] == bracket or opened[bracket]):
            opened[bracket] += 1 if piece[0] == bracket else -1
        elif piece[0].endswith("::"):
            number = float(piece[1] or 1)
        else:
            depth = opened["{"] - opened["["]
            yield piece[0], number * 1.05 ** max(-_MAX_DEPTH, min(depth, _MAX_DEPTH))


def of_invokeai(text: str) -> Iterator[Run]:
    """Read compel's `word++`, `(x)1.2` and `"x"-`: each plus is times 1.1, each minus times 0.9."""
    pieces = list(_COMPEL.finditer(text))
    opened: list[int] = []
    closers: dict[int, int] = {}
    for index, piece in enumerate(pieces):
        if piece["open"]:
            opened.append(index)
        elif piece["close"] and opened:
            closers[opened.pop()] = index
    closing = set(closers.values())
    weights = [1.0]
    for index, piece in enumerate(pieces):
        if index in closers:
            weights.append(weights[-1] * _compel_weight(pieces[closers[index]]["close_weight"]))
        elif index in closing:
            weights.pop()
        elif (quoted := piece["quoted"]) is not None:
            factor = weights[-1] * _compel_weight(piece["quoted_weight"])
            yield from ((inner, weight * factor) for inner, weight in of_invokeai(quoted))
        elif word := piece["word"]:
            yield word, weights[-1] * _compel_weight(piece["word_weight"])
        else:
            yield piece["escaped"] or piece[0], weights[-1]


def _compel_weight(behind: str | None) -> float:
    match (behind or "")[:1]:
        case "":
            return 1.0
        case "+" | "-" as sign:
            return (1.1 if sign == "+" else 0.9) ** min(len(behind or ""), _MAX_DEPTH)
    return float(behind or 1)


def _weights_in(prompt: str) -> set[float]:
    """Return the weights other than 1 of a prompt in our syntax, as far as requests take prompts."""
    branches = parse(prompt[:MAX_PROMPT_CHARACTERS]).branches
    texts = (step.text for branch in branches for step in schedule(branch.text, num_inference_steps=_SOME_STEPS))
    return {run.weight for text in texts for run in weigh(text) if isinstance(run, Weighted)} - {1.0}


def _float(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _written(runs: Iterable[Run]) -> str:
    grouped = groupby(runs, key=lambda run: round(run[1], 6))
    return "".join(_weighed("".join(text for text, _ in group), weight) for weight, group in grouped)


def _weighed(text: str, weight: float) -> str:
    escaped = as_text(text)
    if weight == 1 or not text.strip():
        return escaped
    number = f"{weight:.6f}".rstrip("0").rstrip(".")
    return f"({escaped}:{number})"


def _no_doubt(_: str, __: Collection[float]) -> str:
    return ""


def _doubt_of_comfyui(prompt: str, _: Collection[float]) -> str:
    words = _WORD.findall("".join(text for text, _ in of_comfyui(prompt)))
    is_cut = len(words) > _CHUNK and "," in words
    return f"ComfyUI cuts long prompts every {_CHUNK} tokens, which here is done behind a comma" if is_cut else ""


def _doubt_of_fooocus(prompt: str, weights: Collection[float]) -> str:
    doubts = ["Fooocus weighs as ComfyUI does, and then keeps the mean as A1111 does"] if weights else []
    if BREAK in prompt:
        doubts.append("what it encodes text by text is joined by BREAK, and the pooled embedding is that of the first")
    return "; ".join(doubts)


def _doubt_of_novelai(prompt: str, weights: Collection[float]) -> str:
    doubts = ["how NovelAI acts on weights is not published"] if weights else []
    if "|" in prompt:
        doubts.append("what | mixes there is text here")
    return "; ".join(doubts)


def _doubt_of_compel(prompt: str, weights: Collection[float]) -> str:
    if _COMPEL_OPERATOR.search(prompt):
        return "there is no .and(), .blend(), .swap() or .attend() here: it is read as text"
    return _doubt_of_quiet(prompt, weights)


def _doubt_of_quiet(_: str, weights: Collection[float]) -> str:
    return "compel, which encodes there, acts on weights below 1 in another way" if min(weights, default=1) < 1 else ""


class _Grammar(NamedTuple):
    runs: Callable[[str], Iterable[Run]] | None
    """None where a prompt is in our syntax."""
    doubt: Callable[[str, Collection[float]], str]
    """(prompt, its weights other than 1) -> why the picture will differ; empty if it need not."""


_GRAMMARS: Mapping[str, _Grammar] = {
    "comfyui": _Grammar(of_comfyui, _doubt_of_comfyui),
    "swarmui": _Grammar(of_comfyui, _doubt_of_comfyui),
    "fooocus": _Grammar(of_comfyui, _doubt_of_fooocus),
    "novelai": _Grammar(of_novelai, _doubt_of_novelai),
    "invokeai": _Grammar(of_invokeai, _doubt_of_compel),
}
_GRAMMARS_OF_SDNEXT: Mapping[str, _Grammar] = {
    "native": _Grammar(None, _doubt_of_quiet),
    "a1111": _Grammar(None, _doubt_of_quiet),
    "compel": _Grammar(of_invokeai, _doubt_of_compel),
    "fixed": _Grammar(lambda text: [(text, 1.0)], _no_doubt),
}


def _grammar_of(foreign: Foreign) -> _Grammar | None:
    """Return how a prompt is read; None where that is as we do."""
    if is_sdnext_on_diffusers(foreign):
        return _GRAMMARS_OF_SDNEXT.get(sdnext_parser(foreign))
    return _GRAMMARS.get("comfyui" if foreign.program == "ComfyUI" else foreign.format)
