"""Everything in this folder is about LoRAs: `-k lora` selects it."""

import pytest


def pytest_itemcollected(item: pytest.Item) -> None:
    item.extra_keyword_matches.add("lora")
