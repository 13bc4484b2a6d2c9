"""How long submitting and claiming take with 10,000 jobs in the queue. `python -m benchmarks.queue`."""

import argparse
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from benchmarks.table import print_table, quantile
from pipelines.spec.request import GenerationRequest
from studio.database import Database, job_table
from studio.jobs import JobStore

SUBMIT_P95_MS = 50
CLAIM_P95_MS = 20


def fill(database: Database, count: int) -> None:
    """Put jobs into the queue in one go."""
    request = GenerationRequest(prompt="a red house", seed=1).model_dump(mode="json", exclude_defaults=True)
    rows = [
        {"id": f"{index:016x}", "state": "queued", "request": request, "created_at": float(index)}
        for index in range(count)
    ]
    with database.write() as connection:
        connection.execute(sa.insert(job_table), rows)


def milliseconds(action: Callable[[], object], *, repeats: int) -> list[float]:
    """Return how long each of so many calls took."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        times.append(1000 * (time.perf_counter() - started))
    return times


def bare_commits(path: Path, *, repeats: int) -> list[float]:
    """Return how long the same disk takes to commit one small row without any of our code: the peer."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE row (content TEXT)")
    times = milliseconds(lambda: connection.execute("INSERT INTO row VALUES ('x')"), repeats=repeats)
    connection.close()
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queued", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=300)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{Path(folder) / 'studio.db'}")
        fill(database, arguments.queued)
        jobs = JobStore(database)
        request = GenerationRequest(prompt="a blue boat")
        measured = {
            f"submit (target p95 {SUBMIT_P95_MS} ms)": milliseconds(
                lambda: jobs.submit(request), repeats=arguments.repeats
            ),
            f"claim (target p95 {CLAIM_P95_MS} ms)": milliseconds(lambda: jobs.claim("cpu"), repeats=arguments.repeats),
        }
        database.close()
        measured["a bare sqlite3 commit on this disk"] = bare_commits(
            Path(folder) / "bare.db", repeats=arguments.repeats
        )
    print_table(
        (f"{arguments.queued} queued", "p50 ms", "p95 ms", "max ms"),
        [
            (name, *(f"{value:.1f}" for value in (quantile(times, 0.5), quantile(times, 0.95), max(times))))
            for name, times in measured.items()
        ],
    )


if __name__ == "__main__":
    main()
