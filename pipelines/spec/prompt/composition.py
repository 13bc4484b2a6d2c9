"""What a prompt is made of: branches joined by AND, and tags such as `<lora:name:0.8>` that are not text."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)")
_COMMENT = re.compile(r"(^[^\S\n]*#.*(\n|\Z))|(#.*)", re.MULTILINE)
_TAG = re.compile(r"<(\w+):([^>]+)>")
_AND = re.compile(r"\bAND\b")


@dataclass(frozen=True, slots=True)
class NetworkWeights:
    """How strongly an extra network changes each part of the model; 1 is as trained."""

    text_encoder: float
    unet: float


@dataclass(frozen=True, slots=True)
class ExtraNetwork:
    """One tag: `<kind:name:positional:…:key=named>`."""

    kind: str
    """The word before the first colon, such as "lora"."""
    name: str
    positional: tuple[str, ...] = ()
    """The arguments after the name."""
    named: Mapping[str, str] = field(default_factory=dict)

    @property
    def weights(self) -> NetworkWeights:
        """The weights by A1111's rules: the first argument or `te=`, the second or `unet=`.

        Without a weight for the text encoder it is 1, without one for the UNet it is the text encoder's. What is not a
        number counts as not given; `lint` says so.
        """
        text_encoder = self._number("te", position=0, default=1.0)
        return NetworkWeights(text_encoder, self._number("unet", position=1, default=text_encoder))

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Those arguments that should be weights and are no numbers."""
        arguments = [*self.positional[:2], *(self.named[key] for key in ("te", "unet") if key in self.named)]
        return tuple(text for text in arguments if _float(text) is None)

    def _number(self, key: str, *, position: int, default: float) -> float:
        for text in (self.named.get(key, ""), *self.positional[position : position + 1]):
            if (number := _float(text)) is not None:
                return number
        return default


@dataclass(frozen=True, slots=True)
class Branch:
    """One of the texts that AND joins."""

    text: str
    """For `schedule`."""
    weight: float = 1.0
    """What its guidance counts: the sum over branches of weight × (conditional - unconditional)."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt, taken apart."""

    branches: tuple[Branch, ...]
    """At least one."""
    extra_networks: tuple[ExtraNetwork, ...] = ()
    """In the order of the text."""


def parse(prompt: str, *, comments: bool = True, composable: bool = True) -> Prompt:
    """Take a prompt apart: leave out comments, take out tags, split at AND. Accepts any text.

    Args:
        prompt: as the user typed it.
        comments: whether "#" starts a comment that lasts until the end of the line.
        composable: whether AND splits and a number at the end, as in "a boat :0.8", is a weight. False for a negative
            prompt, where A1111 reads both as text.
    """
    text = without_comments(prompt) if comments else prompt
    networks: list[ExtraNetwork] = []
    if "<" in text:
        networks = [_network(tag[1], tag[2].split(":")) for tag in _TAG.finditer(text)]
        text = _TAG.sub("", text)
    if not composable:
        return Prompt((Branch(text),), tuple(networks))
    parts = _AND.split(text)
    if len(parts) > 1:
        parts = [part.strip() for part in parts]
    return Prompt(tuple(map(_branch, parts)), tuple(networks))


def without_comments(text: str) -> str:
    """Leave out from each "#" to the end of its line, and lines that hold nothing else."""
    return _COMMENT.sub("", text) if "#" in text else text


def without_tags(text: str, *, comments: bool = True) -> str:
    """Leave out what `parse` takes out of a text: comments, if they are any, and tags."""
    return _TAG.sub("", without_comments(text) if comments else text)


def _branch(text: str) -> Branch:
    before, colon, after = text.rpartition(":")
    if colon and (weight := _float(after)) is not None:
        return Branch(before.rstrip(), weight)
    return Branch(text)


def _network(kind: str, arguments: Iterable[str]) -> ExtraNetwork:
    positional: list[str] = []
    named: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and "=" not in value:
            named[key] = value
        else:
            positional.append(argument)
    name, *others = positional or [""]
    return ExtraNetwork(kind, name, tuple(others), named)


def _float(text: str) -> float | None:
    number = float(text) if _NUMBER.fullmatch(text.strip()) else math.inf
    return number if math.isfinite(number) else None
