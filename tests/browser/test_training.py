"""Training from the page: pictures up, a check in words, a job that no page is needed for, a LoRA to choose."""

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import BrowserContext, Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]

PATIENCE_MS = 240_000


def open_tab(page: Page) -> None:
    page.click("button[role=tab]:has-text('Train')")
    page.wait_for_selector("#train-start")


def choose(page: Page, field: str, option: str) -> None:
    page.click(f"#{field} input")
    page.click(f"#{field} [role=option][aria-label='{option}']")


def test_upload_check_train_reload_and_use(page: Page, context: BrowserContext, server: Any, tmp_path: Path) -> None:
    files = []
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (128, 128), colour).save(tmp_path / f"{colour}.png")
        (tmp_path / f"{colour}.txt").write_text(f"a {colour} house")
        files += [tmp_path / f"{colour}.png", tmp_path / f"{colour}.txt"]
    open_tab(page)
    expect(page.locator("#train-stage")).to_contain_text("Ten to thirty pictures")

    page.set_input_files("#train-uploads input[type=file]", files)
    expect(page.locator("#train-uploads")).to_contain_text("blue")
    page.click("#train-start")
    expect(page.locator("#train-words [role=alert]")).to_contain_text("name")

    for field, text in {"name": "my-style", "steps": "6", "rank": "2", "validation_every": "2"}.items():
        page.fill(f"#train-{field} :is(input, textarea)", text)
    page.fill("#train-validation_prompts textarea", "a red house")
    choose(page, "train-model", "pocket")
    page.click("#train-check")
    expect(page.locator("#train-words")).to_contain_text("3 pictures in sizes 128×128 (3); 6 steps")
    expect(page.locator("#train-words")).to_contain_text("memory is predicted when it starts")  # by the fake engine
    page.click("#train-start")

    page.wait_for_selector("#train-stage [data-state=running] .curve", timeout=PATIENCE_MS)
    page.reload()
    open_tab(page)
    expect(page.locator("#train-stage .status")).to_contain_text(re.compile(r"Training my-style, step \d+/6, loss \d"))
    expect(page.locator("#train-name :is(input, textarea)")).to_have_value("my-style")
    expect(page.locator("#train-rank :is(input, textarea)")).to_have_value("2")
    page.wait_for_selector("#train-stage [data-state=done]", timeout=PATIENCE_MS)
    expect(page.locator("#train-picture img")).to_be_visible()
    expect(page.locator("#train-stage")).to_contain_text("Loss")
    assert server.studio.lora("my-style").header is not None
