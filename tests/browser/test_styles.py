"""Styles in a real browser: those of the file at this moment, put around what was typed."""

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser


def write_styles(home: Path, **styles: str) -> None:
    rows = [f'{name},"{prompt}",' for name, prompt in styles.items()]
    (home / "styles.csv").write_text("\n".join(["name,prompt,negative_prompt", *rows]) + "\n")


def test_a_style_that_is_written_while_the_page_is_open_can_be_chosen_and_changes_the_prompt(
    page: Page, server: Any
) -> None:
    try:
        write_styles(server.studio.settings.home, Ink="ink, {prompt}", Oil="{prompt}, oil on canvas")
        page.focus("#styles input")
        page.click("#styles [role=option][aria-label='Oil']")
        page.fill("#prompt textarea", "a boat")
        page.click("#generate")

        expect(page.locator("#stage [data-state=done] .prompt")).to_have_text("a boat")
        request = server.studio.gallery.page(limit=1)[0].request
        assert (request.prompt, request.template, request.styles) == ("a boat, oil on canvas", "a boat", ("Oil",))

        page.click("#stage .picture")
        expect(page.locator("#detail-settings")).to_contain_text("a boat, oil on canvas")
        page.click("#detail-reuse")
        expect(page.locator("#prompt textarea")).to_have_value("a boat")
        expect(page.locator("#styles")).to_contain_text("Oil")
    finally:
        (server.studio.settings.home / "styles.csv").unlink()
