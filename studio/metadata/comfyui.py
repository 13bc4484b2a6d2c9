"""ComfyUI: the text `prompt` holds the graph that ran, as JSON. It is read backwards from the sampler.

What the graph does beside sampling, prompts, model, LoRAs, VAE and size is reported node by node, not understood.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from studio.metadata.foreign import MAX_VALUE_CHARACTERS, Foreign, Lora, json_object, number_of, plain, stem, text_of

_SAMPLERS = frozenset({"KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced"})
_SAMPLER_INPUTS = frozenset({"sampler_name", "steps", "cfg"})
"""Who has these is a sampler too, whatever its name."""

_SETTINGS = frozenset(
    {
        "noise_seed",
        "seed",
        "steps",
        "cfg",
        "sampler_name",
        "scheduler",
        "denoise",
        "start_at_step",
        "end_at_step",
        "guidance",
    }
)
_PARTS = ("sampler", "sigmas", "noise", "guider")
"""Inputs of the custom samplers behind which their settings stand."""

_TEXTS = ("populated_text", "text", "text_g", "text_l", "t5xxl", "clip_l", "prompt", "string", "value")
"""Inputs of what encodes a text, or supplies one."""
_PART = re.compile(r"(?:string|text)_?(?:[a-z]|[0-9]{1,2})")
"""Inputs of a node that joins texts by its delimiter: string_a of StringConcatenate, text1 of CR Text Concatenate …"""
_ENCODING = {"weight_interpretation": "emphasis", "token_normalization": "token_normalization"}
_PLAIN = frozenset({"", "none", "comfy"})
"""How encoders that give a choice do what the others do."""
_DELIMITERS = ("delimiter", "separator")
_COPIES = frozenset({"ShowText|pysssss", "Reroute", "ImpactWildcardProcessor"})
"""Nodes with more inputs than the text that they pass on."""
_VALUES = ("value", "seed", "int", "float", "number", "text", "string")
"""Under which of its inputs a node that only supplies a value keeps it."""

# fmt: off
_UNDERSTOOD = frozenset(
    {
        "BasicGuider", "BasicScheduler", "CFGGuider", "CheckpointLoader", "CheckpointLoaderSimple", "CLIPLoader",
        "CLIPSetLastLayer", "CLIPTextEncode", "CLIPTextEncodeFlux", "CLIPTextEncodeSDXL", "ConditioningZeroOut",
        "DualCLIPLoader", "EmptyLatentImage", "EmptySD3LatentImage", "FluxGuidance", "KSampler", "KSamplerAdvanced",
        "KSamplerSelect", "LoadImage", "LoadImageMask", "LoraLoader", "LoraLoaderModelOnly", "Note", "PreviewImage",
        "PrimitiveNode", "RandomNoise", "Reroute", "SamplerCustom", "SamplerCustomAdvanced", "SaveImage",
        "SaveImageWebsocket", "SetLatentNoiseMask", "UNETLoader", "VAEDecode", "VAEDecodeTiled", "VAEEncode",
        "VAEEncodeForInpaint", "VAELoader", "Power Lora Loader (rgthree)", "Efficient Loader",
    }
)
# fmt: on
_MAX_NODES = 5000
_MAX_REPORTED = 20
_MAX_PROMPT_PARTS = 20
_MAX_DEPTH = 50

_Node = Mapping[str, Any]


def read(texts: Mapping[str, str]) -> Foreign | None:
    """Read the graph, from the first of the samplers that lead to the picture."""
    graph = _Graph.parse(texts.get("prompt", ""))
    if graph is None:
        return None
    samplers = graph.samplers()
    if not samplers:
        return None
    sampler = samplers[0]
    settings = graph.settings(sampler)
    pairs = plain(settings, without=frozenset({"model", "positive", "negative", "latent_image"}))
    loras: list[Lora] = []
    for node in graph.chain(settings.get("model"), ("model",)):
        loras += _loras(node)
        if name := _first(graph, node, ("ckpt_name", "unet_name")):
            pairs.setdefault("model", name)
    prompt = graph.prompt(settings.get("positive", settings.get("conditioning")), "positive")
    negative = graph.prompt(settings.get("negative"), "negative")
    pairs |= _encoding(graph, prompt)
    if (guider := graph.behind(sampler["inputs"].get("guider"))) and guider["class_type"] == "BasicGuider":
        pairs["cfg"] = "1"
    pairs |= _latent(graph, settings.get("latent_image"))
    pairs |= _rest(graph)
    if others := sum(map(_is_sampler, graph.nodes.values())) - 1:
        pairs["other samplers"] = str(others)
    doubts = {"prompt": prompt.doubt, "negative_prompt": negative.doubt if "negative" in settings else ""}
    return Foreign(
        format="comfyui",
        program="ComfyUI",
        prompt=prompt.text,
        negative_prompt=negative.text,
        pairs=pairs,
        loras=tuple(loras),
        defaults={"noise": "cpu", "emphasis": "comfy", "step rule": "exact"},
        doubts=doubts,
    )


@dataclass
class _Prompt:
    """What was found behind a conditioning."""

    texts: list[str] = field(default_factory=list)
    encoders: list[_Node] = field(default_factory=list)
    guidance: str = ""
    """Of FluxGuidance and its like: a number that a model was trained with, no CFG."""
    unread: list[str] = field(default_factory=list)
    """Kinds of the nodes that made a text in a way that is not known here."""
    read: dict[int, str | None] = field(default_factory=dict)
    """By the id of each node that supplies text, what it supplies."""
    is_empty: bool = False
    """Whether an encoder, or a node that stands for none, says that there is no text."""

    @property
    def text(self) -> str:
        return ", ".join(self.texts)

    @property
    def doubt(self) -> str:
        """Why the text is not all, or not here; empty if it is."""
        if self.unread:
            return f"the graph makes it in {', '.join(dict.fromkeys(self.unread))}, which is not understood: write it"
        if not self.texts and not self.is_empty:
            return "there is no text in the graph where it should be: write it"
        return "the graph encodes these texts one by one; here they are one" if len(self.texts) > 1 else ""


class _Graph:
    """Nodes by id, and ways to walk from them against the arrows. A hostile graph may have loops."""

    def __init__(self, nodes: Mapping[str, _Node]) -> None:
        self.nodes = nodes
        self.understood = set(_UNDERSTOOD)
        """Kinds of nodes that need not be told of."""

    @classmethod
    def parse(cls, text: str) -> "_Graph | None":
        data = json_object(text) or {}
        nodes = {
            key: node
            for key, node in list(data.items())[:_MAX_NODES]
            if isinstance(node, dict)
            and isinstance(node.get("inputs"), dict)
            and isinstance(node.get("class_type"), str)
        }
        return cls(nodes) if nodes else None

    def behind(self, value: object) -> _Node | None:
        """Return the node that a link ([id, output]) leads to."""
        match value:
            case [str() | int() as key, *_]:
                return self.nodes.get(str(key)) if not isinstance(key, int) or key.bit_length() < 64 else None
        return None

    def chain(self, value: object, names: tuple[str, ...]) -> Iterator[_Node]:
        """Yield the nodes from a link on, through the first of the named inputs that is a link itself."""
        seen: set[int] = set()
        node = self.behind(value)
        while node is not None and id(node) not in seen:
            yield node
            seen.add(id(node))
            node = next(filter(None, (self.behind(node["inputs"].get(name)) for name in names)), None)

    def value(self, value: object, name: str) -> object:
        """Return a value, from behind its link if it is one."""
        seen: set[int] = set()
        while (node := self.behind(value)) is not None and id(node) not in seen:
            seen.add(id(node))
            value = next((node["inputs"][key] for key in (name, *_VALUES) if key in node["inputs"]), None)
        return value

    def samplers(self) -> list[_Node]:
        """Return the samplers that lead to the picture, the first to run first."""
        ends = [node for node in self.nodes.values() if "Save" in node["class_type"] or "Preview" in node["class_type"]]
        candidates = [*self.breadth_first(ends), *reversed(list(self.nodes.values()))]
        samplers = [node for node in candidates if _is_sampler(node)][:1]
        while samplers:
            source = self.behind(samplers[0]["inputs"].get("latent_image"))
            before = self.breadth_first([] if source is None else [source])
            earlier = next((node for node in before if _is_sampler(node)), None)
            if earlier is None or any(earlier is sampler for sampler in samplers):
                break
            samplers.insert(0, earlier)
        return samplers

    def breadth_first(self, nodes: list[_Node]) -> Iterator[_Node]:
        """Yield nodes and all that they are made from, the nearest first."""
        queue, seen = list(nodes), set[int]()
        for node in queue:  # grows while it is walked
            if id(node) not in seen:
                seen.add(id(node))
                yield node
                queue += filter(None, map(self.behind, node["inputs"].values()))

    def settings(self, sampler: _Node) -> dict[str, Any]:
        """Return a sampler's inputs, with those of the small nodes that a custom sampler is put together from."""
        inputs: dict[str, Any] = {}
        for node in (*filter(None, (self.behind(sampler["inputs"].get(part)) for part in _PARTS)), sampler):
            for name, value in node["inputs"].items():
                if name in _SETTINGS:
                    inputs[name] = self.value(value, name)
                elif name in {"model", "positive", "negative", "conditioning", "latent_image"}:
                    inputs[name] = value
        return inputs

    def prompt(self, value: object, role: str) -> _Prompt:
        """Return the texts that a conditioning is made from, and the nodes that encode them."""
        found = _Prompt()
        queue, seen = list(filter(None, [self.behind(value)])), set[int]()
        for node in queue:  # grows while it is walked
            if id(node) in seen or len(found.texts) >= _MAX_PROMPT_PARTS:
                continue
            seen.add(id(node))
            inputs = node["inputs"]
            found.guidance = found.guidance or text_of(self.value(inputs.get("guidance"), "guidance"))
            if node["class_type"] == "ConditioningZeroOut":
                found.is_empty = True
                continue
            written = [inputs[name] for name in _TEXTS if name in inputs]
            if not written and (isinstance(inputs.get(role), str) or (role in inputs and "ckpt_name" in inputs)):
                written = [inputs[role]]  # a loader that encodes too
            if written:
                found.encoders.append(node)
                texts = [
                    text.strip() for text in (self.text(text, role, found) for text in written) if text is not None
                ]
                found.is_empty |= "" in texts
                found.texts += [text for text in dict.fromkeys(texts) if text and text not in found.texts]
                continue
            links = (link for name, link in inputs.items() if name == role or name.startswith("conditioning"))
            queue += filter(None, map(self.behind, links))
        return found

    def text(self, value: object, role: str, found: _Prompt, *, depth: int = _MAX_DEPTH) -> str | None:
        """Return a text, from behind its links and joined; None if the file does not hold it."""
        node = self.behind(value)
        if isinstance(value, str) or node is None:
            return value if isinstance(value, str) else None
        if id(node) not in found.read:
            found.read[id(node)] = None  # of a node that leads back to itself
            inputs = node["inputs"]
            delimiter = next((inputs[name] for name in _DELIMITERS if isinstance(inputs.get(name), str)), None)
            names = [name for name in inputs if _PART.fullmatch(name)] if delimiter is not None else []
            names = names or [name for name in (role, *_TEXTS) if name in inputs][:1]
            others = [name for name, other in inputs.items() if name not in names and isinstance(other, str | list)]
            if names and (delimiter is not None or not others or node["class_type"] in _COPIES):
                self.understood.add(node["class_type"])
            else:
                found.unread.append(node["class_type"])
            texts = [self.text(inputs[name], role, found, depth=depth - 1) for name in names] if depth else []
            found.read[id(node)] = _joined(texts, (delimiter or "").replace("\\n", "\n"), node)
        return found.read[id(node)]


def _joined(texts: list[str | None], delimiter: str, node: _Node) -> str | None:
    """Return what a node makes of texts; most leave out the empty ones."""
    if node["inputs"].get("clean_whitespace") == "true":
        texts = [text and text.strip() for text in texts]
    keeps_empty = node["class_type"] == "StringConcatenate"
    parts = [text for text in texts if text or (text == "" and (keeps_empty or len(texts) == 1))]
    joined = delimiter.join(parts)
    return joined if parts and len(joined) <= MAX_VALUE_CHARACTERS else None


def _encoding(graph: _Graph, prompt: _Prompt) -> dict[str, str]:
    """Return how the first text is encoded, and the guidance that goes with it."""
    pairs = {"guidance": prompt.guidance} if prompt.guidance else {}
    for encoder in prompt.encoders[:1]:
        for node in (encoder, *graph.chain(encoder["inputs"].get("clip"), ("clip",))):
            if layer := _first(graph, node, ("stop_at_clip_layer", "clip_skip")):
                pairs.setdefault("stop_at_clip_layer", layer)
        said = {ours: text_of(encoder["inputs"].get(name)) for name, ours in _ENCODING.items()}
        pairs |= {ours: text for ours, text in said.items() if text not in _PLAIN}
    return pairs


def _is_sampler(node: _Node) -> bool:
    return node["class_type"] in _SAMPLERS or node["inputs"].keys() >= _SAMPLER_INPUTS


def _first(graph: _Graph, node: _Node, names: tuple[str, ...]) -> str:
    return next((text_of(graph.value(node["inputs"][name], name)) for name in names if name in node["inputs"]), "")


def _loras(node: _Node) -> list[Lora]:
    """LoraLoader has one, LoraLoaderModelOnly one without text encoders, rgthree's Power Lora Loader many."""
    inputs, loras = node["inputs"], []
    if isinstance(inputs.get("lora_name"), str) and inputs["lora_name"] != "None":
        weight = number_of(inputs.get("strength_model", inputs.get("lora_model_strength")), default=1.0)
        is_model_only = node["class_type"] == "LoraLoaderModelOnly"
        strength_clip = inputs.get("strength_clip", inputs.get("lora_clip_strength"))
        text_encoder = 0.0 if is_model_only else number_of(strength_clip, default=weight)
        loras.append(_lora(inputs["lora_name"], weight, text_encoder))
    for entry in inputs.values():
        match entry:
            case {"on": True, "lora": str(name), "strength": strength}:
                weight = number_of(strength, default=1.0)
                loras.append(_lora(name, weight, number_of(entry.get("strengthTwo"), default=weight)))
    return loras


def _lora(file: str, weight: float, text_encoder_weight: float) -> Lora:
    differs = text_encoder_weight != weight
    return Lora(stem(file), weight, text_encoder_weight=text_encoder_weight if differs else None)


def _latent(graph: _Graph, value: object) -> dict[str, str]:
    """Return the size of the picture, or what it started from."""
    for node in graph.chain(value, ("samples", "latent", "latent_image", "pixels", "image")):
        inputs = {name.removeprefix("empty_latent_"): value for name, value in node["inputs"].items()}
        if "width" in inputs and "height" in inputs:
            names = ("width", "height", "batch_size")
            size = plain({name: graph.value(inputs[name], name) for name in names if name in inputs})
            return {name: text for name, text in size.items() if (name, text) != ("batch_size", "1")}
        if node["class_type"].startswith("LoadImage"):
            return {"image": text_of(inputs.get("image"))}
    return {}


def _rest(graph: _Graph) -> dict[str, str]:
    """Return the VAE, and the nodes that nothing here understands, as pairs."""
    pairs: dict[str, str] = {}
    for node in graph.nodes.values():
        kind = node["class_type"]
        if kind == "VAELoader":
            pairs["vae_name"] = stem(text_of(node["inputs"].get("vae_name")))
        elif kind not in graph.understood and not _is_sampler(node) and len(pairs) < _MAX_REPORTED:
            pairs[f"node {kind[:80]}"] = "in the workflow"
    return pairs
