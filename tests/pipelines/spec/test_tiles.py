"""Tiles as they are asked and resolved."""

from typing import Any

import pytest

from pipelines.spec.errors import InvalidRequest
from pipelines.spec.hires import second_pass
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import resolve
from pipelines.spec.resolved import ResolvedRequest
from tests.pipelines.spec.conftest import make_model


def resolved(**fields: Any) -> ResolvedRequest:
    return resolve(GenerationRequest.parse(fields), make_model())[0]


@pytest.mark.parametrize(
    ("asked", "overlap"),
    [
        ({}, None),
        ({"tile_size": 512}, 256),
        ({"tile_size": 72}, 32),
        ({"tile_size": 128, "tile_overlap": 0}, 0),
        ({"tile_size": 128, "tile_overlap": 96}, 96),
    ],
)
def test_tiles_share_half_unless_asked_otherwise(asked: dict[str, Any], overlap: int | None) -> None:
    one = resolved(**asked)

    assert (one.tile_size, one.tile_overlap) == (asked.get("tile_size"), overlap)
    assert resolve(one.asked(), make_model()) == (one,)


def test_the_second_pass_has_the_same_tiles() -> None:
    larger = second_pass(resolved(tile_size=128, tile_overlap=32, hires_scale=2.0))

    assert (larger.tile_size, larger.tile_overlap) == (128, 32)


@pytest.mark.parametrize(
    ("asked", "field", "message"),
    [
        ({"tile_overlap": 32}, "tile_overlap", "tile_overlap 32 needs tile_size, the side of a tile"),
        ({"tile_size": 128, "tile_overlap": 104}, "tile_overlap", "at most three quarters of tile_size 128, got 104"),
        ({"tile_size": 128, "tile_overlap": 12}, "tile_overlap", "tile_overlap must be a multiple of 8, got 12"),
        ({"tile_size": 100}, "tile_size", "tile_size must be a multiple of 8, got 100; try 96 or 104"),
        ({"tile_size": 56}, "tile_size", "tile_size must be at least 64 and at most 4096, got 56"),
    ],
)
def test_what_cannot_work_is_refused_by_name(asked: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        resolved(**asked)
    assert caught.value.field == field
    assert message in str(caught.value)
