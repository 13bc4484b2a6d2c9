"""NovelAI: `Software` says NovelAI, `Comment` holds the settings as JSON, `Description` the prompt."""

import re
from collections.abc import Mapping

from studio.metadata.foreign import Foreign, json_object, plain, text_of

_SPOKEN = frozenset({"prompt", "uc", "signed_hash"})


def read(texts: Mapping[str, str]) -> Foreign | None:
    """Read the texts of a NovelAI picture."""
    data = json_object(texts.get("Comment", ""))
    if texts.get("Software") != "NovelAI" or data is None:
        return None
    pairs = plain(data, without=_SPOKEN)
    if source := re.fullmatch(r"(.*?)\s+([0-9A-F]{8})", texts.get("Source", "")):
        pairs |= {"model": source[1], "model_hash": source[2]}
    characters = _characters(data)
    return Foreign(
        format="novelai",
        program="NovelAI",
        prompt=(text_of(data.get("prompt")) or texts.get("Description", "")).strip(),
        negative_prompt=text_of(data.get("uc")).strip(),
        pairs=pairs,
        defaults={"noise source": "gpu"},
        doubts={"prompt": f"its characters have prompts of their own: {characters}"} if characters else {},
    )


def _characters(data: Mapping[str, object]) -> str:
    """Return what version 4 was told of single characters, beside the prompt."""
    match data.get("v4_prompt"):
        case {"caption": {"char_captions": list(captions)}}:
            texts = (text_of(caption.get("char_caption")) for caption in captions if isinstance(caption, dict))
            return "; ".join(filter(None, texts))
    return ""
