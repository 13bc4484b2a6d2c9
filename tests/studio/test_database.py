"""The database: same tables by migration as in code, safe journals, and damage told in a sentence."""

import re
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from pipelines.spec.errors import NotFound, StorageError
from pipelines.spec.request import GenerationRequest
from pipelines.spec.training import TrainingRequest
from studio import Settings, Studio, database
from studio.database import HEAD, Database, wal_is_safe
from studio.jobs import ClaimLost, GenerationJob, JobKind, JobState, JobStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "studio.db"


def open_database(path: Path) -> Database:
    return Database(f"sqlite:///{path}")


def test_migrations_make_exactly_the_tables_of_the_code(path: Path) -> None:
    opened = open_database(path)
    with opened.read() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, database.metadata) == []
        assert context.get_current_revision() == HEAD
        made = {row[0]: row[1] for row in connection.exec_driver_sql("SELECT name, sql FROM sqlite_master")}
    assert "AUTOINCREMENT" in made["job"]
    opened.close()


def test_head_is_the_newest_revision() -> None:
    assert ScriptDirectory(str(Path(database.__file__).parent / "migrations")).get_heads() == [HEAD]


def test_a_picture_of_before_its_size_was_kept_gets_the_painted_one(path: Path) -> None:
    def row(index: int, record: str) -> str:
        return f"INSERT INTO image VALUES ({index + 1}, 'a', {index}, 'path-{index}', 'sha', '{record}', 1.0)"

    engine, config = sa.create_engine(f"sqlite:///{path}"), Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
        for index, record in enumerate(('{"request": {"width": 300, "height": 200}}', "{damaged", "[]")):
            connection.exec_driver_sql(row(index, record))
    engine.dispose()

    opened = open_database(path)

    with opened.read() as connection:
        sizes = connection.exec_driver_sql('SELECT width, height FROM image ORDER BY "index"').all()
    assert sizes == [(300, 200), (0, 0), (0, 0)]
    opened.close()


def test_jobs_of_before_there_were_trainings_make_pictures(path: Path) -> None:
    engine, config = sa.create_engine(f"sqlite:///{path}"), Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0005")
        row = """INSERT INTO job (id, state, request, created_at) VALUES ('a', 'queued', '{"prompt": "a boat"}', 1.0)"""
        connection.exec_driver_sql(row)
    engine.dispose()

    opened = open_database(path)
    jobs = JobStore(opened)

    claimed = jobs.claim("cpu")
    assert isinstance(claimed, GenerationJob)
    assert (claimed.kind, claimed.title, claimed.loss) == (JobKind.GENERATE, "a boat", None)
    training = jobs.submit(TrainingRequest(data="/pictures", name="my-style"))
    assert jobs.get(training.id) == training
    opened.close()


def test_opening_again_changes_nothing_and_imports_no_migrations(path: Path) -> None:
    open_database(path).close()
    before = path.read_bytes()
    script = f"""
import sys
from studio.database import Database
Database("sqlite:///{path}").close()
print(sorted(name for name in sys.modules if name.startswith("alembic")))
"""
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
    assert path.read_bytes() == before


def test_two_processes_that_start_at_once_migrate_once(path: Path) -> None:
    script = f"""
import sys
from studio.database import Database
from studio.jobs import JobStore
from pipelines.spec.request import GenerationRequest
from pipelines.spec.training import TrainingRequest
print("ready", flush=True)
sys.stdin.read(1)
database = Database("sqlite:///{path}")
JobStore(database).submit(GenerationRequest(prompt="a boat"))
"""
    arguments = [sys.executable, "-c", script]
    pipe = subprocess.PIPE
    started = [subprocess.Popen(arguments, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(3)]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("g")
        process.stdin.flush()
    assert [(process.communicate()[1], process.returncode) for process in started] == [("", 0)] * 3
    opened = open_database(path)
    assert JobStore(opened).count(set(JobState)) == 3
    opened.close()


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 7, 0), False),
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 44, 9), True),
        ((3, 45, 0), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 0), False),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 52, 0), True),
        ((4, 0, 0), True),
    ],
)
def test_the_write_ahead_log_waits_for_a_sqlite_without_the_reset_bug(
    version: tuple[int, int, int], safe: bool
) -> None:
    assert wal_is_safe(version) is safe


def test_every_connection_is_durable_and_patient(path: Path) -> None:
    opened = open_database(path)
    with opened.read() as one, opened.read() as other:
        for connection in (one, other):
            journal = "wal" if wal_is_safe(sqlite3.sqlite_version_info) else "delete"
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == journal
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one() == 30000
    opened.close()


def test_a_write_that_raises_leaves_nothing(path: Path) -> None:
    opened = open_database(path)
    jobs = JobStore(opened)
    job = jobs.submit(GenerationRequest(prompt="a boat"))
    with pytest.raises(ZeroDivisionError), opened.write() as connection:
        connection.execute(sa.delete(database.job_table)) and 1 / 0
    assert jobs.get(job.id) == job
    opened.close()


REFUSED: list[tuple[str, bytes | None, str]] = [
    (
        "garbage",
        b"this is not a database at all, but long enough to be one. " * 100,
        "it is damaged; move the file away",
    ),
    ("a picture", b"\x89PNG\r\n\x1a\n" + bytes(5000), "it is damaged; move the file away and run `studio gallery"),
    ("header only", b"SQLite format 3\0" + bytes(4080), "it is damaged; move the file away"),
]


@pytest.mark.parametrize(("content", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_file_that_is_no_database_is_told_at_the_start(content: bytes, message: str, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(StorageError, match=message):
        open_database(path)
    assert path.read_bytes() == content


def test_a_folder_in_the_place_of_the_database_is_told_at_the_start(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StorageError, match=r"studio\.db: unable to open .*; check that the folder exists"):
        open_database(path)


def test_a_database_of_a_newer_version_is_left_alone(path: Path) -> None:
    opened = open_database(path)
    with opened.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    opened.close()
    before = path.read_bytes()
    with pytest.raises(StorageError, match=r"made by a newer version.*revision 9999"):
        open_database(path)
    assert path.read_bytes() == before


def test_another_programs_database_is_left_alone(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE job (salary INTEGER)")
    connection.close()
    with pytest.raises(StorageError, match="table job already exists"):
        open_database(path)


@pytest.mark.parametrize("url", ["nonsense", "magic://x", "sqlite+magic:///x"])
def test_a_url_that_names_no_database_is_told_in_a_sentence(url: str) -> None:
    with pytest.raises(StorageError, match=re.escape(url)):
        Database(url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+magic://anna:s3cret@host/studio",
        "postgresql+magic://host/studio?password=s3cret",
        "postgresql//anna:s3cret@host/studio",
        "postgresql://anna:s3cret@host:port/studio",
    ],
)
def test_a_password_is_never_told(url: str) -> None:
    with pytest.raises(StorageError) as raised:
        Database(url)
    assert "s3cret" not in str(raised.value)


def test_a_database_held_by_another_program_is_told_in_a_sentence(path: Path) -> None:
    opened = open_database(path)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with opened._engine.connect() as connection:  # the test cannot wait for thirty seconds
        connection.exec_driver_sql("PRAGMA busy_timeout = 50")
    with pytest.raises(StorageError, match="locked; another program holds it; try again"):
        JobStore(opened).submit(GenerationRequest(prompt="a boat"))
    holder.close()
    assert JobStore(opened).submit(GenerationRequest(prompt="a boat")).state is JobState.QUEUED
    opened.close()


def test_a_database_without_room_says_how_much_is_left(path: Path) -> None:
    opened = open_database(path)
    with opened._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageError, match=r"is full \(\d+\.\d MiB free\); this was not written; free some disk space"):
        JobStore(opened).submit(GenerationRequest(prompt="a boat " * 1000))
    opened.close()


def test_one_too_many_at_once_is_told_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sa, "create_engine", partial(sa.create_engine, pool_timeout=0.01))
    opened = open_database(path)
    with ExitStack() as readers:
        for _ in range(15):
            readers.enter_context(opened.read())
        with pytest.raises(StorageError, match=r"studio\.db: too many ask at once; try again"):
            JobStore(opened).newest()
    assert JobStore(opened).newest() == []
    opened.close()


def use(path: Path) -> None:
    """Everything that front doors and workers do with a database; damage may surface in any of it."""
    opened = open_database(path)
    try:
        jobs = JobStore(opened)
        listed = jobs.newest()
        for job in listed[:5]:
            jobs.get(job.id)
            jobs.preview(job.id)
        jobs.submit(GenerationRequest(prompt="a boat"), idempotency_key="again")
        if claimed := jobs.claim("cpu"):
            jobs.report(claimed, image_index=0, step=1, num_steps=4, preview=b"jpeg")
            jobs.finish(claimed, JobState.DONE)
        jobs.bury("cpu", max_worker_deaths=2)
        if listed:
            jobs.cancel(listed[0].id)
        jobs.count({JobState.QUEUED})
    finally:
        opened.close()


def test_flipped_bytes_are_told_in_a_sentence_or_do_no_harm(tmp_path: Path, settings: Settings) -> None:
    with Studio(settings) as studio:
        for number in range(3):
            studio.generate(f"a boat, number {number}", progress=False)
        for _ in range(20):
            studio.submit(GenerationRequest(prompt="a red house on a green hill at night"))
    whole = (settings.outputs_dir / "studio.db").read_bytes()
    path, told = tmp_path / "damaged.db", 0
    for seed in range(120):
        random = np.random.default_rng(seed)
        data = bytearray(whole)
        for at in random.integers(0, len(data), random.integers(1, 100)):
            data[at] ^= 1 << int(random.integers(0, 8))
        path.write_bytes(data)
        (tmp_path / "damaged.db-journal").unlink(missing_ok=True)
        try:
            with suppress(NotFound, ClaimLost):
                use(path)
                with Studio(settings.model_copy(update={"database": f"sqlite:///{path}"})) as damaged:
                    damaged.gallery.page()
        except StorageError:
            told += 1
    assert told > 60


def test_only_a_damaged_database_is_to_be_moved_away(path: Path) -> None:
    opened = open_database(path)
    with pytest.raises(StorageError, match=r"no such table: gone$"), opened.read() as connection:
        connection.exec_driver_sql("SELECT * FROM gone")
    opened.close()


def test_a_database_serves_one_outputs_folder(settings: Settings, tmp_path: Path) -> None:
    shared = settings.model_copy(update={"database": f"sqlite:///{tmp_path / 'shared.db'}"})
    with Studio(shared) as first:
        job = first.submit(GenerationRequest(prompt="a boat"))
        first._storage.jobs.claim("cpu")

        with pytest.raises(StorageError, match=rf"belongs to another outputs folder .*{shared.outputs_dir}; choose"):
            Studio(shared.model_copy(update={"outputs": tmp_path / "other"}))

        assert first.job(job.id).state is JobState.RUNNING

    moved = tmp_path / "moved"
    shared.outputs_dir.rename(moved)
    with Studio(shared.model_copy(update={"outputs": moved})) as studio:
        assert studio.job(job.id).id == job.id


def test_an_outputs_folder_may_get_a_new_database(settings: Settings, tmp_path: Path) -> None:
    for name in ("first.db", "second.db", "first.db"):
        with Studio(settings.model_copy(update={"database": f"sqlite:///{tmp_path / name}"})) as studio:
            assert studio.gallery.page() == []
