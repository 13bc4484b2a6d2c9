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
