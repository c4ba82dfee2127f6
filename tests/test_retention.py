"""Claims about how long and how much the run record keeps: ages, leaps of the clock, limits."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from llama.cloud.owners import Owners
from llama.cloud.run_store import Limits, RunStore
from llama.text.dates import utc
from tests.records import (
    DAY,
    NOW,
    SECRET,
    Clock,
    a_delivery,
    a_run,
    file,
    ids,
    looked_up,
    opened_connections,
    rows_of,
    stored,
    waiting,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.sqlite"


@pytest.fixture
def record(path: Path) -> Iterator[RunStore]:
    with closing(RunStore(path)) as record:
        yield record


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[sqlite3.Connection]:
    return opened_connections(monkeypatch)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def short(path: Path) -> Iterator[RunStore]:
    """A record with room for few."""
    with closing(RunStore(path, limits=Limits(runs=8, deliveries=4, tombstones=3), secret=SECRET)) as record:
        yield record


# ---- ages and the clock


def test_nothing_is_kept_beyond_its_days(path: Path, clock: Clock) -> None:
    """Runs, what waits, what was acknowledged: at the next collect, write or opening. What nobody fetched counts."""
    for occasion in ("collect", "finished", "open"):
        record = RunStore(path, retention_days=2, clock=clock)
        file(record, 1, prompt="zimtstern")
        file(record, 2)
        record.acknowledge("insurer", ids(2))
        clock.now += 1.5 * DAY
        record.write(a_run(3, finished_at=utc(clock.now)), "insurer", a_delivery(3))
        assert len(record.runs(9)) == 3 and waiting(record) == [1, 3]
        clock.now += 0.6 * DAY
        if occasion == "collect":
            assert record.collect("toko-a", 1) == ()
        if occasion == "finished":
            record.write(a_run(4, finished_at=utc(clock.now)))
        if occasion == "open":
            record.close()
            record = RunStore(path, retention_days=2, clock=clock)
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("SELECT run_id FROM deliveries").fetchall() == [(a_run(3).run_id,)]
        assert record.dropped == 1 and a_run(1).run_id not in [run.run_id for run in record.runs(9)]
        assert waiting(record) == [3] and b"zimtstern" not in stored(path)
        record.close()
        for left in path.parent.glob("runs.sqlite*"):
            left.unlink()
        clock.now = NOW


def test_a_clock_that_leaps_ahead_erases_nothing_until_a_day_has_passed_since(path: Path, clock: Clock) -> None:
    """Also over restarts; one that comes back has erased nothing, one that stays is believed."""
    record = RunStore(path, retention_days=30, clock=clock)
    file(record, 1)
    clock.now += 400 * DAY
    assert waiting(record) == [1] and record.leaps == 1
    clock.now = NOW + DAY
    assert waiting(record) == [1]
    clock.now += 400 * DAY
    assert waiting(record) == [1] and record.leaps == 2
    for _ in range(3):
        clock.now += 0.3 * DAY
        record.close()
        record = RunStore(path, retention_days=30, clock=clock)
        assert waiting(record) == [1] and len(record.runs(9)) == 1 and (record.leaps, record.dropped) == (0, 0)
    clock.now += 0.3 * DAY
    assert waiting(record) == [] and record.dropped == 1
    record.close()


def test_a_cloud_that_is_on_for_moments_only_forgets_in_the_end(path: Path, clock: Clock) -> None:
    """Each time its clock has leapt."""
    with closing(RunStore(path, retention_days=30, clock=clock)) as record:
        file(record, 1)
    for _ in range(3):
        clock.now += 40 * DAY
        with closing(RunStore(path, retention_days=30, clock=clock)) as record:
            left = waiting(record)
    assert left == []


@pytest.mark.parametrize("days", [1e-9, 1e9, float("inf")])
def test_any_number_of_days_will_do(path: Path, days: float) -> None:
    """From the second on which a run finishes to for ever."""
    with closing(RunStore(path, retention_days=days)) as record:
        file(record, 1)
        record.collect("insurer", 1)


# ---- limits


def test_only_the_newest_runs_are_kept(path: Path) -> None:
    """Twenty; a run that is finished again takes nobody's place, and a lower limit than before holds at once."""
    with closing(RunStore(path, limits=Limits(runs=20))) as record:
        for number in range(20):
            record.write(a_run(number))
        for _ in range(30):
            record.write(a_run(7))
        assert {run.run_id for run in record.runs(100)} == {a_run(number).run_id for number in range(20)}
        assert record.dropped_runs == 0
        for number in range(100, 110):
            record.write(a_run(number))
        kept = [7, *range(100, 110)]
        expected = [a_run(number) for number in reversed([*range(11, 20), *kept])]
        assert record.runs(100) == expected and len(expected) == 20 and record.dropped_runs == 10
    with closing(RunStore(path, limits=Limits(runs=3))) as record:
        assert len(rows_of(path)) == 3 and record.dropped_runs == 17
        record.write(a_run(110))
        assert record.runs(100) == [a_run(110), a_run(109), a_run(108)]


def test_a_vendor_that_stays_away_pushes_out_its_own_deliveries_only(short: RunStore) -> None:
    """The oldest of them, which are counted; no acknowledgement makes room for more."""
    record = short
    file(record, 100, "toko-a")
    for number in range(10):
        file(record, number)
    assert (waiting(record), waiting(record, "toko-a"), record.dropped) == ([6, 7, 8, 9], [100], 6)
    record.acknowledge("insurer", ids(7, 8))
    file(record, 10)
    assert (waiting(record), waiting(record, "toko-a"), record.dropped) == ([6, 9, 10], [100], 6)


def test_of_those_acknowledged_the_newest_ids_are_kept(short: RunStore) -> None:
    """Of each third party; so that a replay is delivered a second time only after many others, and is then told."""
    record = short
    file(record, 100, "toko-a")
    record.acknowledge("toko-a", ids(100))
    for number in range(5):
        file(record, number)
        record.acknowledge("insurer", ids(number))
    for number in (0, 1, 2, 3, 4):
        file(record, number)
    file(record, 100, "toko-a")
    assert (waiting(record), waiting(record, "toko-a"), record.dropped) == ([0, 1], [], 0)


def test_lower_limits_than_before_hold_when_the_file_is_opened(path: Path, record: RunStore) -> None:
    """Without a write."""
    for number in range(6):
        file(record, number)
    record.close()
    with closing(RunStore(path, limits=Limits(runs=2, deliveries=1))) as record:
        assert len(rows_of(path)) == 2 and waiting(record) == [5] and record.dropped == 5


def test_rows_that_another_program_deletes_or_adds_are_counted(path: Path, short: RunStore) -> None:
    """No limit is reached too early or too late."""
    record = short
    for number in range(4):
        file(record, number)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM deliveries WHERE run_id < ?", (a_run(3).run_id,))
        db.execute("DELETE FROM runs WHERE run_id < ?", (a_run(3).run_id,))
    for number in range(4, 7):
        file(record, number)
    assert waiting(record) == [3, 4, 5, 6] and record.dropped == 0 and len(record.runs(99)) == 4
    with closing(sqlite3.connect(path)) as db, db:
        db.executemany(
            "INSERT INTO runs VALUES (NULL, ?, x'', 2, '', ?, ?, 1, 1, 1, '', '[]', 'none')",
            ((os.urandom(16), utc(NOW), utc(NOW)) for _ in range(20)),
        )
    file(record, 7)
    assert len(rows_of(path)) == 8


@pytest.mark.long
def test_a_full_file_is_written_and_read_as_quickly_as_an_empty_one(
    connections: list[sqlite3.Connection], path: Path, clock: Clock
) -> None:
    """100,000 runs, four third parties' full outboxes: the steps that SQLite makes are counted, so none is a scan."""
    parties = ["insurer", "toko-a", "toko-b", "toko-c"]

    def steps(record: RunStore) -> tuple[int, int, int]:
        """SQLite's steps, in tens, of a write, a collect and an acknowledgement of one."""
        counted = [0]

        def count() -> None:
            counted[0] += 1

        def of(call: Callable[[], object]) -> int:
            counted[0] = 0
            call()
            return counted[0]

        connections[0].set_progress_handler(count, 10)
        number = 1 << 64 | connections[0].total_changes  # of no run that is there
        took = (
            of(lambda: file(record, number)),
            of(lambda: record.collect("insurer", 1)),
            of(lambda: record.acknowledge("insurer", ids(number))),
        )
        connections[0].set_progress_handler(None, 0)
        return took

    owners = Owners(SECRET)
    with closing(RunStore(path, clock=clock, secret=SECRET)) as record:
        steps(record)
        empty = steps(record)
        with closing(sqlite3.connect(path)) as db, db:
            run, delivery = a_run(), a_delivery()
            db.executemany(
                "INSERT INTO runs VALUES (NULL, ?, ?, 207, 'sheet', ?, ?, 5, 3, 700, ?, '[]', 'queued')",
                (
                    (number, owners.sealed(f"key {i % 1000}", number), run.opened_at, run.finished_at, "t" * 200)
                    for i, number in enumerate(ids(*range(100_000)))
                ),
            )
            for party in parties:
                db.executemany(
                    "INSERT INTO deliveries VALUES (NULL, ?, ?, x'', ?, 0, ?, 50, NULL, '', '', ?, '[]', 0)",
                    ((os.urandom(16), party, int(NOW), int(i >= 10_000), delivery.text) for i in range(20_000)),
                )
        started = time.perf_counter()
        steps(record)  # counts them, and makes the limits hold
        counted_s = time.perf_counter() - started
        full = steps(record)
        started = time.perf_counter()
        for number in range(200):
            file(record, 1 << 65 | number)
        ms = 1000 * (time.perf_counter() - started) / 200
        assert looked_up(path, "SELECT count(*) FROM runs") == [(100_000,)]
        waits = "SELECT count(*) FROM deliveries WHERE vendor = 'insurer' AND NOT acknowledged"
        assert looked_up(path, waits) == [(10_000,)]
    print(
        f"steps/10 empty {empty}, full {full}; {ms:.2f} ms per run with its delivery in a full file; "
        f"{counted_s:.2f} s to count one that another program has written to"
    )
    assert all(f < 2 * e + 20 for e, f in zip(empty, full, strict=True))
