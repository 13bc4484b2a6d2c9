"""What an A1111 prompt means, step by step: parse it, schedule each branch, weigh each text, cut it into chunks.

Pure Python, without torch. Text that reads as no syntax is plain text, never an error.
"""

from pipelines.spec.prompt.chunking import Chunk, ChunkRules, Placement, TokenCount, chunk, count_tokens
from pipelines.spec.prompt.composition import Branch, ExtraNetwork, NetworkWeights, Prompt, parse, without_tags
from pipelines.spec.prompt.linting import Note, NoteKind, lint
from pipelines.spec.prompt.reading import count_prompt, named_embeddings
from pipelines.spec.prompt.scheduling import ScheduledText, schedule
from pipelines.spec.prompt.weighting import BREAK, Mark, Weighted, weigh

__all__ = [
    "BREAK",
    "Branch",
    "Chunk",
    "ChunkRules",
    "ExtraNetwork",
    "Mark",
    "NetworkWeights",
    "Note",
    "NoteKind",
    "Placement",
    "Prompt",
    "ScheduledText",
    "TokenCount",
    "Weighted",
    "chunk",
    "count_prompt",
    "count_tokens",
    "lint",
    "named_embeddings",
    "parse",
    "schedule",
    "weigh",
    "without_tags",
]
