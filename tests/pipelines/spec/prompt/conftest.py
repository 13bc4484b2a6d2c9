"""What `-k` calls the golden vectors and the fuzzing of each file."""

from pathlib import Path

import pytest

KEYWORDS = {
    "test_composition.py": "grammar",
    "test_scheduling.py": "grammar",
    "test_weighting.py": "grammar",
    "test_chunking.py": "chunks",
    "test_tokenizing.py": "chunks",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent and item.path.name in KEYWORDS:
            item.extra_keyword_matches.add(KEYWORDS[item.path.name])
