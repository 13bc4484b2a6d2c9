"""The page in a real browser, against a real server and worker: what a user does and sees."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect

from studio.jobs import JobState
from studio.store import POCKET
from tests.studio.lora_files import write_lora_file

pytestmark = pytest.mark.browser


def fill(page: Page, **fields: object) -> None:
    for name, value in fields.items():
        page.fill(f"#{name} :is(input, textarea)", str(value))


def open_page(context: BrowserContext, url: str) -> Page:
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("#stage .stage")
    return page


def open_gallery(page: Page) -> None:
    page.click("button[role=tab]:has-text('Gallery')")
    page.wait_for_selector("#gallery-list")


def test_type_generate_watch_and_see(page: Page, server: Any) -> None:
    fill(page, prompt="a red house", num_inference_steps=40, seed=7)
    page.click("#generate")

    page.wait_for_selector("#stage [data-state=running] .preview")
    expect(page.locator("#stage .status")).to_have_text(re.compile(r"Step \d+ of 40( · \d+ s left)?"))
    assert 0 < int(page.get_attribute("#stage [role=progressbar]", "aria-valuenow") or 0) <= 100
    expect(page.locator("#cancel")).to_be_enabled()

    page.wait_for_selector("#stage [data-state=done]")
    expect(page.locator("#stage .status")).to_contain_text("Seed 7 · 256 × 256 · toy")
    picture = page.locator("#stage .picture img")
    expect(picture).to_have_js_property("naturalWidth", 256)
    image = server.studio.gallery.page(limit=1)[0]
    assert (image.request.prompt, image.request.seed) == ("a red house", 7)
    expect(page.locator(f"#strip [data-image='{image.id}'] img")).to_be_visible()


def test_ctrl_enter_generates_and_empty_seed_is_random(page: Page, server: Any) -> None:
    fill(page, prompt="by keyboard", seed="")
    page.press("#prompt textarea", "Control+Enter")

    expect(page.locator("#stage [data-state=done] .prompt")).to_have_text("by keyboard")
    page.click("#seed-reuse")
    expect(page.locator("#seed :is(input, textarea)")).to_have_value(
        str(server.studio.gallery.page(limit=1)[0].request.seed)
    )
    page.click("#seed-random")
    expect(page.locator("#seed :is(input, textarea)")).to_have_value("")


def test_reload_and_second_tab_watch_the_same_job(page: Page, context: BrowserContext, server: Any) -> None:
    fill(page, prompt="seen by all", num_inference_steps=40)
    page.click("#generate")
    job = page.wait_for_selector("#stage [data-state=running]").get_attribute("data-job")

    page.reload()
    second = open_page(context, server.url)

    for seen in (page, second):
        seen.wait_for_selector(f"#stage [data-job='{job}'][data-state=running] .preview")
    for seen in (page, second):
        seen.wait_for_selector(f"#stage [data-job='{job}'][data-state=done]")
    second.close()


def test_idle_tab_notices_what_another_program_asked(page: Page, server: Any) -> None:
    job = server.studio.submit(server.studio.request("from elsewhere", num_inference_steps=10))

    page.wait_for_selector(f"#stage [data-job='{job.id}'][data-state=done]")


def test_closed_browser_loses_nothing(chromium: Browser, server: Any) -> None:
    before = server.studio.gallery.count()
    first = chromium.new_context()
    page = open_page(first, server.url)
    for number in range(2):
        fill(page, prompt=f"left alone {number}", num_images=2, num_inference_steps=5)
        page.click("#generate")
        expect(page.locator("#cancel")).to_be_enabled()
    first.close()

    later = chromium.new_context()
    page = open_page(later, server.url)
    page.wait_for_selector("#stage [data-state=done]", timeout=30_000)
    open_gallery(page)

    expect(page.locator("#gallery-count")).to_contain_text(f"{before + 4} pictures")
    expect(page.locator("#gallery-grid .thumbnail")).to_have_count(min(24, before + 4))
    later.close()


def test_what_is_likely_not_meant_is_told(page: Page) -> None:
    fill(page, prompt="a (boat", num_inference_steps="1")

    page.click("#generate")

    expect(page.locator("#complaint .note").first).to_be_visible()


def test_a_cancelled_job_is_told_of_and_those_that_wait_go_with_one_press(page: Page, server: Any) -> None:
    asked = [server.studio.request(f"boat {n}", num_inference_steps=100 + n) for n in range(4)]  # no two share a batch
    jobs = [server.studio.submit(request) for request in asked]
    page.wait_for_selector("#stage [data-state=running]")
    expect(page.locator("#stage .status")).to_contain_text("3 more in the queue")

    page.click("#cancel")
    expect(page.locator("#stage .status")).to_contain_text(
        re.compile("Step .* 2 more in the queue · cancelled: boat 0")
    )
    page.click("#cancel-waiting")

    expect(page.locator("#cancel-waiting")).to_be_hidden()
    states = [server.studio.job(job.id).state for job in jobs]
    assert states == [JobState.CANCELLED, JobState.RUNNING, JobState.CANCELLED, JobState.CANCELLED]


def test_cancel_stops_within_a_step_or_two(page: Page, server: Any) -> None:
    fill(page, prompt="never mind", num_inference_steps=200)
    page.click("#generate")
    page.wait_for_selector("#stage [data-state=running] .preview")

    page.click("#cancel")

    page.wait_for_selector("#stage [data-state=cancelled]", timeout=5_000)
    expect(page.locator("#stage .status")).to_have_text("Cancelled")
    expect(page.locator("#cancel")).to_be_disabled()
    assert server.studio.jobs(limit=1)[0].state is JobState.CANCELLED


@pytest.mark.parametrize(
    ("field", "typed", "sentence"),
    [
        ("width", "63", "width must be a multiple of 8, got 63; try 64"),
        ("num_inference_steps", "0", "num_inference_steps must be at least 1 and at most 200, got 0"),
        ("seed", "<b>x</b>", "seed"),
    ],
)
def test_bad_input_is_told_beside_the_button(page: Page, server: Any, field: str, typed: str, sentence: str) -> None:
    before = len(server.studio.jobs())
    fill(page, **{field: typed})
    page.click("#generate")

    expect(page.locator("#complaint [role=alert]")).to_contain_text(sentence)
    assert len(server.studio.jobs()) == before

    fill(page, **{field: ""}, prompt="good again")
    page.click("#generate")
    expect(page.locator("#complaint [role=alert]")).to_have_count(0)
    page.wait_for_selector("#stage [data-state=done]")


def test_image_and_mask_reach_the_request(page: Page, server: Any, tmp_path: Path) -> None:
    picture = tmp_path / "given.png"
    Image.new("RGB", (96, 64), "teal").save(picture)
    page.click("#start-from button >> nth=0")
    page.set_input_files("#init_image input[type=file]", picture)
    page.set_input_files("#mask_image input[type=file]", picture)
    expect(page.locator("#init_image img, #mask_image img")).to_have_count(2)
    fill(page, prompt="from an image", strength="0.5")
    page.click("#generate")

    expect(page.locator("#stage [data-state=done] .prompt")).to_have_text("from an image")
    request = server.studio.gallery.page(limit=1)[0].request
    assert request.strength == 0.5
    assert server.studio.inputs.path(request.init_image).read_bytes() == picture.read_bytes()
    assert request.mask_image == request.init_image


def test_gallery_shows_reuses_downloads_and_deletes(page: Page, server: Any, tmp_path: Path) -> None:
    job = server.studio.submit(server.studio.request("to keep", seed=2**60, guidance_scale=6.5, num_inference_steps=3))
    page.wait_for_selector(f"#stage [data-job='{job.id}'][data-state=done]")
    image = server.studio.gallery.of_job(job.id)[0]
    page.click("#stage .picture")

    expect(page.locator("#detail-settings")).to_contain_text("to keep")
    expect(page.locator("#detail-picture img")).to_have_js_property("naturalWidth", 256)
    with page.expect_download() as download:
        page.click("#detail-download a")
    assert download.value.suggested_filename == image.path.name
    assert Path(download.value.path()).read_bytes() == image.path.read_bytes()

    page.click("#detail-reuse")
    expect(page.locator("#prompt textarea")).to_have_value("to keep")
    expect(page.locator("#seed :is(input, textarea)")).to_have_value(str(2**60))
    page.click("#generate")
    page.wait_for_selector(f"#stage [data-state=done]:not([data-job='{job.id}'])")
    again = server.studio.gallery.page(limit=1)[0]
    assert again.request == image.request

    page.click("#stage .picture")
    page.click("#detail-delete")
    page.click("#detail-really")
    expect(page.locator(f"#gallery-grid [data-image='{image.id}']")).to_be_visible()
    expect(page.locator(f"#gallery-grid [data-image='{again.id}']")).to_have_count(0)
    assert not again.path.exists()


def test_gallery_turns_pages(page: Page, server: Any) -> None:
    missing = 30 - server.studio.gallery.count()
    if missing > 0:
        job = server.studio.submit(server.studio.request("many", num_images=missing, num_inference_steps=1))
        page.wait_for_selector(f"#stage [data-job='{job.id}'][data-state=done]", timeout=30_000)
    oldest = server.studio.gallery.page(limit=100)[-1].id
    open_gallery(page)

    expect(page.locator("#gallery-count")).to_contain_text("page 1 of 2")
    page.click("#gallery-older")
    expect(page.locator("#gallery-count")).to_contain_text("page 2 of 2")
    expect(page.locator(f"#gallery-grid [data-image='{oldest}']")).to_be_visible()
    expect(page.locator("#gallery-older")).to_be_disabled()


def test_every_control_has_a_name(page: Page) -> None:
    for accordion in ("#start-from", "#advanced"):
        page.click(f"{accordion} button >> nth=0")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, textarea, select, img')]
            .filter((e) => e.checkVisibility() && e.type !== 'file')
            .filter((e) => !(e.ariaLabel || e.title || e.alt || e.innerText?.trim() || e.labels?.length
                || e.querySelector('img')?.alt))
            .map((e) => e.outerHTML.slice(0, 200))"""
    )
    assert nameless == []


@pytest.mark.parametrize("width", [1280, 768, 390])
def test_page_is_never_wider_than_its_window(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})

    assert page.evaluate("document.documentElement.scrollWidth") <= width
    expect(page.locator("#generate")).to_be_in_viewport()


def test_a_phone_is_not_told_of_keys_that_it_lacks(chromium: Browser, server: Any) -> None:
    for is_phone in (False, True):
        context = chromium.new_context(viewport={"width": 390, "height": 844}, is_mobile=is_phone, has_touch=is_phone)
        page = context.new_page()
        page.goto(server.url)
        page.wait_for_selector("#stage .stage")
        page.evaluate("""document.querySelector('#stage .stage').innerHTML = '<span class="keys">Ctrl</span>'""")
        expect(page.locator("#stage .keys")).to_be_attached()
        expect(page.locator("#stage .keys")).to_be_visible(visible=not is_phone)
        context.close()


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (1280, 720), (390, 844)])
def test_how_far_a_job_is_can_be_seen_without_scrolling(page: Page, server: Any, width: int, height: int) -> None:
    page.set_viewport_size({"width": width, "height": height})
    fill(page, prompt="a boat", num_inference_steps="4")

    page.click("#generate")

    expect(page.locator("#stage [data-state=done] .status")).to_be_visible()
    page.evaluate("scrollTo(0, 0)")
    expect(page.locator("#stage .status")).to_be_in_viewport(ratio=1)


def test_quiet_words_can_be_read(page: Page) -> None:
    """WCAG 2.2, 1.4.3: small text needs a contrast of 4.5 to 1."""
    contrast = page.evaluate(
        """() => {
            const light = (css) => css.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
                .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
                .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0.05);
            const words = getComputedStyle(document.querySelector('#prompt-tokens')).color;
            return light(getComputedStyle(document.body).backgroundColor) / light(words);
        }"""
    )
    assert contrast >= 4.5


def test_another_view_is_seen_from_its_top(page: Page, server: Any) -> None:
    for seed in range(24):
        server.studio.submit(server.studio.request("many", seed=seed, num_inference_steps=1))
    page.set_viewport_size({"width": 390, "height": 500})
    page.wait_for_selector("#strip .thumbnail")

    for thumbnail in (page.locator("#strip .thumbnail").first, page.locator("#gallery-grid .thumbnail").last):
        thumbnail.scroll_into_view_if_needed()
        assert page.evaluate("scrollY") > 0
        thumbnail.click()
        expect(page.locator("#detail-settings")).to_be_visible()
        page.wait_for_function("scrollY === 0")
        page.click("#gallery-back")
        page.wait_for_selector("#gallery-grid .thumbnail >> nth=20")


def test_tokens_are_counted_while_typing(page: Page, server: Any) -> None:
    shutil.copytree(POCKET / "tokenizer", server.studio.settings.models_dir / "toy" / "tokenizer")
    expect(page.locator("#prompt-tokens")).to_have_text("0/75")

    fill(page, prompt="a red house, (at night:1.2)", negative_prompt="red " * 80)

    expect(page.locator("#prompt-tokens")).to_have_text("6/75")
    expect(page.locator("#negative_prompt-tokens")).to_have_text("80/150")


def test_what_was_typed_survives_a_reload_and_stays_in_its_tab(
    page: Page, context: BrowserContext, server: Any
) -> None:
    fill(page, prompt="half a tho", seed="12", num_inference_steps="zwölf")
    page.click("#advanced button >> nth=0")
    choose(page, "scheduler", "DDIM")
    choose(page, "output_format", "JPEG")

    page.reload()

    expect(page.locator("#prompt textarea")).to_have_value("half a tho")
    expect(page.locator("#seed :is(input, textarea)")).to_have_value("12")
    expect(page.locator("#num_inference_steps :is(input, textarea)")).to_have_value("zwölf")
    page.click("#advanced button >> nth=0")
    expect(page.locator("#scheduler input")).to_have_value("DDIM")
    expect(page.locator("#output_format input")).to_have_value("JPEG")
    second = open_page(context, server.url)
    expect(second.locator("#prompt textarea")).to_have_value("")
    second.close()


def choose(page: Page, field: str, label: str) -> None:
    page.click(f"#{field} input")
    page.click(f"#{field} [role=option] >> text=/^\\W*{label}$/")


def test_what_a_page_cannot_know_any_more_is_passed_over(page: Page, server: Any) -> None:
    page.evaluate(
        """sessionStorage.setItem('form', JSON.stringify(
            {gone: 1, prompt: 'kept', model: 'uninstalled', scheduler: 'none', seed: 7, output_format: {}}))"""
    )
    page.reload()

    expect(page.locator("#prompt textarea")).to_have_value("kept")
    expect(page.locator("#model input")).to_have_value("toy")
    page.click("#generate")
    expect(page.locator("#stage [data-state=done] .prompt")).to_have_text("kept")


def test_an_image_that_is_gone_is_asked_for_again(page: Page, server: Any) -> None:
    stored = server.studio.inputs.put(Image.new("RGB", (96, 64), "olive"))
    request = server.studio.request("from what is gone", init_image=stored, strength=0.5, num_inference_steps=4)
    job = server.studio.submit(request)
    page.wait_for_selector(f"#stage [data-job='{job.id}'][data-state=done]")
    page.click("#stage .picture")
    expect(page.locator("#detail-settings .inputs img")).to_have_js_property("naturalWidth", 96)
    server.studio.inputs.path(stored).unlink()

    page.click("#detail-reuse")

    expect(page.locator("#complaint [role=alert]")).to_have_text("init_image: the image is gone; give it again")
    expect(page.locator("#prompt textarea")).to_have_value("from what is gone")
    expect(page.locator("#strength :is(input, textarea)")).to_have_value("0.5")


def test_a_picture_that_another_has_deleted_is_told(page: Page, server: Any) -> None:
    job = server.studio.submit(server.studio.request("soon gone", num_inference_steps=1))
    page.wait_for_selector(f"#stage [data-job='{job.id}'][data-state=done]")
    page.click("#stage .picture")
    page.click("#detail-delete")
    server.studio.gallery.delete(f"{job.id}-0")

    page.click("#detail-really")

    expect(page.locator("#gallery-notice")).to_have_text("That picture had already been deleted.")
    expect(page.locator("#gallery-notice")).to_be_visible()
    page.wait_for_timeout(2500)  # longer than the list takes to be refreshed
    expect(page.locator("#gallery-notice")).to_be_visible()


def test_the_browsers_back_leaves_a_picture_for_the_list(page: Page, server: Any) -> None:
    (made,) = server.studio.generate("a kite", num_inference_steps=1, progress=False)
    expect(page.locator(f"#strip [data-image='{made.id}']")).to_be_visible()

    for place in ("#strip", "#gallery-grid"):
        page.click(f"{place} [data-image='{made.id}']")
        expect(page.locator("#detail-picture img")).to_be_visible()
        page.go_back()
        expect(page.locator("#gallery-grid")).to_be_visible()
        expect(page.locator("#gallery-detail")).to_be_hidden()


def test_chosen_loras_are_shown_and_their_words_go_into_the_prompt(page: Page, server: Any) -> None:
    folder = server.studio.settings.home / "loras"
    write_lora_file(folder / "sea side.safetensors")
    Image.new("RGB", (40, 60), "teal").save(folder / "sea side.png")
    (folder / "sea side.json").write_text('{"activation text": "by the <sea>", "preferred weight": 0.7}')

    fill(page, prompt="a boat <lora:sea side:0.5>")
    card = page.locator("#lora-cards .lora")
    expect(card).to_contain_text("sea side")
    expect(card).to_contain_text("Stable Diffusion 1.x · weight 0.7")
    expect(card.locator("img")).to_have_js_property("naturalWidth", 40)
    card.locator("button").click()
    expect(page.locator("#prompt textarea")).to_have_value("a boat <lora:sea side:0.5>, by the <sea>")
    fill(page, prompt="a boat")
    expect(card).to_have_count(0)
    fill(page, prompt="a boat <lora:SEA SIDE.safetensors:0.5>")
    expect(card).to_contain_text("sea side")
    expect(page.locator("#lora-help")).to_be_visible()
