"""A mask painted in a real browser, with real strokes: what of it reaches the request."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

pytestmark = pytest.mark.browser

CANVAS = "#mask-painter canvas"
GIVEN = 400, 200
"""Width and height of the picture, as it stands."""


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return save(tmp_path / "given.png", GIVEN)


def save(path: Path, size: tuple[int, int], colour: str = "teal", **options: Any) -> Path:
    Image.new("RGB", size, colour).save(path, **options)
    return path


def give(page: Page, picture: Path, *, field: str = "init_image") -> None:
    if not page.locator("#init_image").is_visible():
        page.click("#start-from button >> nth=0")
    if page.locator(f"#{field} img").count():
        page.click(f"#{field} button[aria-label='Remove Image'], #{field} button[aria-label='Clear']")
        expect(page.locator(f"#{field} img")).to_have_count(0)
    page.set_input_files(f"#{field} input[type=file]", picture)
    expect(page.locator(f"#{field} img")).to_be_visible()
    page.wait_for_selector(CANVAS)


def stroke(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag the mouse between two places, as fractions of the picture."""
    page.locator(CANVAS).scroll_into_view_if_needed()
    box = page.locator(CANVAS).bounding_box()
    assert box is not None
    (x, y), (to_x, to_y) = (
        (box["x"] + across * box["width"], box["y"] + down * box["height"]) for across, down in (start, end)
    )
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(to_x, to_y, steps=5)
    page.mouse.up()


def asked(page: Page, server: Any) -> Any:
    """Press Generate and return the request that comes of it."""
    page.fill("#num_inference_steps input", "1")
    before = {job.id for job in server.studio.jobs()}
    page.click("#generate")
    page.wait_for_function(
        "known => { const j = document.querySelector('#stage .stage').dataset.job; return j && !known.includes(j) }",
        arg=sorted(before),
    )
    (job,) = [job for job in server.studio.jobs() if job.id not in before]
    return job.request


def mask_of(page: Page, server: Any) -> Image.Image | None:
    name = asked(page, server).mask_image
    return None if name is None else server.studio.inputs.open(name).convert("L")


@pytest.mark.parametrize("size", [GIVEN, (3000, 1500), (1024, 1024), (90, 160)])
def test_what_is_painted_is_white_and_the_rest_is_black(
    page: Page, server: Any, tmp_path: Path, size: tuple[int, int]
) -> None:
    give(page, save(tmp_path / "given.png", size))

    stroke(page, (0.25, 0.5), (0.75, 0.5))
    mask = mask_of(page, server)

    assert mask is not None
    width, height = size if max(size) <= 2048 else (2048, 1024)
    assert mask.size == (width, height)
    half_brush = 0.06 * min(width, height)
    left, top, right, bottom = mask.point(lambda value: 255 * (value >= 128)).getbbox() or (0, 0, 0, 0)
    to_a_pixel = pytest.approx
    assert left == to_a_pixel(0.25 * width - half_brush, abs=0.004 * width + 1)
    assert right == to_a_pixel(0.75 * width + half_brush, abs=0.004 * width + 1)
    assert top == to_a_pixel(0.5 * height - half_brush, abs=0.004 * height + 1)
    assert bottom == to_a_pixel(0.5 * height + half_brush, abs=0.004 * height + 1)
    assert mask.getpixel((width // 2, height // 2)) == 255
    assert mask.getpixel((width // 2, height // 4)) == 0


def test_a_picture_that_its_exif_turns_is_painted_on_as_it_stands(page: Page, server: Any, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    give(page, save(tmp_path / "turned.jpg", (200, 400), exif=exif))

    stroke(page, (0.1, 0.2), (0.1, 0.2))
    mask = mask_of(page, server)

    assert mask is not None
    assert mask.size == (400, 200)
    assert mask.getpixel((40, 40)) == 255
    assert mask.getpixel((360, 160)) == 0


def undo(page: Page) -> None:
    page.click("#mask-painter [data-part=undo]")


def clear(page: Page) -> None:
    page.click("#mask-painter [data-part=clear]")


def erase(page: Page) -> None:
    page.click("#mask-painter label:has-text('Eraser')")
    page.fill("#mask-painter [data-part=size]", "50")
    stroke(page, (0.2, 0.5), (0.8, 0.5))


def take_out(page: Page) -> None:
    page.click("#mask_image button[aria-label='Remove Image'], #mask_image button[aria-label='Clear']")


@pytest.mark.parametrize("unpaint", [undo, clear, erase, take_out])
def test_where_nothing_is_painted_there_is_no_mask(
    page: Page, server: Any, picture: Path, unpaint: Callable[[Page], None]
) -> None:
    give(page, picture)
    assert asked(page, server).mask_image is None, "before the first stroke"
    stroke(page, (0.25, 0.5), (0.75, 0.5))
    expect(page.locator("#mask_image img")).to_be_visible()

    unpaint(page)

    expect(page.locator("#mask_image img")).to_have_count(0)
    request = asked(page, server)
    assert request.mask_image is None
    assert request.init_image is not None


def test_undo_brings_back_what_was_cleared(page: Page, server: Any, picture: Path) -> None:
    give(page, picture)
    stroke(page, (0.25, 0.5), (0.75, 0.5))
    clear(page)
    expect(page.locator("#mask_image img")).to_have_count(0)

    undo(page)

    mask = mask_of(page, server)
    assert mask is not None
    assert mask.getpixel((200, 100)) == 255


def test_another_picture_clears_what_was_painted(page: Page, server: Any, picture: Path, tmp_path: Path) -> None:
    give(page, picture)
    stroke(page, (0.25, 0.5), (0.75, 0.5))
    expect(page.locator("#mask_image img")).to_be_visible()

    give(page, save(tmp_path / "other.png", (160, 160), "navy"))

    expect(page.locator("#mask_image img")).to_have_count(0)
    assert asked(page, server).mask_image is None
    stroke(page, (0.5, 0.5), (0.5, 0.5))
    mask = mask_of(page, server)
    assert mask is not None
    assert mask.size == (160, 160)


def test_a_mask_that_was_uploaded_is_shown_and_can_be_painted_on(
    page: Page, server: Any, picture: Path, tmp_path: Path
) -> None:
    mask = Image.new("L", GIVEN, 0)
    mask.paste(100, (0, 0, 40, 40))
    mask.save(tmp_path / "mask.png")
    give(page, picture)
    give(page, tmp_path / "mask.png", field="mask_image")

    request = asked(page, server)
    assert server.studio.inputs.path(request.mask_image).read_bytes() == (tmp_path / "mask.png").read_bytes()
    stroke(page, (0.5, 0.5), (0.5, 0.5))
    painted = mask_of(page, server)

    assert painted is not None
    assert [painted.getpixel(place) for place in ((20, 20), (200, 100), (300, 150))] == [100, 255, 0]


def test_repaint_lands_at_the_painter(page: Page, server: Any) -> None:
    job = server.studio.submit(server.studio.request("to repaint", num_inference_steps=1))
    page.wait_for_selector(f"#stage [data-job='{job.id}'][data-state=done]")
    page.click("#stage .picture")

    page.click("#detail-repaint")

    expect(page.locator(CANVAS)).to_be_in_viewport()
    expect(page.locator("#start-from")).to_have_class(re.compile("landed"))
    stroke(page, (0.5, 0.5), (0.5, 0.5))
    request = asked(page, server)
    assert request.prompt == "to repaint"
    assert server.studio.inputs.open(request.mask_image).size == (256, 256)


def test_reused_settings_bring_their_mask(page: Page, server: Any, picture: Path) -> None:
    give(page, picture)
    stroke(page, (0.25, 0.5), (0.75, 0.5))
    first = asked(page, server)
    page.wait_for_selector("#stage [data-state=done]")
    page.click("#stage .picture")

    page.click("#detail-reuse")

    expect(page.locator("#mask_image img")).to_be_visible()
    assert asked(page, server).mask_image == first.mask_image


def test_the_size_follows_the_image(page: Page, picture: Path) -> None:
    width = page.locator("#width input")
    expect(width).to_have_attribute("placeholder", "256")

    give(page, picture)

    expect(width).to_have_attribute("placeholder", "the image's shape")
    page.click("#init_image button[aria-label='Remove Image'], #init_image button[aria-label='Clear']")
    expect(width).to_have_attribute("placeholder", "256")


def test_a_finger_paints_on_a_telephone(chromium: Browser, server: Any, picture: Path) -> None:
    context = chromium.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(server.url)
    page.wait_for_selector("#stage .stage")
    give(page, picture)
    page.click("#mask-painter [data-part=large]")
    box = page.locator(CANVAS).bounding_box()
    assert box is not None
    finger = context.new_cdp_session(page)
    for kind, across in (("touchStart", 0.25), ("touchMove", 0.5), ("touchMove", 0.75), ("touchEnd", None)):
        places = [] if across is None else [{"x": box["x"] + across * box["width"], "y": box["y"] + box["height"] / 2}]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})
    page.click("#mask-painter [data-part=large]")

    mask = mask_of(page, server)

    assert mask is not None
    assert [mask.getpixel(place) for place in ((110, 100), (200, 100), (290, 100), (200, 20))] == [255, 255, 255, 0]
    context.close()
