"""Inputs are resized as asked, masks are blurred and bounded, holes filled, and kept pixels come back bit for bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from pipelines.spec.geometry import Box, binary_mask, blur, fill_masked, masked_region, paste_back, resize


def stripes(width: int, height: int) -> Image.Image:
    """Return a picture whose red tells the column and green the row, in percent."""
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [columns * 100 / (width - 1), rows * 100 / (height - 1), np.zeros((height, width))]
    return Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8))


def block(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


@pytest.mark.parametrize("mode", ["stretch", "crop", "fill"])
def test_a_picture_of_the_right_size_is_untouched(mode: str) -> None:
    picture = stripes(64, 48)

    assert resize(picture, mode, width=64, height=48).tobytes() == picture.tobytes()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mode", "columns", "rows"),
    [("stretch", (0, 100), (0, 100)), ("crop", (25, 75), (0, 100)), ("fill", (0, 100), (0, 100))],
)
def test_a_wide_picture_is_stretched_cropped_or_kept_whole(
    mode: str, columns: tuple[int, int], rows: tuple[int, int]
) -> None:
    fitted = np.asarray(resize(stripes(200, 100), mode, width=64, height=64), dtype=int)  # type: ignore[arg-type]

    assert fitted.shape == (64, 64, 3)
    for channel, (low, high) in enumerate((columns, rows)):
        assert fitted[..., channel].min() == pytest.approx(low, abs=2)
        assert fitted[..., channel].max() == pytest.approx(high, abs=2)


@pytest.mark.parametrize("size", [(200, 100), (100, 200), (65, 3)])
def test_filling_up_smears_the_edges(size: tuple[int, int]) -> None:
    filled = np.asarray(resize(stripes(*size), "fill", width=64, height=64))

    if size[0] > size[1]:
        assert (filled[0] == filled[10]).all()
        assert (filled[-1] == filled[-10]).all()
    else:
        assert (filled[:, 0] == filled[:, 10]).all()
        assert (filled[:, -1] == filled[:, -10]).all()


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (127, 0), (128, 255), (255, 255)])
def test_a_mask_pixel_of_half_or_more_is_repainted(value: int, expected: int) -> None:
    grey = Image.new("L", (64, 64), value)

    assert binary_mask(grey, size=(64, 64), invert=False).getextrema() == (expected, expected)
    assert binary_mask(grey, size=(64, 64), invert=True).getextrema() == (255 - expected, 255 - expected)


def test_a_mask_covers_the_same_part_whatever_its_own_size() -> None:
    large = block((200, 100), (80, 20, 120, 60))
    small = block((100, 100), (40, 20, 60, 60))

    masks = [binary_mask(mask, size=(200, 100), invert=False) for mask in (large, small)]

    assert masks[0].getbbox() == (80, 20, 120, 60)
    assert masks[1].getbbox() == pytest.approx((80, 20, 120, 60), abs=1)


@pytest.mark.parametrize(("sigma_x", "sigma_y"), [(4.0, 4.0), (1.0, 9.0), (0.0, 3.0), (2.2, 0.0)])
def test_a_blur_is_a_gaussian_along_each_axis(sigma_x: float, sigma_y: float) -> None:
    """scipy's, with A1111's kernel of 2 · int(2.5 sigma + 0.5) + 1 pixels."""
    mask = block((60, 40), (20, 10, 50, 40))
    expected = np.asarray(mask, dtype=np.float64)
    for axis, sigma in ((1, sigma_x), (0, sigma_y)):
        if int(2.5 * sigma + 0.5):
            radius = int(2.5 * sigma + 0.5)
            expected = ndimage.gaussian_filter1d(expected, sigma, axis=axis, mode="mirror", radius=radius)

    blurred = np.asarray(blur(mask, sigma_x=sigma_x, sigma_y=sigma_y), dtype=np.float64)

    assert np.abs(blurred - expected).max() <= 0.501


@pytest.mark.parametrize("sigma", [0.0, 64.0])
def test_a_blur_wider_than_the_mask_works(sigma: float) -> None:
    assert blur(block((9, 5), (0, 0, 4, 5)), sigma_x=sigma, sigma_y=sigma).size == (9, 5)


def test_the_region_of_a_blank_mask_is_none() -> None:
    assert masked_region(Image.new("L", (50, 50)), padding=32, ratio=1) is None


@pytest.mark.parametrize(
    ("box", "padding", "ratio", "region"),
    [
        ((40, 40, 60, 60), 10, 1.0, (30, 30, 70, 70)),
        ((40, 40, 60, 60), 0, 2.0, (30, 40, 70, 60)),
        ((40, 40, 60, 60), 0, 0.5, (40, 30, 60, 70)),
        ((0, 40, 20, 60), 0, 2.0, (0, 40, 40, 60)),
        ((80, 40, 100, 60), 5, 2.0, (40, 35, 100, 65)),
        ((10, 10, 90, 90), 32, 4.0, (0, 0, 100, 100)),
    ],
)
def test_the_region_is_padded_and_grown_to_the_ratio_where_there_is_room(
    box: tuple[int, int, int, int], padding: int, ratio: float, region: tuple[int, int, int, int]
) -> None:
    assert masked_region(block((100, 100), box), padding=padding, ratio=ratio) == Box(*region)


@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    corner=st.tuples(st.integers(0, 89), st.integers(0, 89)),
    padding=st.integers(0, 50),
    ratio=st.floats(0.1, 10),
)
def test_a_region_lies_within_the_picture_and_covers_the_mask(
    size: tuple[int, int], corner: tuple[int, int], padding: int, ratio: float
) -> None:
    left, top = corner[0] % size[0], corner[1] % size[1]
    mask = block(size, (left, top, min(left + 7, size[0]), min(top + 4, size[1])))

    region = masked_region(mask, padding=padding, ratio=ratio)

    assert region is not None
    assert 0 <= region.left <= left < region.right <= size[0]
    assert 0 <= region.top <= top < region.bottom <= size[1]
    assert mask.crop(region.corners).histogram()[255] == mask.histogram()[255]


def test_filling_takes_the_colours_around_the_hole() -> None:
    picture = Image.new("RGB", (64, 64), (200, 30, 40))
    picture.paste((0, 255, 0), (20, 20, 40, 40))

    filled = np.asarray(fill_masked(picture, block((64, 64), (20, 20, 40, 40))), dtype=int)

    assert np.abs(filled - (200, 30, 40)).max() <= 6  # eight bits, many times over


def test_kept_pixels_come_back_bit_for_bit() -> None:
    original, painted = stripes(64, 64), Image.new("RGB", (64, 64), (9, 8, 7))
    mask = block((64, 64), (10, 10, 20, 20))

    result = np.asarray(paste_back(painted, original=original, mask=mask))

    inside = np.asarray(mask) == 255
    assert (result[inside] == (9, 8, 7)).all()
    np.testing.assert_array_equal(result[~inside], np.asarray(original)[~inside])
