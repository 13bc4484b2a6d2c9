"""kill -9 at any moment: no job is lost, no picture shows twice, no file is torn."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from random import Random

import psutil
import pytest

from studio import GenerationRequest, JobState, Settings, Studio
from studio.jobs import UNFINISHED
from studio.storage import worker_lock
from studio.supervisor import Supervisor
from tests.faults.conftest import assert_nothing_lost, assert_tidy, start_server, start_worker, wait_until

KILLS = 100
JOBS = 150


def submit(studio: Studio, count: int, **fields: int) -> list[str]:
    return [studio.submit(GenerationRequest(prompt=f"{i}", seed=i, **fields)).id for i in range(count)]


def living_worker(settings: Settings, device: str = "cpu") -> psutil.Process | None:
    lock = worker_lock(settings, device)
    try:
        return psutil.Process(int(lock.holder()["pid"])) if lock.is_held() else None
    except (KeyError, psutil.NoSuchProcess):
        return None


@contextmanager
def supervised(settings: Settings) -> Iterator[None]:
    """Workers as a server has them."""
    supervisor = Supervisor(settings)
    supervisor.start()
    try:
        yield
    finally:
        supervisor.stop()


_FORKS = textwrap.dedent("""
    import os, sys
    import pipelines.engines.fake_engine, studio.worker
    from studio.settings import Settings

    settings = Settings.model_validate_json(sys.argv[1])
    while True:
        if not (worker := os.fork()):
            os._exit(studio.worker.attend(settings, sys.argv[2]))
        if os.waitpid(worker, 0)[1] == 0:
            break
""")


@contextmanager
def forked(settings: Settings) -> Iterator[None]:
    """The same workers from a process that has imported all they need: a start costs milliseconds, not a second."""
    programs = [[sys.executable, "-c", _FORKS, settings.model_dump_json(), device] for device in settings.devices]
    nurseries = [subprocess.Popen(program, stdin=subprocess.PIPE) for program in programs]
    yield
    for nursery in nurseries:
        nursery.communicate(timeout=30)
        assert nursery.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "kills", "count"), [(forked, KILLS, JOBS), (supervised, 12, 20)])
def test_kills_at_any_moment_lose_nothing(
    workers: Callable[[Settings], AbstractContextManager[None]], kills: int, count: int, settings: Settings
) -> None:
    settings = settings.model_copy(update={"max_worker_deaths": 1000, "devices": ("cpu", "cuda:0")})
    random = Random(1)
    with Studio(settings) as studio:
        jobs = submit(studio, count - 10) + submit(studio, 10, num_images=3)
        with workers(settings):
            due: dict[int, float] = {}  # when each worker has to die
            killed: set[int] = set()
            while len(killed) < kills:
                time.sleep(0.01)
                for device in settings.devices:
                    worker = living_worker(settings, device)
                    if worker is None or worker.pid in killed:
                        continue
                    if time.monotonic() >= due.setdefault(worker.pid, time.monotonic() + random.uniform(0.0, 0.3)):
                        worker.kill()
                        killed.add(worker.pid)
                        if studio.queue_length() < 5:  # keep the workers busy to the last kill
                            jobs += submit(studio, 10)
            wait_until(lambda: not studio.jobs(states=UNFINISHED, limit=1))

        assert len(jobs) >= count
        assert sum(studio.job(job).worker_deaths for job in jobs) > kills / 2
        assert_nothing_lost(studio, jobs)


_SUPERVISES = textwrap.dedent("""
    import sys
    from studio.settings import Settings
    from studio.supervisor import Supervisor

    Supervisor(Settings.model_validate_json(sys.argv[1])).start()
    sys.stdin.read()
""")


@pytest.mark.slow
def test_a_server_killed_again_and_again_loses_nothing(settings: Settings, studio: Studio) -> None:
    random = Random(2)
    jobs = submit(studio, 40)
    for _ in range(8):
        program = [sys.executable, "-c", _SUPERVISES, settings.model_dump_json()]
        with subprocess.Popen(program, stdin=subprocess.PIPE) as server:
            time.sleep(random.uniform(0.3, 1.5))
            server.kill()
    for job in jobs:
        studio.wait(job)
    wait_until(lambda: not studio.live_workers())

    assert max(studio.job(job).worker_deaths for job in jobs) == 0
    assert_nothing_lost(studio, jobs)


_DIES_AT_A_WRITE = textwrap.dedent("""
    import os, signal, sys, threading
    from contextlib import contextmanager
    from dataclasses import replace
    from itertools import count
    from studio.database import Database
    from studio.gallery import Gallery
    from studio.jobs import JobStore
    from studio.settings import Settings
    from studio.storage import Storage
    from studio.worker import work

    class Deadly(Database):
        numbers = count(1)

        @contextmanager
        def write(self):
            number = next(Deadly.numbers)
            if (number, "before") == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            with super().write() as connection:
                yield connection
            if (number, "after") == fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    settings, fatal = Settings.model_validate_json(sys.argv[1]), (int(sys.argv[2]), sys.argv[3])
    usual = Storage.open(settings)
    database = Deadly(settings.database_url)
    jobs = JobStore(database)
    storage = replace(usual, database=database, jobs=jobs, gallery=Gallery(settings.outputs_dir, database, jobs))
    work(storage, "cpu", stop=threading.Event())
""")


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("write", [1, 2, 3, 4, 5, 6])
def test_death_at_the_nth_write_loses_nothing(settings: Settings, studio: Studio, write: int, moment: str) -> None:
    jobs = submit(studio, 2, num_images=2)
    program = [sys.executable, "-c", _DIES_AT_A_WRITE, settings.model_dump_json(), str(write), moment]

    died = subprocess.run(program, timeout=60, check=False)
    assert died.returncode == -signal.SIGKILL
    for job in jobs:
        studio.wait(job)

    assert_nothing_lost(studio, jobs)


def test_a_job_that_kills_its_workers_fails_and_the_next_is_done(settings: Settings) -> None:
    settings = settings.model_copy(update={"fake_step_seconds": 0.05})
    supervisor = Supervisor(settings)
    with Studio(settings) as studio:
        poison, harmless = submit(studio, 2)
        supervisor.start()
        try:
            for attempt in (1, 2):
                wait_until(lambda attempt=attempt: studio.job(poison).attempt == attempt)  # type: ignore[misc]
                worker = living_worker(settings)
                assert worker is not None
                worker.kill()
            wait_until(lambda: studio.job(harmless).is_finished)
        finally:
            supervisor.stop()

        assert studio.job(poison).state is JobState.FAILED
        assert "died 2 times" in (studio.job(poison).error or "")
        assert studio.gallery.of_job(poison) == []
        assert studio.job(harmless).state is JobState.DONE


def test_the_workers_of_a_killed_server_finish_their_job_and_leave(settings: Settings, studio: Studio) -> None:
    studio.settings.outputs_dir.mkdir(exist_ok=True)
    slow = settings.model_copy(update={"fake_step_seconds": 0.1})
    server = start_server(slow, port=7991)
    job = submit(studio, 1)[0]
    wait_until(lambda: studio.job(job).state is JobState.RUNNING)
    worker = living_worker(settings)
    assert worker is not None

    server.kill()
    server.communicate(timeout=10)
    wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)

    assert_nothing_lost(studio, [job])


def test_a_stopping_worker_gives_its_job_back_and_the_next_goes_on(settings: Settings, studio: Studio) -> None:
    hasty = settings.model_copy(update={"fake_step_seconds": 0.05, "drain_seconds": 0.1})
    job = submit(studio, 1, num_images=4)[0]
    with start_worker(hasty) as worker:
        wait_until(lambda: len(studio.gallery.of_job(job)) >= 1)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=10) == 0
    first = studio.gallery.of_job(job)
    assert studio.job(job).state is JobState.QUEUED
    studio.wait(job)

    assert studio.gallery.of_job(job)[: len(first)] == first
    assert studio.job(job).worker_deaths == 0
    assert_nothing_lost(studio, [job])


def test_a_worker_whose_input_closes_finishes_its_job(settings: Settings, studio: Studio) -> None:
    job = submit(studio, 1, num_inference_steps=50)[0]
    worker = start_worker(settings)
    wait_until(lambda: studio.job(job).state is JobState.RUNNING)

    worker.communicate(timeout=20)

    assert worker.returncode == 0
    assert_nothing_lost(studio, [job])


@pytest.mark.slow
def test_a_second_server_refuses_and_a_stale_lock_does_not(settings: Settings, studio: Studio) -> None:
    first = start_server(settings, port=7992)
    wait_until(lambda: bool(studio.live_workers()))

    second = start_server(settings, port=7993)
    _, sentence = second.communicate(timeout=60)
    assert second.returncode == 3
    assert str(first.pid) in sentence
    assert "7992" in sentence

    os.kill(first.pid, signal.SIGKILL)
    first.communicate(timeout=10)
    third = start_server(settings, port=7993)
    wait_until(lambda: studio.job(submit(studio, 1)[0]).is_finished or bool(studio.live_workers()))
    third.terminate()
    _, sentence = third.communicate(timeout=30)
    assert third.returncode == 0, sentence
    assert_tidy(studio)
