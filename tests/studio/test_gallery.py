"""Pictures are published whole, once, and found again – from the database or, without it, from the files."""

import hashlib
import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipelines.spec.engine import GeneratedImage
from pipelines.spec.errors import NotFound, StorageError
from pipelines.spec.request import GenerationRequest
from studio import Settings
from studio.gallery import THUMBNAIL_SIDE, GalleryImage
from studio.jobs import ClaimLost, Job
from studio.metadata import Record, save
from studio.storage import Storage


@pytest.fixture
def storage(settings: Settings) -> Iterator[Storage]:
    storage = Storage.open(settings)
    yield storage
    storage.database.close()


def claimed(storage: Storage, **fields: object) -> Job:
    storage.jobs.submit(GenerationRequest.parse({"prompt": "a boat", "seed": 7, "num_images": 3, **fields}))
    job = storage.jobs.claim("cpu")
    assert job is not None
    return job


def generated(storage: Storage, job: Job, index: int = 0) -> GeneratedImage:
    request = storage.expand(job.request)[1][index]
    pixels = np.random.default_rng(index).integers(0, 256, (request.height, request.width, 3), dtype=np.uint8)
    return GeneratedImage(index, request, Image.fromarray(pixels), {"engine": "test", "device": "cpu"})


def test_a_new_job_has_made_nothing_whatever_others_have(storage: Storage) -> None:
    job = claimed(storage)
    storage.gallery.add(job, generated(storage, job))

    new = storage.jobs.submit(GenerationRequest(prompt="a boat"))

    assert new == storage.jobs.get(new.id)
    assert (new.images_made, storage.jobs.get(job.id).images_made) == (0, 1)


def test_drawings_that_were_enlarged_are_packed_small(storage: Storage) -> None:
    page = Image.new("L", (640, 640), "white")
    for index in range(40):
        ImageDraw.Draw(page).text((5, 16 * index), "the same words, line for line, as a page of text has them", fill=0)
    buffer = io.BytesIO()
    page.convert("RGB").save(buffer, format="PNG")
    job = claimed(storage, init_image=storage.inputs.put(page), strength=0.0, width=640, height=640)

    added = storage.gallery.add(job, replace(generated(storage, job), image=page.convert("RGB")))

    assert added.path.stat().st_size < 1.5 * len(buffer.getvalue()) + 4096


def test_a_picture_has_the_size_of_its_file_not_of_what_was_painted(storage: Storage) -> None:
    job = claimed(storage, num_images=1, width=256, height=128)
    picture = replace(generated(storage, job), image=Image.new("RGB", (300, 200)))

    added = storage.gallery.add(job, picture)

    assert (added.width, added.height, added.request.width, added.request.height) == (300, 200, 256, 128)
    assert storage.gallery.get(added.id) == added
    with storage.database.write() as connection:
        connection.exec_driver_sql("UPDATE image SET width = 256, height = 128")
    assert storage.gallery.rebuild().added == 1
    assert storage.gallery.page() == [added]


def fill(storage: Storage, *, jobs: int = 2, **fields: object) -> list[GalleryImage]:
    made = []
    for _ in range(jobs):
        job = claimed(storage, **fields)
        made += [storage.gallery.add(job, generated(storage, job, index)) for index in range(3)]
    return made


@pytest.mark.parametrize(
    ("output_format", "suffix"), [("png", ".png"), ("jpeg", ".jpg"), ("webp", ".webp"), ("avif", ".avif")]
)
def test_a_picture_is_a_file_with_its_record_a_thumbnail_and_a_row(
    output_format: str, suffix: str, storage: Storage
) -> None:
    job = claimed(storage, output_format=output_format, width=512, height=256)
    picture = generated(storage, job, 2)
    image = storage.gallery.add(job, picture)
    assert (image.id, image.index, image.request, image.provenance) == (
        f"{job.id}-2",
        2,
        picture.request,
        picture.provenance,
    )
    assert image.path.suffix == suffix
    assert hashlib.sha256(image.path.read_bytes()).hexdigest() == image.sha256
    assert image.image.size == (512, 256)
    assert output_format != "png" or np.array_equal(np.asarray(image.image), np.asarray(picture.image))
    with Image.open(image.thumbnail) as thumbnail:
        assert thumbnail.size == (THUMBNAIL_SIDE, THUMBNAIL_SIDE // 2)
    assert storage.gallery.get(image.id) == image


def test_a_picture_whose_file_is_gone_says_so(storage: Storage) -> None:
    image = fill(storage, jobs=1)[0]
    image.path.unlink()
    with pytest.raises(NotFound, match=f"the file of picture {image.id} is gone: .*studio gallery rebuild"):
        _ = image.image


def test_pages_show_the_newest_first(storage: Storage) -> None:
    made = fill(storage)
    assert storage.gallery.page() == made[::-1]
    assert storage.gallery.page(limit=2, offset=1) == made[::-1][1:3]
    assert storage.gallery.page(offset=99) == []
    assert storage.gallery.count() == 6
    assert storage.gallery.of_job(made[0].job_id) == made[:3]


def test_made_lists_what_a_resumed_job_need_not_make_again(storage: Storage) -> None:
    job = claimed(storage)
    for index in (0, 2):
        storage.gallery.add(job, generated(storage, job, index))
    assert storage.gallery.made(job) == {0, 2}


def test_a_worker_that_lost_its_job_publishes_nothing_visible(storage: Storage) -> None:
    zombie = claimed(storage)
    storage.jobs.bury("cpu", max_worker_deaths=9)
    with pytest.raises(ClaimLost):
        storage.gallery.add(zombie, generated(storage, zombie))
    assert storage.gallery.count() == 0
    heir = storage.jobs.claim("cpu")
    assert heir is not None
    image = storage.gallery.add(heir, generated(storage, heir))
    assert storage.gallery.page() == [image]
    assert len(list(files(storage))) == 1


def test_deleting_removes_row_thumbnail_and_file(storage: Storage) -> None:
    first, second, *_ = fill(storage)
    storage.gallery.delete(first.id)
    with pytest.raises(NotFound):
        storage.gallery.get(first.id)
    with pytest.raises(NotFound):
        storage.gallery.delete(first.id)
    assert not first.path.exists()
    assert not first.thumbnail.exists()
    assert storage.gallery.get(second.id).path.exists()
    assert storage.gallery.count() == 5


HOSTILE = ["", "-", "x-0", "../../etc/passwd-0", "-1", "{}", "{}-", "{}-99", "{}-00000", "{}-1e0", "{}- 0", "{}-²"]
HOSTILE += ["{}-0\0", "\udcff-0", "a\0-0", "%-0", "' OR 1=1 -- -0", "{}-9999999999999999999999", "é" * 9999 + "-0"]


@pytest.mark.parametrize("image_id", HOSTILE, ids=range(len(HOSTILE)))
def test_an_id_of_nothing_is_not_found(image_id: str, storage: Storage) -> None:
    made = fill(storage, jobs=1)
    with pytest.raises(NotFound, match="there is no image ") as caught:
        storage.gallery.get(image_id.replace("{}", made[0].job_id))
    assert len(str(caught.value)) < 1000
    str(caught.value).encode()


def test_a_thumbnail_that_cannot_be_written_leaves_no_picture_behind(storage: Storage) -> None:
    job = claimed(storage)
    storage.gallery.thumbnails_dir.write_text("I am in the way")
    with pytest.raises(StorageError, match="thumbnails"):
        storage.gallery.add(job, generated(storage, job))
    assert list(files(storage)) == []
    assert storage.gallery.count() == 0


def files(storage: Storage) -> Iterator[Path]:
    return (path for path in storage.gallery.images_dir.rglob("*") if path.is_file())


def listing(storage: Storage) -> list[GalleryImage]:
    return storage.gallery.page(limit=1000)


def test_rebuilding_what_is_whole_changes_nothing(storage: Storage) -> None:
    fill(storage)
    before = listing(storage)
    rebuilt = storage.gallery.rebuild()
    assert (rebuilt.found, rebuilt.added, rebuilt.removed, rebuilt.unreadable) == (6, 0, 0, ())
    assert listing(storage) == before


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp", "avif"])
def test_without_the_database_the_files_give_the_same_listing(output_format: str, settings: Settings) -> None:
    storage = Storage.open(settings)
    fill(storage, output_format=output_format, prompt="שלום 👩\u200d🚀\nsecond line", negative_prompt="")
    before = listing(storage)
    storage.database.close()
    (settings.outputs_dir / "studio.db").unlink()
    shutil.rmtree(storage.gallery.thumbnails_dir)
    storage = Storage.open(settings)
    assert listing(storage) == []
    assert storage.gallery.rebuild().added == 6
    assert listing(storage) == before
    assert all(image.thumbnail.is_file() for image in before)
    storage.database.close()


def test_rebuilding_finds_what_came_and_forgets_what_went(storage: Storage) -> None:
    made = fill(storage)
    made[0].path.unlink()
    foreign = storage.gallery.images_dir / "holiday.jpg"
    Image.new("RGB", (32, 32)).save(foreign)
    broken = storage.gallery.images_dir / "broken.png"
    broken.write_bytes(made[1].path.read_bytes()[:100])
    (storage.gallery.images_dir / ".half.png").write_bytes(b"")
    rebuilt = storage.gallery.rebuild()
    assert (rebuilt.found, rebuilt.added, rebuilt.removed) == (7, 0, 1)
    assert set(rebuilt.unreadable) == {foreign, broken}
    assert listing(storage) == made[:0:-1]


def test_rebuilding_leaves_a_cut_avif_alone(settings: Settings) -> None:
    storage = Storage.open(settings)
    made = fill(storage, output_format="avif")
    data = made[0].path.read_bytes()
    shutil.rmtree(storage.gallery.thumbnails_dir)
    found = []
    for cut in range(1, len(data), len(data) // 40):
        made[0].path.write_bytes(data[:-cut])
        found.append(storage.gallery.rebuild().found)
    storage.database.close()
    assert set(found) == {6}


def test_a_copied_file_does_not_take_the_originals_place(storage: Storage) -> None:
    made = fill(storage)
    shutil.copy(made[0].path, storage.gallery.images_dir / "a copy.png")
    for _ in range(2):
        assert storage.gallery.rebuild().added == 0
        assert listing(storage) == made[::-1]


def test_rebuilding_never_lists_a_picture_twice(settings: Settings) -> None:
    storage = Storage.open(settings)
    made = fill(storage)
    shutil.copy(made[0].path, storage.gallery.images_dir / "zz copy.png")
    storage.database.close()
    (settings.outputs_dir / "studio.db").unlink()
    storage = Storage.open(settings)
    assert storage.gallery.rebuild().added == 6
    assert [image.id for image in listing(storage)] == [image.id for image in made[::-1]]
    assert storage.gallery.rebuild().added == 0
    storage.database.close()


HOSTILE_RECORDS = {
    "no picture of ours": {"schema": 99},
    "job id that climbs": {"job": "../../../etc/passwd"},
    "job id that is half a letter": {"job": "\ud800"},
    "endless index": {"index": float("inf")},
    "index without a number": {"index": float("nan")},
    "negative index": {"index": -1},
    "index of a thousand digits": {"index": 10**1000},
    "time beyond all clocks": {"created_at": 10**1000},
    "no time": {"created_at": float("nan")},
    "prompt that is half a letter": {"request": {"prompt": "\ud800"}},
    "list for provenance": {"provenance": ["a"]},
    "provenance that nests": {"provenance": {"a": {"b": []}}},
}


@pytest.mark.parametrize("change", HOSTILE_RECORDS.values(), ids=HOSTILE_RECORDS)
def test_a_hostile_file_is_unreadable_and_spoils_nothing(change: dict[str, object], storage: Storage) -> None:
    made = fill(storage, jobs=1)
    hostile = storage.gallery.images_dir / "hostile.png"
    picture = generated(storage, storage.jobs.get(made[0].job_id))
    record = Record(made[0].job_id, 0, 1.0, picture.request, {})
    data = record.to_json()
    request = {**data["request"], **change.get("request", {})}  # type: ignore[dict-item]
    forged = replace(record)
    object.__setattr__(forged, "to_json", lambda: {**data, **change, "request": request})
    with hostile.open("wb") as file:
        save(picture.image, file, forged, output_format="png")
    assert storage.gallery.rebuild().unreadable == (hostile,)
    assert listing(storage) == made[::-1]


def test_a_picture_that_a_rebuild_found_first_is_published_all_the_same(storage: Storage) -> None:
    job = claimed(storage)
    storage.gallery.add(job, generated(storage, job))
    image = storage.gallery.add(job, generated(storage, job))
    assert listing(storage) == [image]
    assert hashlib.sha256(image.path.read_bytes()).hexdigest() == image.sha256


def test_a_picture_that_is_published_while_the_index_is_rebuilt_stays(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = fill(storage, jobs=1)
    glob = Path.glob

    def publish_and_miss_one(folder: Path, pattern: str) -> list[Path]:
        found = [path for path in glob(folder, pattern) if path != made[0].path]  # as when it is replaced just now
        if folder == storage.gallery.images_dir:
            made.extend(fill(storage, jobs=1))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Path, "glob", publish_and_miss_one)
        rebuilt = storage.gallery.rebuild()
    assert (rebuilt.added, rebuilt.removed) == (0, 0)
    assert listing(storage) == made[::-1]


DAMAGE = {
    "no JSON": 'record = \'{"schema": 2, "jo\'',
    "no record": "record = '[1]'",
    "field of another version": "record = json_set(record, '$.request.from_the_future', 1)",
    "another prompt": "record = json_set(record, '$.request.prompt', 'a cat')",
    "another sum": "sha256 = 'f00'",
    "another job": "job_id = 'ffffffffffffffff'",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_row_closes_nothing_and_is_rebuilt(damage: str, storage: Storage) -> None:
    made = fill(storage)
    with storage.database.write() as connection:
        connection.exec_driver_sql(f"UPDATE image SET {damage} WHERE path LIKE '%' || ?", (made[1].path.name,))
    rest = [image for image in made[::-1] if image.id != made[1].id]
    assert [image for image in listing(storage) if image.path != made[1].path] == rest
    assert storage.gallery.made(storage.jobs.get(made[0].job_id)) >= {0, 2}
    rebuilt = storage.gallery.rebuild()
    assert (rebuilt.found, rebuilt.added, rebuilt.removed) == (6, 1, 0)
    assert listing(storage) == made[::-1]
    assert storage.gallery.rebuild().added == 0


def test_a_row_that_cannot_be_read_is_told_where_it_is_asked_for(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    (image, *_) = fill(storage, jobs=1)
    with storage.database.write() as connection:
        connection.exec_driver_sql("UPDATE image SET record = '[]' WHERE \"index\" = 0")
    sentence = f"picture {image.id} is damaged in the database, not in its file .*; run `studio gallery rebuild`"
    with pytest.raises(StorageError, match=sentence) as caught:
        storage.gallery.get(image.id)
    assert len(storage.gallery.of_job(image.job_id)) == 2
    assert caplog.messages == [str(caught.value)]


def test_a_row_whose_file_cannot_be_read_is_removed(storage: Storage) -> None:
    made = fill(storage)
    made[2].path.write_bytes(made[2].path.read_bytes()[:50])
    rebuilt = storage.gallery.rebuild()
    assert (rebuilt.found, rebuilt.added, rebuilt.removed, rebuilt.unreadable) == (6, 0, 1, (made[2].path,))
    assert listing(storage) == [image for image in made[::-1] if image != made[2]]


def test_a_picture_whose_file_cannot_be_deleted_stays(storage: Storage) -> None:
    image = fill(storage, jobs=1)[0]
    image.path.unlink()
    image.path.mkdir()
    with pytest.raises(StorageError, match=f"cannot delete {image.path}: "):
        storage.gallery.delete(image.id)
    assert storage.gallery.get(image.id) == image


def test_a_position_is_the_number_of_newer_pictures(storage: Storage) -> None:
    fill(storage)
    page = storage.gallery.page()
    assert [storage.gallery.position(image.id) for image in page] == list(range(6))
    with pytest.raises(NotFound):
        storage.gallery.position("gone")
