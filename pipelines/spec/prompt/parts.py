"""The parts of a prompt: comments, extra networks (`<lora:name:1>`), and branches joined by AND."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_COMMENT = re.compile(r"[ \t]*#[^\n]*")
_EMPTY_LINES = re.compile(r"\n\s*\n")
_EXTRA_NETWORK = re.compile(r"<(\w+):([^>]+)>")
_AND = re.compile(r"\bAND\b")
_BRANCH_WEIGHT = re.compile(r"^(.*?)\s*:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*$", re.DOTALL)


@dataclass(frozen=True)
class Branch:
    """One of the texts joined by AND. Its prediction counts for `weight`."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class ExtraNetwork:
    """A tag such as `<lora:style:0.8>` or `<lora:style:te=0.5:unet=0.8>`."""

    kind: str
    """What stands first: lora, hypernet, …"""
    name: str
    positional: tuple[str, ...] = ()
    named: Mapping[str, str] = field(default_factory=dict)

    def weights(self) -> tuple[float, float]:
        """Return the weights of text encoder and U-Net: 1 where nothing is said, the U-Net's as the text encoder's.

        Raises:
            ValueError: a weight is no number.
        """
        te, unet = (
            self.named.get(name, self.positional[index] if index < len(self.positional) else None)
            for index, name in enumerate(("te", "unet"))
        )
        text_encoder = 1.0 if te is None else float(te)
        return text_encoder, text_encoder if unet is None else float(unet)


@dataclass(frozen=True)
class Prompt:
    """A prompt, taken apart."""

    branches: tuple[Branch, ...]
    """One or more."""
    extra_networks: tuple[ExtraNetwork, ...]


def parse(prompt: str, *, comments: bool = True) -> Prompt:
    """Take a prompt apart. Whatever is malformed is text.

    Args:
        prompt: as it was typed.
        comments: whether `#` hides the rest of its line.
    """
    if comments and "#" in prompt:
        prompt = _EMPTY_LINES.sub("\n", _COMMENT.sub("", prompt)).strip("\n")
    tags = _EXTRA_NETWORK.findall(prompt)
    text = _EXTRA_NETWORK.sub("", prompt) if tags else prompt
    return Prompt(_branches(text), tuple(_extra_network(kind, arguments) for kind, arguments in tags))


def _branches(text: str) -> tuple[Branch, ...]:
    parts = _AND.split(text)
    if len(parts) == 1:
        return (Branch(text),)
    return tuple(_branch(part) for part in parts)


def _branch(text: str) -> Branch:
    found = _BRANCH_WEIGHT.match(text)
    return Branch(text.strip()) if found is None else Branch(found[1].strip(), float(found[2]))


def _extra_network(kind: str, arguments: str) -> ExtraNetwork:
    name, *rest = arguments.split(":")
    positional = tuple(each for each in rest if "=" not in each)
    named = dict(each.split("=", 1) for each in rest if "=" in each)
    return ExtraNetwork(kind, name, positional, named)
