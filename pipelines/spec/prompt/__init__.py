"""What an A1111 prompt means, without any model: branches, extra networks, schedules, weights, chunks.

`parse` parts a prompt; each branch is a text for `schedule`, whose texts are for `weigh`, whose parts are for `chunk`.
"""

from pipelines.spec.prompt.chunks import CHUNK_LENGTH, Chunk, chunk
from pipelines.spec.prompt.parts import Branch, ExtraNetwork, Prompt, parse
from pipelines.spec.prompt.schedule import ScheduledText, schedule
from pipelines.spec.prompt.weights import BREAK, Weighted, weigh

__all__ = [
    "BREAK",
    "CHUNK_LENGTH",
    "Branch",
    "Chunk",
    "ExtraNetwork",
    "Prompt",
    "ScheduledText",
    "Weighted",
    "chunk",
    "parse",
    "schedule",
    "weigh",
]
