"""Tiles cover a picture, overlap and fade into each other; a single one is passed as it is."""

from itertools import pairwise

import pytest
import torch

from pipelines.runtime.tiling import Tile, Tiles

SIZES = [(8, 8), (16, 8), (17, 40), (33, 16), (16, 16), (48, 31)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("overlap", [0, 4, 8, 12])
def test_tiles_of_one_size_cover_the_picture_and_overlap(height: int, width: int, overlap: int) -> None:
    tiles = Tiles.cover(height, width, size=16, overlap=overlap)

    seen = torch.zeros(1, 1, height, width)
    for tile in tiles.each:
        tile.cut(seen).add_(1)
    assert (seen >= 1).all()
    assert {tile.cut(seen).shape[2:] for tile in tiles.each} == {tiles.size} == {(min(height, 16), min(width, 16))}
    columns = sorted({(tile.left, tile.right) for tile in tiles.each})
    assert all(left[1] - right[0] >= overlap for left, right in pairwise(columns))


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("overlap", [0, 8])
def test_what_is_the_same_in_every_tile_is_the_same_in_the_whole(height: int, width: int, overlap: int) -> None:
    latents = torch.randn((2, 4, height, width), generator=torch.Generator().manual_seed(0))
    tiles = Tiles.cover(height, width, size=16, overlap=overlap)

    # sums of shares round in the last bits of float32
    torch.testing.assert_close(tiles.blend(lambda tile: tile.cut(latents), like=latents), latents, rtol=1e-6, atol=1e-6)


def test_a_single_tile_is_what_was_made_of_it() -> None:
    made = torch.full((1, 4, 8, 16), 1 / 3)
    tiles = Tiles.cover(8, 16, size=64, overlap=32)

    assert tiles == Tiles((Tile(0, 0, 8, 16),), 32)
    assert tiles.blend(lambda _: made, like=made) is made
    assert Tiles.cover(8, 16, size=None).each == tiles.each


def test_tiles_that_disagree_fade_into_each_other() -> None:
    like = torch.zeros(1, 1, 16, 40)
    tiles = Tiles.cover(16, 40, size=24, overlap=8)

    row = tiles.blend(lambda tile: torch.full((1, 1, 16, 24), float(tile.left > 0)), like=like)[0, 0, 0]

    assert (row[:16] == 0).all()
    assert (row[24:] == 1).all()
    assert (row.diff() >= 0).all()
    assert row.diff().max() < 2 / 8


def test_the_rows_of_a_batch_do_not_mix() -> None:
    latents = torch.randn((3, 4, 24, 40), generator=torch.Generator().manual_seed(0))
    tiles = Tiles.cover(24, 40, size=16, overlap=8)

    together = tiles.blend(lambda tile: tile.cut(latents) * 3, like=latents)

    for index, one in enumerate(torch.split(latents, 1)):
        assert torch.equal(together[index : index + 1], tiles.blend(lambda tile, one=one: tile.cut(one) * 3, like=one))  # type: ignore[misc]
