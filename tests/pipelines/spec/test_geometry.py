"""Inputs are fitted to the request, masks with them, and kept pixels come back bit for bit."""

import numpy as np
import pytest
from PIL import Image

from pipelines.spec.geometry import fit, paste_back, prepare_mask


def stripes(width: int, height: int) -> Image.Image:
    """Return a picture whose red tells the column and green the row, in percent."""
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [columns * 100 / (width - 1), rows * 100 / (height - 1), np.zeros((height, width))]
    return Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8))


def test_a_picture_of_the_right_size_is_untouched() -> None:
    picture = stripes(64, 48)

    assert fit(picture, width=64, height=48).tobytes() == picture.tobytes()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    assert fit(stripes(64, 64).convert(mode), width=32, height=32).mode == "RGB"


@pytest.mark.parametrize(
    ("size", "columns", "rows"),
    [((200, 100), (25, 75), (0, 100)), ((100, 400), (0, 100), (37, 63)), ((64, 64), (0, 100), (0, 100))],
    ids=["wide", "tall", "square"],
)
def test_the_overhang_is_cropped_evenly(size: tuple[int, int], columns: tuple[int, int], rows: tuple[int, int]) -> None:
    fitted = np.asarray(fit(stripes(*size), width=64, height=64), dtype=int)

    assert fitted.shape == (64, 64, 3)
    for channel, (low, high) in enumerate((columns, rows)):
        assert fitted[..., channel].min() == pytest.approx(low, abs=2)
        assert fitted[..., channel].max() == pytest.approx(high, abs=2)


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (127, 0), (128, 255), (255, 255)])
def test_a_mask_pixel_of_half_or_more_is_repainted(value: int, expected: int) -> None:
    mask = prepare_mask(Image.new("L", (64, 64), value), init_size=(64, 64), width=64, height=64)

    assert mask.getextrema() == (expected, expected)


def test_a_mask_is_only_black_and_white_after_scaling() -> None:
    checks = Image.fromarray((np.indices((30, 50)).sum(axis=0) % 2 * 255).astype(np.uint8))

    mask = prepare_mask(checks, init_size=(70, 40), width=64, height=48)

    assert mask.size == (64, 48)
    assert set(np.unique(mask)) <= {0, 255}


def test_a_mask_covers_the_same_part_whatever_its_own_size() -> None:
    """A block drawn over a wide picture and cropped with it falls on the same pixels from a mask of another shape."""
    large = Image.new("L", (200, 100))
    large.paste(255, (80, 20, 120, 60))
    small = Image.new("L", (100, 100))
    small.paste(255, (40, 20, 60, 60))

    masks = [prepare_mask(mask, init_size=(200, 100), width=100, height=100) for mask in (large, small)]

    assert masks[0].getbbox() == (30, 20, 70, 60)
    assert masks[1].getbbox() == pytest.approx((30, 20, 70, 60), abs=1)


def test_kept_pixels_come_back_bit_for_bit() -> None:
    original, painted = stripes(64, 64), Image.new("RGB", (64, 64), (9, 8, 7))
    mask = Image.new("L", (64, 64))
    mask.paste(255, (10, 10, 20, 20))

    result = np.asarray(paste_back(painted, original=original, mask=mask))

    inside = np.asarray(mask) == 255
    assert (result[inside] == (9, 8, 7)).all()
    np.testing.assert_array_equal(result[~inside], np.asarray(original)[~inside])
