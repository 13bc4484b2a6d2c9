"""The reader in a real browser: a picture tells its settings, goes into the form, and is checked."""

import re
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

INFOTEXT = """a <b>red</b> house (tall:1.2)
Negative prompt: fog
Steps: 9, Sampler: Euler a, CFG scale: 5.5, Seed: 77, Size: 256x320, Model: unheard-of, Version: v1.10.1"""


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    chunks = PngInfo()
    chunks.add_text("parameters", INFOTEXT)
    path = tmp_path / "theirs.png"
    Image.new("RGB", (256, 320), "teal").save(path, pnginfo=chunks)
    return path


def drop(page: Page, path: Path) -> None:
    page.click("button[role=tab]:has-text('Read a picture')")
    page.set_input_files("#read-picture input[type=file]", path)


def value(page: Page, field: str) -> str:
    return page.input_value(f"#{field} :is(input, textarea)")


def test_a_picture_of_a1111_tells_its_settings_and_fills_the_form(page: Page, foreign: Path) -> None:
    drop(page, foreign)

    report = page.locator("#read-report")
    expect(report).to_contain_text("Made with")
    expect(report).to_contain_text("a <b>red</b> house (tall:1.2)")
    expect(page.locator("[data-outcome=missing]")).to_contain_text("unheard-of")
    expect(page.locator("#read-check")).to_be_disabled()

    page.click("#read-use")
    expect(page.locator("#prompt textarea")).to_be_visible()
    expect(page.locator("#prompt textarea")).to_have_value("a <b>red</b> house (tall:1.2)")
    written = {name: value(page, name) for name in ("negative_prompt", "seed", "num_inference_steps", "guidance_scale")}
    assert written == {
        "negative_prompt": "fog",
        "seed": "77",
        "num_inference_steps": "9",
        "guidance_scale": "5.5",
    }


def test_a_pasted_text_tells_its_settings_and_fills_the_form(page: Page) -> None:
    page.click("button[role=tab]:has-text('Read a picture')")
    page.fill("#read-text textarea", INFOTEXT)

    expect(page.locator("#read-report")).to_contain_text("a <b>red</b> house (tall:1.2)")
    expect(page.locator("#read-start")).to_be_disabled()
    page.click("#read-use")
    expect(page.locator("#prompt textarea")).to_have_value("a <b>red</b> house (tall:1.2)")
    assert value(page, "seed") == "77"


def test_a_picture_is_sent_to_be_repainted(page: Page, foreign: Path) -> None:
    drop(page, foreign)
    expect(page.locator("#read-use")).to_be_enabled()

    page.click("#read-repaint")

    expect(page.locator("#init_image img")).to_be_visible()
    expect(page.locator("#mask_blur_x input, #mask_blur_x textarea").first).to_be_visible()


def test_a_picture_without_words_can_still_be_started_from(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "plain.png"
    Image.new("RGB", (64, 64), "navy").save(path)

    drop(page, path)

    expect(page.locator("#read-report .complaint")).to_contain_text("it carries no metadata")
    expect(page.locator("#read-use")).to_be_disabled()
    expect(page.locator("#read-check")).to_be_disabled()
    expect(page.locator("#read-check-verdict")).to_contain_text("Only a picture that was made here")
    page.click("#read-start")
    expect(page.locator("#init_image img")).to_be_visible()


def test_what_is_no_picture_is_told_and_a_text_can_still_be_read(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "page.png"
    path.write_text("<html>")

    drop(page, path)

    expect(page.locator("#read-report .complaint")).to_have_text(re.compile("^page.png is not a PNG"))
    expect(page.locator("#read-start")).to_be_disabled()
    expect(page.locator("#read-repaint")).to_be_disabled()
    page.fill("#read-text textarea", INFOTEXT)
    expect(page.locator("#read-report")).to_contain_text("a <b>red</b> house (tall:1.2)")


def test_a_picture_of_ours_is_made_again_and_compared(page: Page, server: Any, tmp_path: Path) -> None:
    (made,) = server.studio.generate("a boat", progress=False)
    before = server.studio.gallery.count()

    drop(page, made.path)
    expect(page.locator("#read-check")).to_be_enabled()
    page.click("#read-check")

    expect(page.locator("#read-check-verdict .exact")).to_have_text("Exact, every pixel is the same.")
    page.wait_for_timeout(7000)  # the second picture stays for a moment: a page may be loading it
    assert server.studio.gallery.count() == before


def test_the_gallery_checks_a_picture_too(page: Page, server: Any) -> None:
    (made,) = server.studio.generate("a kite", progress=False)
    page.click("button[role=tab]:has-text('Gallery')")
    page.click(f"#gallery-grid [data-image='{made.id}']")

    page.click("#detail-check")

    expect(page.locator("#detail-check-verdict .exact")).to_be_visible()


def test_who_leaves_the_page_leaves_no_second_picture(page: Page, server: Any) -> None:
    (made,) = server.studio.generate("a tree", progress=False)
    before = server.studio.gallery.count()
    page.click("button[role=tab]:has-text('Gallery')")
    page.click(f"#gallery-grid [data-image='{made.id}']")

    page.click("#detail-check")
    expect(page.locator("#detail-check")).to_be_disabled()
    page.reload()  # a new session: nobody looks on any more

    deadline = time.monotonic() + 60
    while server.studio.current_job() is not None or server.studio.gallery.count() != before:
        assert time.monotonic() < deadline
        time.sleep(0.2)
