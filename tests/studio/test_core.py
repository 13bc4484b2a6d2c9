"""Studio: one facade; a job is done by a living worker, else by this process, and lands in the same gallery."""

import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.spec.engine import GeneratedImage
from studio import (
    Cancelled,
    GalleryImage,
    GenerationFailed,
    GenerationRequest,
    InvalidRequest,
    JobState,
    NotFound,
    Settings,
    StorageError,
    Studio,
    Task,
)
from studio.metadata import read_texts
from studio.storage import Storage, worker_lock
from studio.supervisor import Supervisor
from tests.studio.conftest import write_model

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 160, 3), dtype=np.uint8))


def pixels(image: GalleryImage) -> bytes:
    return image.image.tobytes()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_prompt_becomes_pictures_in_the_gallery(studio: Studio) -> None:
    images = studio.generate("a blue boat", num_images=3, seed=5, progress=False)
    assert [image.request.seed for image in images] == [5, 6, 7]
    assert [image.request.prompt for image in images] == ["a blue boat"] * 3
    assert len({pixels(image) for image in images}) == 3
    assert studio.gallery.page() == images[::-1]
    (job,) = studio.jobs()
    assert (job.state, job.progress, job.attempt, job.device) == (JobState.DONE, 1.0, 1, "cpu")
    assert studio.queue_length() == 0


@pytest.mark.parametrize("again_by", ["asked", "fields"])
def test_what_a_picture_asked_for_makes_the_same_pixels(again_by: str, studio: Studio) -> None:
    first, second = studio.generate("a boat", num_images=2, progress=False)
    request = second.request.asked()
    asked = request if again_by == "asked" else studio.request("other", **request.model_dump())
    (again,) = studio.generate(asked, progress=False)
    assert pixels(again) == pixels(second) != pixels(first)
    assert again.request == second.request


def encoded(tmp_path: Path) -> bytes:
    buffer = io.BytesIO()
    PHOTO.save(buffer, format="PNG")
    return buffer.getvalue()


def saved(tmp_path: Path) -> Path:
    PHOTO.save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def named(tmp_path: Path) -> str:
    return str(saved(tmp_path))


@pytest.mark.parametrize("give", [lambda _: PHOTO, encoded, saved, named], ids=["Pillow", "bytes", "file", "name"])
def test_an_input_may_be_a_picture_its_bytes_or_a_file(give: Callable[[Path], Any], studio: Studio) -> None:
    (image,) = studio.generate("a boat", init_image=give(studio.settings.home), strength=0.5, progress=False)
    assert image.request.task is Task.IMAGE_TO_IMAGE
    assert (image.request.width, image.request.height) == (168, 96)
    assert np.array_equal(np.asarray(studio.inputs.open(image.request.init_image or "")), np.asarray(PHOTO))


@pytest.mark.parametrize("size", [(64, 32), (128, 64), (31, 16), (640, 321)])
def test_a_mask_may_have_its_own_size_but_not_its_own_shape(size: tuple[int, int], studio: Studio) -> None:
    request = studio.request("a boat", init_image=Image.new("RGB", (64, 32)), mask_image=Image.new("L", size, 255))

    assert studio.notes(request) == []


@pytest.mark.parametrize(
    ("grey", "fields", "is_told"),
    [
        (0, {}, True),
        (100, {}, True),
        (100, {"mask_mode": "soft"}, False),
        (255, {"invert_mask": True}, True),
        (255, {}, False),
        (0, {"invert_mask": True}, False),
        (0, {"outpaint_left": 64}, False),
    ],
)
def test_a_mask_of_nothing_is_told(grey: int, fields: dict[str, Any], is_told: bool, studio: Studio) -> None:
    request = studio.request("a boat", init_image=PHOTO, mask_image=Image.new("L", PHOTO.size, grey), **fields)

    assert [note.partition(":")[0] for note in studio.notes(request)] == ["mask_image"] * is_told


def test_inpainting_takes_a_mask_too(studio: Studio) -> None:
    mask = Image.new("L", PHOTO.size, 255)
    (image,) = studio.generate("a boat", init_image=PHOTO, mask_image=mask, width=128, height=64, progress=False)
    assert image.request.task is Task.INPAINT
    assert image.image.size == (128, 64)


@pytest.mark.parametrize("colour", ["white", "black"])
def test_transparent_parts_of_inputs_are_white_and_of_masks_are_kept(studio: Studio, colour: str) -> None:
    hidden = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
    hidden.paste(Image.new("RGBA", (32, 64), colour))
    black = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    request = GenerationRequest(init_image=studio.inputs.put(black), mask_image=studio.inputs.put(hidden), strength=0.5)
    storage = Storage.open(studio.settings)

    inputs = storage.open_inputs(request, studio.models()[0], [])
    storage.database.close()

    assert inputs.init_image is not None
    assert inputs.init_image.getpixel((0, 0)) == (255, 255, 255)
    assert inputs.mask_image is not None
    assert [inputs.mask_image.getpixel((x, 9)) for x in (0, 63)] == [255, 0]


MISSING = "f" * 64
REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"width": 0}, InvalidRequest, "width must be at least 64 and at most 4096, got 0"),
    ({"width": 63}, InvalidRequest, "width must be a multiple of 8, got 63; try 64"),
    ({"height": 4097}, InvalidRequest, "height must be a multiple of 8, got 4097; try 4096"),
    ({"num_inference_steps": 0}, InvalidRequest, "num_inference_steps must be at least 1 and at most 200, got 0"),
    ({"guidance_scale": float("nan")}, InvalidRequest, "guidance_scale must be a finite number, got nan"),
    ({"seed": 2**64}, InvalidRequest, f"seed must be at least 0 and at most {2**63 - 1}, got {2**64}"),
    ({"init_image": MISSING}, InvalidRequest, f"there is no stored input '{MISSING}'; store the image first"),
    ({"init_image": "photo.png"}, InvalidRequest, "init_image: cannot read photo.png: No such file"),
    ({"init_image": b"no picture"}, InvalidRequest, "init_image is not a PNG, JPEG, WebP or AVIF image"),
    ({"init_image": Path("missing.png")}, InvalidRequest, "init_image: cannot read missing.png: No such file"),
    ({"init_image": PHOTO, "mask_image": MISSING}, InvalidRequest, "there is no stored input"),
    ({"mask_image": PHOTO}, InvalidRequest, "mask_image needs init_image: give the picture it masks"),
    (
        {"init_image": PHOTO, "mask_image": PHOTO.rotate(90, expand=True)},
        InvalidRequest,
        "mask_image must have the shape of init_image",
    ),
    ({"init_image": PHOTO, "strength": -0.1}, InvalidRequest, "strength must be at least 0 and at most 1, got -0.1"),
    ({"prompt": "x <lora:y:1>"}, InvalidRequest, "LoRA 'y' is not installed; there are"),
    ({"strength": 0.5}, InvalidRequest, "strength 0.5 needs init_image"),
    ({"model": "fancy"}, InvalidRequest, "model 'fancy' is not installed; installed are: "),
    ({"scheduler": "ddim", "noise_schedule": "karras"}, InvalidRequest, "noise_schedule karras does not exist"),
    ({"cfg_scale": 7}, InvalidRequest, "cfg_scale is not a field of a request"),
]


@pytest.mark.parametrize(
    ("fields", "error", "message"), REFUSED, ids=[f"{i}-{next(iter(r[0]))}" for i, r in enumerate(REFUSED)]
)
def test_a_bad_request_is_refused_and_nothing_is_queued(
    fields: dict[str, Any], error: type[Exception], message: str, studio: Studio
) -> None:
    with pytest.raises(error) as caught:
        studio.generate("a boat", **fields, progress=False)
    assert str(caught.value).startswith(message)
    assert studio.jobs() == []
    assert not worker_lock(studio.settings, "cpu").is_held()


def test_a_job_that_fails_raises_its_reason(studio: Studio) -> None:
    studio.settings.outputs_dir.joinpath("images").write_text("I am in the way")
    with pytest.raises(GenerationFailed, match=r"cannot write .*png to .*images.*: Not a directory"):
        studio.generate("a boat", progress=False)
    (job,) = studio.jobs()
    assert job.state is JobState.FAILED
    assert studio.gallery.count() == 0


@pytest.fixture
def slow(settings: Settings) -> Iterator[Studio]:
    with Studio(settings.model_copy(update={"fake_step_seconds": 0.05})) as studio:
        yield studio


def test_cancelling_a_running_job_stops_it_within_a_moment(slow: Studio) -> None:
    seen: list[float] = []

    def cancel_midway(job: Any) -> None:
        seen.append(job.progress)
        if job.step >= 2:
            slow.cancel(job.id)

    job = slow.submit(GenerationRequest(prompt="a boat", num_inference_steps=200, num_images=5))
    started = time.monotonic()
    assert slow.wait(job.id, on_update=cancel_midway).state is JobState.CANCELLED
    assert time.monotonic() - started < 8
    assert seen == sorted(seen)
    assert slow.gallery.of_job(job.id) == []
    assert slow.preview(job.id) is None


def test_a_cancelled_job_says_what_was_made_and_kept(slow: Studio) -> None:
    def cancel_the_second(job: Any) -> None:
        if job.image_index == 1:
            slow.cancel(job.id)

    job = slow.submit(GenerationRequest(prompt="a boat", num_inference_steps=40, num_images=4))
    job = slow.wait(job.id, on_update=cancel_the_second)
    assert (job.state, job.images_made) == (JobState.CANCELLED, 1)
    with pytest.raises(Cancelled, match="was cancelled; 1 of 4 images were made and are kept"):
        slow.result(job)


def test_a_cancelled_job_raises_where_it_was_asked_for(slow: Studio) -> None:
    def cancel() -> None:
        wait_until(slow.jobs)
        slow.cancel(slow.jobs()[0].id)

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises(Cancelled, match="was cancelled"):
        slow.generate("a boat", num_inference_steps=200, progress=False)
    canceller.join()


def test_ctrl_c_cancels_the_job(slow: Studio) -> None:
    job = slow.submit(GenerationRequest(prompt="a boat", num_inference_steps=200))

    def interrupt(job: Any) -> None:
        if job.state is JobState.RUNNING:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        slow.wait(job.id, on_update=interrupt)
    assert slow.job(job.id).state is JobState.CANCELLED
    assert slow.live_workers() == []


def test_a_preview_shows_while_it_runs(slow: Studio) -> None:
    previews: list[bytes] = []

    def look(job: Any) -> None:
        if preview := slow.preview(job.id):
            previews.append(preview)

    slow.wait(slow.submit(GenerationRequest(prompt="a boat", num_inference_steps=20)).id, on_update=look)
    with Image.open(io.BytesIO(previews[0])) as preview:
        assert preview.format == "JPEG"
        assert max(preview.size) <= 512


def test_a_job_is_resumed_with_the_missing_pictures_only(studio: Studio) -> None:
    whole = studio.generate("a boat", seed=1, num_images=3, progress=False)
    job = studio.submit(GenerationRequest(prompt="a boat", seed=1, num_images=3))
    storage = Storage.open(studio.settings)
    claimed = storage.jobs.claim("cpu")
    assert claimed is not None
    first = storage.gallery.add(claimed, GeneratedImage(1, whole[1].request, whole[1].image, {}))
    storage.jobs.requeue(claimed)
    storage.database.close()

    assert studio.wait(job.id).attempt == 2
    images = studio.gallery.of_job(job.id)
    assert images[1] == first
    assert [pixels(image) for image in images] == [pixels(image) for image in whole]


def test_a_job_left_on_a_device_that_is_no_longer_configured_is_made_here(studio: Studio) -> None:
    job = studio.submit(GenerationRequest(prompt="a boat"))
    storage = Storage.open(studio.settings)
    assert storage.jobs.claim("cuda:7") is not None
    storage.database.close()
    waiting = threading.Thread(target=studio.wait, args=(job.id,), daemon=True)
    waiting.start()
    waiting.join(20)
    job = studio.job(job.id)
    assert (job.state, job.device, job.attempt) == (JobState.DONE, "cpu", 2)


def test_a_queued_job_keeps_its_model_when_the_default_changes(settings: Settings, studio: Studio) -> None:
    job = studio.submit(GenerationRequest(prompt="a boat"))
    write_model(settings.models_dir / "other")
    with Studio(settings.model_copy(update={"default_model": "other"})) as later:
        later.wait(job.id)
        (image,) = later.result(later.job(job.id))
    assert (job.request.model, image.request.model) == ("toy", "toy")


def test_waiting_for_nothing_is_not_found(studio: Studio) -> None:
    with pytest.raises(NotFound):
        studio.wait("0" * 16)


def test_two_threads_share_one_device_in_turn(studio: Studio) -> None:
    results: list[list[GalleryImage]] = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(studio.generate(f"boat {n}", progress=False)))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == studio.gallery.count() == 4


def test_progress_shows_on_a_terminal_when_wanted(
    studio: Studio, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    studio.generate("a boat")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    studio.generate("a boat", progress=False)
    assert capsys.readouterr() == ("", "")
    studio.generate("a boat")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "100%" in shown.err


def test_another_processs_worker_does_the_job(settings: Settings) -> None:
    supervisor = Supervisor(settings)
    supervisor.start()
    try:
        with Studio(settings) as studio:
            wait_until(studio.live_workers)
            (image,) = studio.generate("a boat", seed=1, progress=False)
            mine = subprocess.run(
                [sys.executable, "-c", _GENERATE, settings.model_dump_json()],
                capture_output=True,
                text=True,
                check=True,
            )
            assert {job.device for job in studio.jobs()} == {"cpu"}
            assert studio.gallery.count() == 2
            assert mine.stdout.strip() == str(studio.gallery.page()[0].path)
            assert pixels(studio.gallery.page()[0]) == pixels(image)
            log = (settings.outputs_dir / "logs" / "worker-cpu.log").read_text()
            assert "Traceback" not in log
    finally:
        supervisor.stop()
    assert not worker_lock(settings, "cpu").is_held()


_GENERATE = """
import sys
from studio import Settings, Studio
import studio.worker
studio.worker.load_engine = None  # this process must not need an engine
with Studio(Settings.model_validate_json(sys.argv[1])) as opened:
    print(opened.generate("a boat", seed=1, progress=False)[0].path)
"""


def test_a_damaged_database_is_told_at_the_start(settings: Settings) -> None:
    settings.outputs_dir.mkdir()
    (settings.outputs_dir / "studio.db").write_bytes(b"garbage" * 1000)
    with pytest.raises(StorageError, match=r"studio\.db: file is not a database; it is damaged; move the file away"):
        Studio(settings)


def test_an_outputs_folder_that_cannot_be_made_is_told_at_the_start(settings: Settings) -> None:
    settings.outputs_dir.write_text("I am in the way")
    with pytest.raises(StorageError, match=r"cannot make the folder .*outputs: File exists"):
        Studio(settings)


def test_a_pasted_text_says_what_its_picture_says(studio: Studio) -> None:
    (image,) = studio.generate("a boat", seed=7, progress=False)
    texts = read_texts(image.path)

    infotext = studio.read_text(f"\n{texts['parameters']}\n")

    assert studio.read_text(texts["studio"]) == studio.read(image.path)
    assert (infotext.program, infotext.request_fields["seed"]) == ("Open Weights Studio", 7)
    for nothing in ("", "{}", '{"schema": 99}'):
        with pytest.raises(NotFound, match="no settings of a picture can be read here"):
            studio.read_text(nothing)


def test_a_rebuild_deletes_only_the_inputs_that_nothing_needs(studio: Studio) -> None:
    names = ("painted", "enlarged", "deleted", "waits", "failed", "unread", "just given", "never used")
    ids = {name: studio.inputs.put(Image.effect_noise((128, 128), 20 + each)) for each, name in enumerate(names)}
    painted = {
        name: studio.generate(name, init_image=ids[name], progress=False)[0]
        for name in ("enlarged", "deleted", "unread")
    }
    studio.generate("painted", init_image=ids["painted"], progress=False)
    studio.upscale(painted["enlarged"], progress=False)
    ids["its source"] = studio.inputs.put(painted["enlarged"].path)
    for name in ("enlarged", "deleted"):
        studio.gallery.delete(painted[name].id)
    path = painted["unread"].path
    path.write_bytes(path.read_bytes().replace(b'"schema": ', b'"schema": 9'))
    studio.submit(studio.request("waits", init_image=ids["waits"]))
    failed = studio.submit(studio.request("failed", init_image=ids["failed"]))
    studio.cancel(failed.id)
    for name in ids:
        os.utime(studio.inputs.folder / ids[name], (1, 1))
    studio.inputs.put(studio.inputs.open(ids["just given"]))

    folder = studio.gallery.images_dir / "folder.png"
    folder.mkdir()

    rebuilt, forgotten = studio.rebuild_gallery()

    assert set(rebuilt.unreadable) == {path, folder}
    there = {name for name in ids if (studio.inputs.folder / ids[name]).exists()}
    assert there == {"painted", "enlarged", "its source", "waits", "failed", "unread", "just given"}
    assert forgotten == 2


def test_no_input_is_deleted_where_one_that_is_needed_cannot_be_read(studio: Studio) -> None:
    needed, other = (studio.inputs.put(Image.effect_noise((64, 64), each)) for each in (9, 10))
    studio.submit(studio.request("a", init_image=needed))
    (studio.inputs.folder / needed).unlink()
    (studio.inputs.folder / needed).mkdir()
    os.utime(studio.inputs.folder / other, (1, 1))

    with pytest.raises(StorageError, match=f"cannot read .*{needed}: .*; no stored input was deleted"):
        studio.rebuild_gallery()

    assert studio.inputs.path(other)
