"""What a picture is painted on, and how the result goes back into the original."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.spec.canvas import Canvas, prepare_canvas
from pipelines.spec.engine import Inputs
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import resolve
from tests.pipelines.spec.conftest import make_model
from tests.pipelines.spec.test_geometry import block, stripes

PAINT = (250, 0, 250)
ORIGINAL = stripes(300, 200)
MASK = block((300, 200), (120, 60, 180, 120))


def prepare(mask: Image.Image | None = MASK, **fields: Any) -> Canvas:
    images = {"init_image": "0" * 64, **({} if mask is None else {"mask_image": "1" * 64})}
    model = make_model()
    (request,) = resolve(GenerationRequest(width=256, height=256, **images, **fields), model, input_size=(300, 200))
    return prepare_canvas(request, Inputs(model, ORIGINAL, mask))


def test_text_to_image_starts_from_nothing() -> None:
    model = make_model()
    canvas = prepare_canvas(resolve(GenerationRequest(), model)[0], Inputs(model))

    assert canvas == Canvas()
    assert canvas.finish(ORIGINAL) is ORIGINAL


@pytest.mark.parametrize(("mode", "size"), [("crop", (256, 256)), ("latent", (300, 200))])
def test_a_latent_resize_leaves_the_picture_as_it_is(mode: str, size: tuple[int, int]) -> None:
    canvas = prepare(None, resize_mode=mode)

    assert canvas.init_image is not None
    assert canvas.init_image.size == size


@pytest.mark.parametrize("blur", [0.0, 4.0, 8.0])
@pytest.mark.parametrize("area", ["whole_picture", "only_masked"])
@pytest.mark.parametrize("invert", [False, True])
def test_what_the_mask_keeps_comes_back_bit_for_bit(blur: float, area: str, invert: bool) -> None:
    canvas = prepare(mask_blur_x=blur, mask_blur_y=blur, inpaint_area=area, invert_mask=invert)
    assert canvas.overlay is not None

    finished = canvas.finish(Image.new("RGB", (256, 256), PAINT))

    original, kept = np.asarray(canvas.overlay.original), np.asarray(canvas.overlay.mask) == 0
    assert finished.size == (ORIGINAL.size if area == "only_masked" else (256, 256))
    assert kept.any()
    np.testing.assert_array_equal(np.asarray(finished)[kept], original[kept])
    assert (np.asarray(finished)[np.asarray(canvas.overlay.mask) == 255] == PAINT).all()


def test_only_the_masked_region_is_painted_and_goes_back_to_its_place() -> None:
    canvas = prepare(inpaint_area="only_masked", mask_padding=10, mask_blur_x=0.0, mask_blur_y=0.0)

    assert canvas.overlay is not None
    assert canvas.overlay.region is not None
    assert canvas.overlay.region.corners == (110, 50, 190, 130)
    assert canvas.mask_image is not None
    assert canvas.mask_image.size == (256, 256)
    red, green, _ = np.asarray(canvas.init_image)[128, 128]
    assert (red, green) == pytest.approx((50, 45), abs=2), "the middle of the canvas is the middle of the region"
    changed = (np.asarray(canvas.finish(Image.new("RGB", (256, 256), PAINT))) != np.asarray(ORIGINAL)).any(axis=-1)
    assert Image.fromarray(changed).getbbox() == (120, 60, 180, 120)


def test_a_blank_mask_with_only_masked_repaints_the_whole_picture_and_says_so() -> None:
    canvas = prepare(Image.new("L", (300, 200)), inpaint_area="only_masked")

    assert canvas.is_mask_blank
    assert canvas.mask_image is canvas.overlay is None


def test_the_masked_content_can_be_filled() -> None:
    assert prepare().init_image != prepare(masked_content="fill").init_image
    assert prepare(masked_content="original").init_image == prepare(masked_content="latent_noise").init_image


@pytest.mark.parametrize("blur", [0.0, 4.0])
@pytest.mark.parametrize("area", ["whole_picture", "only_masked"])
@pytest.mark.parametrize("mode", ["soft", "differential"])
@pytest.mark.parametrize("change", [None, Image.new("L", (32, 32), 255), Image.new("L", (32, 32))])
def test_a_grey_mask_keeps_its_black_bit_for_bit(blur: float, area: str, mode: str, change: Image.Image | None) -> None:
    grey = MASK.point(lambda value: value * 3 // 4)
    canvas = prepare(grey, mask_mode=mode, mask_blur_x=blur, mask_blur_y=blur, inpaint_area=area)
    assert canvas.mask_image is not None
    assert canvas.overlay is not None
    values = np.asarray(canvas.mask_image)
    assert np.median(values[values > 150]) == pytest.approx(191, abs=2), "greys stay what they are"

    finished = np.asarray(canvas.finish(Image.new("RGB", (256, 256), PAINT), change=change))

    original, kept = np.asarray(canvas.overlay.original), np.asarray(canvas.overlay.mask) == 0
    np.testing.assert_array_equal(finished[kept], original[kept])
    everywhere_original = change is not None and change.getextrema() == (0, 0)
    assert (finished == original).all() == everywhere_original


def test_a_grey_mask_may_be_inverted() -> None:
    options: dict[str, Any] = {"mask_mode": "differential", "mask_blur_x": 0.0, "mask_blur_y": 0.0}
    canvas = prepare(Image.new("L", (300, 200), 100), invert_mask=True, **options)

    assert canvas.mask_image is not None
    assert canvas.mask_image.getextrema() == (155, 155)


def outpaint(mask: Image.Image | None = None, **fields: Any) -> Canvas:
    images = {"init_image": "0" * 64, **({} if mask is None else {"mask_image": "1" * 64})}
    model = make_model()
    (request,) = resolve(GenerationRequest(**images, **fields), model, input_size=ORIGINAL.size)
    return prepare_canvas(request, Inputs(model, ORIGINAL, mask))


SIDES = {"left": (40, 0), "top": (0, 40), "right": (0, 0), "bottom": (0, 0)}
"""Which side grows by 40 -> where the old picture's corner comes to lie."""


@pytest.mark.parametrize(("side", "corner"), SIDES.items())
@pytest.mark.parametrize("area", ["whole_picture", "only_masked"])
@pytest.mark.parametrize("mode", ["hard", "soft", "differential"])
@pytest.mark.parametrize("size", [{}, {"width": 256, "height": 512}])
def test_outpaint_adds_to_a_side_and_keeps_the_old_picture_beyond_overlap_and_blur(
    side: str, corner: tuple[int, int], area: str, mode: str, size: dict[str, int]
) -> None:
    canvas = outpaint(mask_mode=mode, inpaint_area=area, **{f"outpaint_{side}": 40}, **size)
    assert canvas.init_image is not None
    change = Image.new("L", (8, 8)) if mode == "soft" else None

    finished = canvas.finish(Image.new("RGB", canvas.init_image.size, PAINT), change=change)

    wide = side in {"left", "right"}
    assert finished.size == ((340, 200) if wide else (300, 240)), "the input's scale, whatever it is painted at"
    reach = 8 + 10  # overlap, and half of the kernel of a blur of 4
    kept = {"left": (reach, 0, 300, 200), "top": (0, reach, 300, 200)}.get(side)
    kept = kept or ((0, 0, 300 - reach, 200) if wide else (0, 0, 300, 200 - reach))
    x, y = corner
    moved = (kept[0] + x, kept[1] + y, kept[2] + x, kept[3] + y)
    assert finished.crop(moved).tobytes() == ORIGINAL.crop(kept).tobytes()
    old = Image.new("L", finished.size)
    old.paste(255, (x, y, x + 300, y + 200))
    assert (np.asarray(finished)[np.asarray(old) == 0] == PAINT).all(), "what is new is painted and nothing else"


def test_outpaint_at_its_own_scale_resamples_nothing() -> None:
    """341 is painted at 344: the three columns more are cut off again."""
    canvas = outpaint(outpaint_left=41)
    assert canvas.init_image is not None
    assert canvas.init_image.size == (344, 200)
    noise = Image.effect_noise((344, 200), 80).convert("RGB")

    finished = canvas.finish(noise)

    assert finished.crop((0, 0, 41, 200)).tobytes() == noise.crop((1, 0, 42, 200)).tobytes()


def test_outpaint_and_a_mask_repaint_both() -> None:
    canvas = outpaint(MASK, outpaint_top=40, mask_blur_x=0.0, mask_blur_y=0.0)
    assert canvas.mask_image is not None

    repainted = np.asarray(canvas.mask_image) == 255

    expected = np.zeros((240, 304), bool)
    expected[:48] = expected[100:160, 122:182] = True  # the canvas is 4 columns wider than the picture
    np.testing.assert_array_equal(repainted, expected)


def test_outpaint_starts_from_the_edge_drawn_out_or_from_the_colours_around() -> None:
    edge, filled = outpaint(outpaint_right=60), outpaint(outpaint_right=60, masked_content="fill")
    assert edge.init_image is not None
    assert filled.init_image is not None

    assert edge.init_image.getpixel((359, 100)) == ORIGINAL.getpixel((299, 100))
    assert edge.unfilled == filled.unfilled == edge.init_image != filled.init_image
