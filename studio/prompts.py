r"""Prompt templates -> prompts: {a|b}, weights, several choices, __wildcards__, ${variables} (dynamicprompts).

A1111's own syntax passes through untouched: (weights), [a|b], <lora:…>, %, # and tabs. A brace is written \{ or \}.
Knows nothing of jobs: a template, a seed and a folder of word lists make a text.
"""

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from random import Random

from dynamicprompts.commands import Command, LiteralCommand, SequenceCommand
from dynamicprompts.commands.variable_commands import VariableAssignmentCommand
from dynamicprompts.enums import SamplingMethod
from dynamicprompts.parser.parse import parse
from dynamicprompts.samplers.base import Sampler
from dynamicprompts.sampling_context import SamplingContext
from dynamicprompts.types import ResultGen
from dynamicprompts.wildcards import WildcardManager
from dynamicprompts.wildcards.collection.structured import parse_structured_file
from dynamicprompts.wildcards.item import WildcardItem
from dynamicprompts.wildcards.values import WildcardValues
from pyparsing import ParseBaseException

from pipelines.spec.errors import InvalidRequest
from pipelines.spec.values import MAX_PROMPT_CHARACTERS

MAX_COMBINATIONS = 10_000
PIECES_OF_ONE, PIECES_OF_ALL = 4_000, 100_000
"""Far more than the longest template has, for one prompt and for all combinations: a second or two of work."""
WILDCARD_SUFFIXES = (".txt", ".yaml", ".json")

_HIDDEN: Mapping[str, str] = {
    sign: chr(0xF0000 + number) for number, sign in enumerate(("|", "#", "%", "$", "\t", "{", "}", "__"))
}
"""Private characters that stand for signs which the template language would take as its own."""
_LITERAL = re.compile(r"\\([{}]|__)|(#|\t|%(?!\{)|(?<!\$)\$(?![{$]))|(\[[^\[\]{}]*\])")
_WEIGHTED = re.compile(r"(\d+(?:\.\d+)?)::(.*)", re.DOTALL)


class Templates:
    """Expands templates with the word lists of a folder.

    Args:
        folder: `wildcards/` of a studio; colours.txt in it is `__colours__`. It need not exist.

    Raises:
        InvalidRequest: a word list cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lists = {name: list(values) for name, values in _lists(folder)}

    def expand(self, template: str, *, seeds: Iterable[int]) -> list[str]:
        """Return one random prompt per seed; the same seed and word lists give the same prompt.

        Raises:
            InvalidRequest: the template cannot be read, or names an unknown word list.
        """
        return [texts["prompt"] for texts in self.expand_all({"prompt": template}, seeds=seeds)]

    def expand_all(self, templates: Mapping[str, str], *, seeds: Iterable[int]) -> list[dict[str, str]]:
        """Return what the templates of a request become, by field, once per seed.

        Each text starts with the seed anew, so what begins alike draws alike; a variable keeps its value in the texts
        behind the one that sets it.

        Raises:
            InvalidRequest: naming the field whose template cannot be read, or names an unknown word list.
        """
        wildcards = _Wildcards(self._folder, self._lists)
        commands = {}
        for field, template in templates.items():
            with _explaining(template, field):
                commands[field] = _parse(template)
        made: list[dict[str, str]] = []
        for seed in seeds:
            variables: dict[str, Command] = {}
            texts: dict[str, str] = {}
            for field, command in commands.items():
                with _explaining(templates[field], field):
                    texts[field] = _sample(command, wildcards, seed, variables)
            made.append(texts)
        return made

    def combinations(self, template: str) -> list[str]:
        """Return every prompt that the template can become, each once.

        Raises:
            InvalidRequest: as for `expand`, or there are more than 10,000.
        """
        plain: dict[str, list[str | WildcardItem]] = {
            name: [str(value) for value in values if not isinstance(value, WildcardItem) or value.weight > 0]
            for name, values in self._lists.items()
        }
        context = _context(SamplingMethod.COMBINATORIAL, _Wildcards(self._folder, plain), seed=0, pieces=PIECES_OF_ALL)
        with _explaining(template):
            command = _parse(template)
            every = (prompt for each in _decided(command, context) for prompt in each.sample_prompts(command))
            found = [_plain(str(prompt)) for prompt in islice(every, MAX_COMBINATIONS + 1)]
        if len(found) > MAX_COMBINATIONS:
            raise _refusal(
                "prompt", template, f"has more than {MAX_COMBINATIONS} combinations; split it, or make random ones"
            )
        if not found:
            raise _refusal("prompt", template, "has no combination: it asks for more different choices than there are")
        return list(dict.fromkeys(found))


class _Wildcards(WildcardManager):
    """Word lists by name. An unknown one is an error, where the library would leave its name in the prompt."""

    def __init__(self, folder: Path, lists: Mapping[str, list[str | WildcardItem]]) -> None:
        super().__init__()
        self._folder = folder
        self._lists = lists

    def get_values(self, wildcard: str) -> WildcardValues:
        found = WildcardValues(()) if ".." in wildcard else self._find(wildcard.strip().strip("/"))
        if not found:
            names = sorted(self._lists)
            if near := get_close_matches(wildcard, names, n=3, cutoff=0.5):
                known = f"did you mean {' or '.join(f'__{each}__' for each in near)}? All are in {self._folder}"
            elif names:
                known = f"there are {', '.join(names[:10])}{' and more' if len(names) > 10 else ''} in {self._folder}"
            else:
                known = f"{self._folder} holds no word lists"
            raise _Unknown(f"names the wildcard __{_plain(wildcard)}__, which is unknown; {known}")
        return found

    def _find(self, pattern: str) -> WildcardValues:
        """Names match as files do, with * and ?; a name alone also finds a list in a folder."""
        for wanted in (pattern, f"*/{pattern}"):
            values = [value for name in sorted(self._lists) if fnmatchcase(name, wanted) for value in self._lists[name]]
            if values:
                return WildcardValues.from_items(sorted(dict.fromkeys(values), key=str))
        return WildcardValues(())


class _Unknown(Exception):
    """A template names a word list that does not exist."""


class _Budget:
    """Counts the pieces of a template that are looked at: a few variables in each other grow without end."""

    def __init__(self, most: int) -> None:
        self._left = most

    def take(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise _Unknown("grows too large; use its variables or wildcards inside each other less often")


class _Frugal(Sampler):
    """A sampler of the library that keeps to a budget."""

    def __init__(self, sampler: Sampler, budget: _Budget) -> None:
        self._sampler = sampler
        self._budget = budget

    def generator_from_command(self, command: Command, context: SamplingContext) -> ResultGen:
        self._budget.take()
        return self._sampler.generator_from_command(command, context)


@dataclass(frozen=True)
class _Context(SamplingContext):
    """A context of the library that keeps the variables which are set in it or in its parts."""

    set_variables: dict[str, Command] = dataclass_field(default_factory=dict)
    decided: Mapping[str, Command] = dataclass_field(default_factory=dict)
    """Variables that draw no more, whatever a text sets them to."""

    def process_variable_assignment(self, command: VariableAssignmentCommand) -> Command:
        if command.immediate and command.name in self.decided:
            return self.decided[command.name]
        value = self.set_variables[command.name] = super().process_variable_assignment(command)
        return value


def _decided(command: Command, context: _Context) -> Iterator[_Context]:
    """Yield a context per combination of the variables that remember one choice, `${x=!{a|b}}`."""
    tokens = command.tokens if isinstance(command, SequenceCommand) else []
    remembering = [each for each in tokens if isinstance(each, VariableAssignmentCommand) and each.immediate]
    undecided = next((each for each in remembering if each.name not in context.decided), None)
    if undecided is None:
        yield context
        return
    for value in context.sample_prompts(undecided.value):
        decided = {undecided.name: LiteralCommand(str(value))}
        known = replace(context, decided={**context.decided, **decided}, variables={**context.variables, **decided})
        yield from _decided(command, known)


def _context(
    method: SamplingMethod,
    wildcards: _Wildcards,
    *,
    seed: int,
    pieces: int,
    variables: dict[str, Command] | None = None,
) -> _Context:
    kept = {} if variables is None else variables
    context = _Context(method, wildcards, rand=Random(seed), variables=dict(kept), set_variables=kept)
    budget = _Budget(pieces)
    samplers: dict[SamplingMethod, Sampler] = {
        method: _Frugal(sampler, budget) for method, sampler in context.samplers.items()
    }
    return replace(context, samplers=samplers)


def _sample(command: Command, wildcards: _Wildcards, seed: int, variables: dict[str, Command]) -> str:
    """Return one text, and add the variables that it sets."""
    context = _context(SamplingMethod.RANDOM, wildcards, seed=seed, pieces=PIECES_OF_ONE, variables=variables)
    return _plain(str(next(iter(context.sample_prompts(command, 1)))))


def _parse(template: str) -> Command:
    return parse(_hide(template))


def _hide(text: str) -> str:
    """Put private characters in place of signs that mean themselves."""

    def hidden(match: re.Match[str]) -> str:
        escaped, sign, alternation = match.groups()
        return alternation.replace("|", _HIDDEN["|"]) if alternation else _HIDDEN[escaped or sign]

    return _LITERAL.sub(hidden, text)


def _plain(text: str) -> str:
    """Undo `_hide`; what is left of the template language by then is a mistake."""
    for sign in ("{", "}", "__"):
        if sign in text:
            raise _Unknown(f"has an unbalanced {sign}; write \\{sign} where it means itself")
    for sign, private in _HIDDEN.items():
        text = text.replace(private, sign)
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise _Unknown(f"grows to {len(text)} characters, and {MAX_PROMPT_CHARACTERS} is the most; shorten it")
    return text


@contextmanager
def _explaining(template: str, field: str = "prompt") -> Iterator[None]:
    """Say in a sentence what the library found wrong, whatever it raises."""
    try:
        with warnings.catch_warnings(action="ignore"):  # it builds its grammar with old names of pyparsing
            yield
    except _Unknown as error:
        raise _refusal(field, template, str(error)) from error
    except ParseBaseException as error:
        way_out = "balance {…}, ${…} and __…__, and write \\{ or \\__ where these mean themselves"
        raise _refusal(field, template, f"is not a template that can be read; {way_out}") from error
    except RecursionError as error:
        raise _refusal(
            field, template, "names itself or is nested too deeply; take the circle out of its variables or wildcards"
        ) from error
    except KeyError as error:
        raise _refusal(
            field, template, f"{str(error.args[0]).lower()}; give it a value as in ${{name=value}}"
        ) from error
    except Exception as error:
        raise _refusal(field, template, f"cannot be expanded: {error}") from error


def _refusal(field: str, template: str, reason: str) -> InvalidRequest:
    shown = template if len(template) <= 60 else f"{template[:57]}…"
    return InvalidRequest(f"{field} {shown!r} {reason}", field=field)


def _lists(folder: Path) -> Iterator[tuple[str, Iterable[str | WildcardItem]]]:
    """Yield names and values of the word lists: a text file is one, a YAML or JSON file one per list in it."""
    for path in sorted(folder.rglob("*")):
        if path.suffix not in WILDCARD_SUFFIXES or path.name.startswith("."):
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        try:
            if path.suffix == ".txt":
                lines = (line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
                yield name, [_item(line) for line in lines if line and not line.startswith("#")]
            else:
                prefix = name.rpartition("/")[0]
                for key, collection in parse_structured_file(path):
                    yield f"{prefix}/{key}".strip("/"), [_hidden_item(value) for value in collection.get_values()]
        except Exception as error:
            reason = " ".join(str(error).split())
            raise InvalidRequest(f"the word list {path} cannot be read: {reason}; repair it", field="prompt") from error


def _item(line: str) -> str | WildcardItem:
    """Return a line of a text file; "2::red" is drawn twice as often."""
    weighted = _WEIGHTED.fullmatch(line)
    return WildcardItem(_hide(weighted[2]), float(weighted[1])) if weighted else _hide(line)


def _hidden_item(value: str | WildcardItem) -> str | WildcardItem:
    return _hide(value) if isinstance(value, str) else WildcardItem(_hide(value.content), value.weight)
