"""Aspect buckets and the order of batches."""

from pathlib import Path

import pytest

from pipelines.spec.buckets import BatchPlan, bucket_of, bucket_sizes
from pipelines.spec.dataset import Example


def _examples(*sizes: tuple[int, int]) -> list[Example]:
    return [Example(Path(f"{index}.png"), "", *size) for index, size in enumerate(sizes)]


@pytest.mark.parametrize(("resolution", "step"), [(512, 64), (1024, 32), (128, 32), (64, 64)])
def test_buckets_fit_the_area_and_the_step(resolution: int, step: int) -> None:
    sizes = bucket_sizes(resolution, step=step)

    assert (resolution, resolution) in sizes
    assert all(width * height <= resolution**2 for width, height in sizes)
    assert all(width % step == height % step == 0 for width, height in sizes)
    assert {(height, width) for width, height in sizes} == set(sizes)


@pytest.mark.parametrize(
    ("picture", "bucket"),
    [((500, 500), (512, 512)), ((1920, 1080), (640, 384)), ((1080, 1920), (384, 640)), ((9000, 100), (1024, 256))],
)
def test_a_picture_goes_to_the_nearest_shape(picture: tuple[int, int], bucket: tuple[int, int]) -> None:
    assert bucket_of(*picture, bucket_sizes(512, step=64)) == bucket


def test_every_epoch_shows_every_picture_once_and_no_batch_mixes_sizes() -> None:
    examples = _examples(*[(512, 512)] * 5, *[(512, 1024)] * 4)
    plan = BatchPlan.make(examples, resolution=512, step=64, buckets=True, batch_size=2, seed=3)

    first, second = (
        [plan.batch(epoch * plan.batches_per_epoch + n) for n in range(plan.batches_per_epoch)] for epoch in (0, 1)
    )

    assert plan.batches_per_epoch == 5
    assert sorted(index for batch in first for index in batch) == list(range(9))
    assert all(len({plan.sizes[index] for index in batch}) == 1 for batch in first)
    assert first != second
    assert plan.batch(7) == BatchPlan.make(examples, resolution=512, step=64, buckets=True, batch_size=2, seed=3).batch(
        7
    )


def test_without_buckets_all_pictures_are_squares() -> None:
    plan = BatchPlan.make(_examples((64, 64), (64, 640)), resolution=100, step=32, buckets=False, batch_size=1, seed=0)

    assert set(plan.sizes) == {(96, 96)}
