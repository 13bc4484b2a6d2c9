"""Enlarging a picture of the gallery in a real browser."""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser


def test_the_picture_on_view_is_enlarged_and_shown(page: Page, server: Any) -> None:
    (made,) = server.studio.generate("a kite", progress=False)
    page.click("button[role=tab]:has-text('Gallery')")
    page.click(f"#gallery-grid [data-image='{made.id}']")

    page.click("#detail-enlarge-factor input")
    page.click("#detail-enlarge-factor [role=option]:has-text('3 ×')")
    page.click("#detail-enlarge")

    larger = page.locator("#detail-enlarge-shown [data-image]")
    expect(larger).to_be_visible()
    expect(page.locator("#detail-enlarge")).to_be_enabled()
    image = server.studio.gallery.page(limit=1)[0]
    assert larger.get_attribute("data-image") == image.id
    assert (image.width, image.height) == (3 * made.width, 3 * made.height)
    assert (image.request.prompt, image.request.strength, image.request.upscaler) == ("a kite", 0, "lanczos")
    larger.click()
    expect(page.locator("#detail-picture img")).to_have_js_property("naturalWidth", image.width)
