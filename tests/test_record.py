"""Claims about what the provider keeps of finished runs: real files, read by SQLite itself, of really served runs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

import llama.cloud.run_store as module
from llama import wire
from llama.cloud import schema
from llama.cloud.owners import Owners, key_hash
from llama.cloud.rows import stored as as_stored
from llama.cloud.run_store import BUSY_MS, Limits, Run, RunStore
from llama.errors import RecordError
from llama.text.dates import utc
from llama.tokenizer import Tokenizer
from llama.wire import Final, Finish, Hello, Open, Welcome
from tests.processes import ask, cloud
from tests.programs import needed
from tests.support import MAX_SEQ_LEN, ROOT, Halves, Peer, Served, event_of, open_request, run_main, step_of

Splits = Callable[..., Path]

PROMPT = [258, 84, 104, 101, 32]
NOW = time.time()
TAGGED = "For [NAME_1]: a mug, up to [PRICE_1]"
COLUMNS = ["place", "run_id", "owner", "bytes", "prompt_id", "opened_at", "finished_at", "prompt_tokens",
           "output_tokens", "compute_us", "text", "offers", "copy"]  # fmt: skip
SECRET = b"s" * 32
QUICK = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.sqlite"


@pytest.fixture
def record(path: Path) -> Iterator[RunStore]:
    with closing(RunStore(path)) as record:
        yield record


@pytest.fixture
def served(halves: Halves, tokenizer: Tokenizer, record: RunStore) -> Iterator[Served]:
    with Served(halves, tokenizer, record=record) as served:
        yield served


@pytest.fixture
def peer(served: Served) -> Iterator[Peer]:
    with served.peer() as peer:
        yield peer


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[sqlite3.Connection]:
    """Every connection to SQLite that is opened from here on, the record's among them."""
    opened, connect = list[sqlite3.Connection](), sqlite3.connect

    def kept(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        opened.append(connect(*args, **kwargs))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", kept)
    return opened


def looked_up(path: Path, query: str) -> list[tuple[Any, ...]]:
    """What stands in the file, read without any code of the product's."""
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def rows_of(path: Path) -> list[tuple[Any, ...]]:
    """All rows, oldest first: the fields of a Run in their order, and owner."""
    return looked_up(path, f"SELECT {', '.join(schema.RUN)}, owner FROM runs ORDER BY place")


def a_run(number: int = 1, **changes: Any) -> Run:
    fields: dict[str, Any] = {
        "run_id": number.to_bytes(16, "big"), "prompt_id": "gift-ideas", "opened_at": utc(NOW),
        "finished_at": utc(NOW + 9), "prompt_tokens": 5, "output_tokens": 3, "compute_us": 700, "text": TAGGED,
    }  # fmt: skip
    return Run(**(fields | changes))


def finish(served: Served, peer: Peer, request: Open, end: int) -> Final:
    """A session whose reply is its first ``end`` resumed ids."""
    with served.session(peer, request) as session:
        final = peer.ask(Finish(session, 1, end))
    assert isinstance(final, Final), final
    return final


def saying(text: str, **changes: Any) -> Open:
    """The Open of a run whose reply so far is ``text``: every byte is a token of the small tokenizer."""
    return open_request(resumed_ids=tuple(text.encode()), **changes)


@contextmanager
def held_by_another(path: Path) -> Iterator[None]:
    """A second connection that keeps the whole file to itself."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


# ---- what is kept of a run


def test_a_finished_run_is_one_row_with_its_ids_its_times_its_counts_and_its_reply(
    served: Served, peer: Peer, path: Path
) -> None:
    """An honest run of twelve tokens; the times are this minute's, in UTC, whatever the time zone."""
    before = datetime.now(UTC).replace(microsecond=0)
    ids = served.run(PROMPT, 12)
    (row,) = rows_of(path)
    run_id, prompt_id, opened_at, finished_at, prompt_tokens, output_tokens, compute_us, text, offers, copy, owner = row
    assert (len(run_id), prompt_id, prompt_tokens, output_tokens) == (16, "", len(PROMPT), 12)
    assert (text, offers, copy, owner) == (served.server.tokenizer.decode(ids), "[]", "none", b"")
    assert 0 < compute_us < 60e6
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", moment) for moment in (opened_at, finished_at))
    assert before <= datetime.fromisoformat(opened_at) <= datetime.fromisoformat(finished_at) <= datetime.now(UTC)


def test_the_position_says_what_the_device_was_told(served: Served, peer: Peer, record: RunStore) -> None:
    """Text with its tags, cut before the stop id, and the usage of Final; nothing after ``end`` counts."""
    request = saying(TAGGED + "\x03 and more", prompt_id="gift-ideas", stop_ids=(3,))
    final = finish(served, peer, request, len(TAGGED) + 4)
    (run,) = record.runs(10)
    assert (run.run_id, run.prompt_id, run.text) == (request.run_id, "gift-ideas", TAGGED)
    assert final.text == TAGGED
    usage = final.usage
    assert (run.prompt_tokens, run.output_tokens, run.compute_us) == (5, len(TAGGED), usage.compute_us)
    assert usage.output_tokens == len(TAGGED)


def test_every_run_has_a_row_of_its_own_and_the_newest_comes_first(served: Served, record: RunStore) -> None:
    """Also within one second, and however few are asked for."""
    with served.peer() as peer:
        requests = [saying("ab", prompt_id=f"sheet-{i}") for i in range(5)]
        for request in requests:
            finish(served, peer, request, 2)
    newest_first = [request.run_id for request in reversed(requests)]
    assert [run.run_id for run in record.runs(100)] == newest_first
    assert [run.run_id for run in record.runs(2)] == newest_first[:2]
    assert record.runs(0) == record.runs(-1) == []


def test_a_finish_that_is_asked_again_is_still_one_row(served: Served, peer: Peer, record: RunStore) -> None:
    """Resent, under the next number, and replayed in a new session after the first was lost: the last one wins."""
    request = saying("first")
    session = served.open(peer, request)
    for seq, end in ((1, 2), (1, 2), (2, 3)):
        assert isinstance(peer.ask(Finish(session, seq, end)), Final)
    assert [(run.text, run.output_tokens) for run in record.runs(10)] == [("fir", 3)]
    finish(served, peer, saying("other"), 5)
    finish(served, peer, saying("first again", run_id=request.run_id), 11)
    assert [run.text for run in record.runs(10)] == ["first again", "other"]


def test_a_run_of_another_sheet_cannot_take_the_place_of_one(record: RunStore) -> None:
    """Third parties know run ids; with one of them they change nothing of the run that has it."""
    first = Run(b"r" * 16, "insurer/cover", utc(1e9), utc(time.time()), 1, 1, 1, "first")
    delivery = wire.Delivery(first.run_id, first.prompt_id, first.finished_at, "prompt", withheld=True)
    assert record.write(first, "insurer", delivery) is wire.DeliveryStatus.WITHHELD
    with pytest.raises(RecordError, match="of another sheet has the same id"):
        record.write(replace(first, prompt_id="adviser/plan"), "adviser", delivery)
    assert record.runs(9) == [first] and record.collect("adviser", 9) == ()
    again = msgspec.structs.replace(delivery, text="now with text", withheld=False)
    # What the third party has is the first.
    assert record.write(first, "insurer", again) is wire.DeliveryStatus.WITHHELD


def id_of_a_second_owners_copy(path: Path, secret: bytes) -> bytes:
    """The id that the third party gets where another owner's run of the same id was there first."""
    with closing(RunStore(path, secret=secret)) as record:
        for owner in ("his", "mine"):
            record.write(a_run(1), "insurer", a_delivery(1), owner)
        return record.collect("insurer", 9)[1].run_id


def test_a_run_of_one_key_never_takes_the_place_of_anothers(path: Path) -> None:
    """With the same id, also of another sheet: two rows, and two deliveries, acknowledged and replayed apart.

    Also where the other one was there first under the id that a third party knows it by.
    """
    theirs, mine = a_run(1, copy="queued", text="his"), a_run(1, copy="queued", text="mine")
    with closing(RunStore(path, secret=SECRET)) as record:
        record.write(theirs, "insurer", a_delivery(1, text="another's"), "his")
        next_id = id_of_a_second_owners_copy(path.with_name("another.sqlite"), SECRET)
        squatting = replace(theirs, run_id=next_id)
        record.write(squatting, "insurer", a_delivery(1, run_id=next_id, text="more of it"), "his")
        record.write(mine, "insurer", a_delivery(1, text="mine"), "mine")
        assert record.runs(9) == [mine, squatting, theirs]
        first, second, third = record.collect("insurer", 9)
        assert [first.run_id, second.run_id] == [theirs.run_id, next_id] and third.text == "mine"
        assert len({first.run_id, second.run_id, third.run_id}) == 3 and len(third.run_id) == 16
        record.acknowledge("insurer", [first.run_id, second.run_id])
        for replayed, owner in ((theirs, "his"), (mine, "mine")):
            assert record.write(replayed, "insurer", a_delivery(1), owner) is wire.DeliveryStatus.QUEUED
        assert record.collect("insurer", 9) == (third,)
        with pytest.raises(RecordError, match="of another sheet has the same id"):
            record.write(replace(mine, prompt_id="adviser/plan"), owner="mine")
        assert record.runs(9) == [mine, theirs, squatting]


def test_nobody_without_the_secret_knows_under_which_id_a_second_owners_copy_goes(tmp_path: Path) -> None:
    """Or they could be there first, and make every look-up long."""
    secrets = (b"", b"a" * 32, b"b" * 32)
    assert len({id_of_a_second_owners_copy(tmp_path / f"{secret!r}.sqlite", secret) for secret in secrets}) == 3


def test_a_record_that_was_removed_is_not_written_to(record: RunStore, path: Path) -> None:
    """Nobody is told that a copy is queued which is gone when the cloud stops."""
    path.unlink()
    run = Run(b"r" * 16, "", utc(1e9), utc(time.time()), 1, 1, 1, "lost")
    with pytest.raises(RecordError, match="removed or replaced; start the cloud again"):
        record.write(run)
    path.write_bytes(b"")
    with pytest.raises(RecordError, match="removed or replaced"):
        record.write(run)


def test_a_run_that_is_never_finished_leaves_no_row(served: Served, peer: Peer, path: Path) -> None:
    """Closed, refused at its Finish, or just left."""
    with served.session(peer) as session:
        rows = served.halves.rows(PROMPT)
        peer.ask(step_of(session, 1, 0, rows), rows)
        assert peer.refusal(Finish(session, 2, 9)) == "out_of_range"
        assert peer.refusal(Finish(session, 7, 1)) == "out_of_sequence"
    assert peer.refusal(Finish(session, 2, 1)) == "unknown_session"
    assert rows_of(path) == []


@given(
    run_id=st.binary(min_size=16, max_size=16), prompt_id=st.text(max_size=200), text=st.text(min_size=1, max_size=12)
)
@QUICK
def test_ids_and_texts_arrive_unchanged_whatever_they_are(
    served: Served, peer: Peer, path: Path, run_id: bytes, prompt_id: str, text: str
) -> None:
    """Any Unicode, NUL and quotes among it; from the device's Open to the file."""
    assume(run_id not in {row[0] for row in rows_of(path)})  # another sheet's run may not take its place
    request = saying(text, run_id=run_id, prompt_id=prompt_id)
    finish(served, peer, request, len(request.resumed_ids))
    assert rows_of(path)[-1][:2] == (run_id, prompt_id)
    assert rows_of(path)[-1][7] == text


def test_nothing_but_these_columns_is_stored(served: Served, path: Path) -> None:
    """Five tables and their indices; no value is of another type than its column; one run is one row of one table."""
    served.run(PROMPT, 12)
    with closing(sqlite3.connect(path)) as db:
        assert [name for _, name, *_ in db.execute("PRAGMA table_info(runs)")] == COLUMNS
        assert [name for _, name, *_ in db.execute("PRAGMA table_info(deliveries)")] == [
            "place", "run_id", "vendor", "owner", "written_at", "acknowledged", "bytes", "sheet", "prompt_id",
            "finished_at", "text", "offers", "withheld",
        ]  # fmt: skip
        assert db.execute("SELECT type, tbl_name FROM sqlite_master ORDER BY type, tbl_name").fetchall() == [
            *[("index", "deliveries")] * 4, *[("index", "runs")] * 2, ("index", "sheets"),
            *[("table", name) for name in ("clock", "deliveries", "runs", "sheets", "versions")],
        ]  # fmt: skip
        assert db.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
        assert db.execute("SELECT count(*) FROM deliveries").fetchone() == (0,)
        (types,) = db.execute(f"SELECT {', '.join(f'typeof({name})' for name in COLUMNS)} FROM runs").fetchall()
    assert types == ("integer", "blob", "blob", "integer", *["text"] * 3, *["integer"] * 3, *["text"] * 3)


def test_a_run_shows_its_text_to_nobody_who_prints_it() -> None:
    """For logs and tracebacks."""
    assert "NAME_1" not in repr(a_run()) and "gift-ideas" in repr(a_run())


def test_without_a_record_nothing_is_kept(halves: Halves, tokenizer: Tokenizer, path: Path) -> None:
    """The default."""
    with Served(halves, tokenizer) as served:
        assert served.run(PROMPT, 2) == halves.tokens(PROMPT, 2)
    assert not list(path.parent.iterdir())


# ---- the file


def test_a_new_file_is_for_its_owner_only_and_so_are_its_companions(path: Path) -> None:
    """Under a umask that forbids nothing; one that was there keeps its mode."""
    before = os.umask(0)
    try:
        with closing(RunStore(path)) as record:
            record.write(a_run())
            files = sorted(path.parent.iterdir())
            assert [file.name for file in files] == ["runs.sqlite", "runs.sqlite-shm", "runs.sqlite-wal"]
            assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600] * 3
        path.chmod(0o640)
        RunStore(path).close()
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    finally:
        os.umask(before)


def test_runs_survive_reopening(path: Path) -> None:
    """Closed, it is one file, which can be copied away as it is; an empty file becomes a record too."""
    path.touch()
    for number in (1, 2, 3):
        with closing(RunStore(path)) as record:
            record.write(a_run(number))
        assert [file.name for file in path.parent.iterdir()] == ["runs.sqlite"]
    with closing(RunStore(str(path))) as record:
        assert record.runs(10) == [a_run(3), a_run(2), a_run(1)]


def test_runs_that_were_written_are_there_when_the_writer_was_not_closed(path: Path, tmp_path: Path) -> None:
    """What a killed cloud leaves: the file and its companion."""
    with closing(RunStore(path)) as record:
        record.write(a_run())
        left = tmp_path / "left"
        left.mkdir()
        for file in (path, path.with_name("runs.sqlite-wal")):
            shutil.copy(file, left)
    with closing(RunStore(left / "runs.sqlite")) as record:
        assert record.runs(10) == [a_run()]


def test_a_name_that_means_memory_to_sqlite_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``:memory:`` and ``file:…?mode=memory`` are kept like any other."""
    monkeypatch.chdir(tmp_path)
    for name in (":memory:", "file:x?mode=memory", "runs é 日本.sqlite"):
        with closing(RunStore(name)) as record:
            record.write(a_run())
        assert len(rows_of(tmp_path / name)) == 1


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


@pytest.mark.parametrize("rows", [0, 100_000])
def test_writing_a_run_takes_the_router_no_noticeable_time(path: Path, record: RunStore, rows: int) -> None:
    """In an empty file and in a full one, the median of 200 is far below what one token takes."""
    assert module.MAX_RUNS == 100_000
    with closing(sqlite3.connect(path)) as db, db:
        run = a_run()
        db.executemany(
            "INSERT INTO runs VALUES (NULL, ?, x'', 207, 'sheet', ?, ?, 5, 3, 700, ?, '[]', 'none')",
            ((os.urandom(16), run.opened_at, run.finished_at, "t" * 200) for _ in range(rows)),
        )
    took = []
    for number in range(200):
        started = time.perf_counter()
        record.write(a_run(number, text="t" * 2000))
        took.append(time.perf_counter() - started)
    print(f"{rows} rows: median {sorted(took)[100] * 1e3:.2f} ms, most {max(took) * 1e3:.2f} ms")
    assert sorted(took)[100] < 0.02
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM runs").fetchone() == (min(rows + 200, 100_000),)


def test_a_reader_sees_whole_rows_while_runs_are_finished(served: Served, path: Path) -> None:
    """Another connection that reads all the time: counts only grow, no read and no write fails."""
    counts, stop, failures = [0], threading.Event(), list[BaseException]()

    def read() -> None:
        try:
            with closing(sqlite3.connect(path, timeout=0)) as db:
                while not stop.is_set():
                    counts.append(len(db.execute("SELECT * FROM runs WHERE length(text) = 20").fetchall()))
        except BaseException as err:
            failures.append(err)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with served.peer() as peer:
            for _ in range(100):
                finish(served, peer, saying("t" * 20), 20)
    finally:
        stop.set()
        reader.join()
    assert not failures and counts == sorted(counts)
    assert len(rows_of(path)) == 100


def test_a_reader_that_stays_in_its_transaction_makes_nobody_wait(
    served: Served, record: RunStore, path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It sees what was there when it began."""
    served.run(PROMPT, 1)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM runs").fetchone() == (1,)
        served.run(PROMPT, 1)
        assert reader.execute("SELECT count(*) FROM runs").fetchone() == (1,)
    assert len(record.runs(10)) == 2 and capfd.readouterr().err == ""


# ---- a file that cannot be written any more


def logged_errors(capfd: pytest.CaptureFixture[str]) -> list[str]:
    """What the provider is told about runs that were not recorded, and nothing else."""
    reported = [event_of(line) for line in capfd.readouterr().err.splitlines()]
    assert all((each["level"], each["event"]) == ("error", "record_failed") for each in reported)
    return [each["message"] for each in reported]


def test_a_locked_file_costs_the_device_nothing(
    served: Served, peer: Peer, record: RunStore, path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The reply comes, one line says that the run is not in the record, the next run is again."""
    with held_by_another(path):
        request = saying(TAGGED, prompt_id="gift-ideas")
        with served.session(peer, request) as session:
            started = time.monotonic()
            final = peer.ask(Finish(session, 1, len(TAGGED)))
            assert time.monotonic() - started < 40 * BUSY_MS / 1000
            assert isinstance(final, Final) and final.text == TAGGED
            assert isinstance(peer.ask(Hello(wire.VERSION)), Welcome)
        assert served.run(PROMPT, 3) == served.halves.tokens(PROMPT, 3)
    assert logged_errors(capfd) == ["a finished run could not be recorded: database is locked"] * 2
    assert rows_of(path) == []
    finish(served, peer, request, len(TAGGED))
    assert [run.text for run in record.runs(10)] == [TAGGED] and capfd.readouterr().err == ""


def test_a_full_disk_costs_the_device_nothing(
    connections: list[sqlite3.Connection],
    served: Served,
    peer: Peer,
    record: RunStore,
    path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """SQLite's own limit of pages stands for the disk's; with room again, runs are recorded again."""
    finish(served, peer, saying("kept"), 4)
    (pages,) = connections[0].execute("PRAGMA page_count").fetchone()
    connections[0].execute(f"PRAGMA max_page_count = {pages}")
    large = [saying("z" * (MAX_SEQ_LEN - 5), prompt_id="gift" * 50) for _ in range(40)]
    finals = [finish(served, peer, request, MAX_SEQ_LEN - 5) for request in large]
    assert all(final.text == "z" * (MAX_SEQ_LEN - 5) for final in finals)
    said = logged_errors(capfd)
    assert set(said) == {"a finished run could not be recorded: database or disk is full"}
    assert len(rows_of(path)) == 41 - len(said)
    connections[0].execute("PRAGMA max_page_count = 1000000")
    finish(served, peer, saying("kept too"), 8)
    assert [run.text for run in record.runs(1)] == ["kept too"]


@pytest.mark.parametrize("harm", ["closed", "dropped"])
def test_a_record_that_is_gone_costs_the_device_nothing(
    served: Served, record: RunStore, path: Path, capfd: pytest.CaptureFixture[str], harm: str
) -> None:
    """Closed under the server, or its table dropped by somebody else."""
    if harm == "closed":
        record.close()
    else:
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("DROP TABLE runs")
    assert served.run(PROMPT, 3) == served.halves.tokens(PROMPT, 3)
    (said,) = logged_errors(capfd)
    assert said.startswith("a finished run could not be recorded: ")


@pytest.mark.parametrize("unwritable", [{"text": "Zimtstern\udc00"}, {"compute_us": 1 << 70}], ids=["text", "number"])
def test_an_error_says_nothing_of_the_run(record: RunStore, unwritable: dict[str, Any]) -> None:
    """Values that SQLite cannot hold, which no tokenizer and no counter makes; the file is as it was."""
    record.write(a_run(1))
    with pytest.raises(RecordError) as refused:
        record.write(a_run(1, **unwritable))
    assert re.fullmatch(r"a finished run could not be recorded: \w+Error", str(refused.value))
    assert record.runs(10) == [a_run(1)]
    record.write(replace(a_run(1), text="again"))
    assert [run.text for run in record.runs(10)] == ["again"]


# ---- files that are no record


def another_programs(path: Path, version: int = 0, table: str = "notes (run_id, text)") -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"CREATE TABLE {table}")
        db.execute(f"PRAGMA user_version = {version}")


def of_the_next_version(path: Path) -> None:
    RunStore(path).close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"PRAGMA user_version = {schema.VERSION + 1}")


UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "directory": (Path.mkdir, "is not a file; give --record_file the path of one"),
    "pipe": (os.mkfifo, "is not a file; give"),
    "dangling link": (lambda path: path.symlink_to("nowhere"), "is not a file; give"),
    "text": (lambda path: path.write_text("Dear diary\n"), "file is not a database; give --record_file another file"),
    "weights": (lambda path: path.write_bytes(os.urandom(9000)), "file is not a database; give"),
    "next version": (of_the_next_version, "is of version 6, and this release keeps version 5; give --record_file a"),
    "other program's": (another_programs, "is a database of another program; give --record_file a file of its own"),
    "other program's of version 1": (lambda path: another_programs(path, 1), "is a database of another program"),
    "another runs": (lambda path: another_programs(path, 1, "runs (run_id, km)"), "is a database of another program"),
    "version 0 with runs": (lambda path: another_programs(path, 0, "runs (km)"), "is of version 0, and this release"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_file_that_is_no_record_is_refused_in_one_line_and_left_as_it_is(path: Path, kind: str) -> None:
    """The line names the path and a cure."""
    make, said = UNUSABLE[kind]
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(RecordError) as refused:
        RunStore(path)
    assert str(path) in str(refused.value) and said in str(refused.value) and "\n" not in str(refused.value)
    assert before == (path.read_bytes() if path.is_file() else None)
    assert [file.name for file in path.parent.iterdir()] == ["runs.sqlite"]


def test_a_path_where_nothing_can_be_made_is_refused(tmp_path: Path) -> None:
    """A directory that is missing, one that is a file, one where nobody may write, a name too long, none at all."""
    (tmp_path / "file").touch()
    places = [tmp_path / "missing" / "x", tmp_path / "file" / "x", Path("/proc/x"), tmp_path / ("x" * 300), Path()]
    for place in places:
        with pytest.raises(RecordError) as refused:
            RunStore(place)
        assert "give --record_file" in str(refused.value) and "\n" not in str(refused.value)
        assert str(place.absolute()) in str(refused.value)


def as_a_user() -> list[str]:
    """What a command begins with that may not write everywhere: from the superuser these capabilities are taken."""
    if os.geteuid():
        return []
    return [needed("setpriv"), *(f"--{caps}=-dac_override,-dac_read_search" for caps in ("bounding-set", "inh-caps"))]


def test_a_record_that_may_only_be_read_is_refused_at_once(path: Path) -> None:
    """Before any run is lost: the file is read-only, then its directory is."""
    opens_it = "import sys; from llama.cloud.run_store import RunStore; RunStore(sys.argv[1]).close()"
    command = [*as_a_user(), sys.executable, "-c", opens_it, str(path)]
    RunStore(path).close()
    for locked, mode, said in ((path, 0o400, "by this user; change"), (path.parent, 0o500, "a local disk, where")):
        before = stat.S_IMODE(locked.stat().st_mode)
        locked.chmod(mode)
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        locked.chmod(before)
        assert ended.returncode == 1 and f"RecordError: the run record {path} cannot be " in ended.stderr
        assert said in ended.stderr and [file.name for file in path.parent.iterdir()] == [path.name]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def test_a_record_that_another_program_keeps_locked_is_refused_after_a_moment(path: Path) -> None:
    """Not waited for without end."""
    RunStore(path).close()
    with held_by_another(path), pytest.raises(RecordError, match="cannot be used: database is locked; give --record"):
        RunStore(path)
    RunStore(path).close()


# ---- deliveries


DAY = 86400
CATALOGUED = (wire.Offer("mug-1", "toko-a", "Mug", 45_000, "https://toko.example/mug", "a mug", ("mug",)),)


class Clock:
    """Seconds since 1970, as the test says."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def a_delivery(number: int = 1, **changes: Any) -> wire.Delivery:
    fields: dict[str, Any] = {
        "run_id": number.to_bytes(16, "big"), "prompt_id": "insurer/cover", "finished_at": utc(NOW),
        "prompt": 'questions = ["…"]', "text": f"{number}: {TAGGED}", "offers": CATALOGUED,
    }  # fmt: skip
    return wire.Delivery(**(fields | changes))


def file(record: RunStore, number: int, vendor: str = "insurer", **changes: Any) -> wire.Delivery:
    """A finished run of a third party's sheet."""
    delivery = a_delivery(number, **changes)
    record.write(a_run(number, copy="queued"), vendor, delivery)
    return delivery


def waiting(record: RunStore, vendor: str = "insurer") -> list[int]:
    """Numbers of the deliveries that would be handed out."""
    return [int.from_bytes(delivery.run_id, "big") for delivery in record.collect(vendor, 1_000_000, 1 << 40)]


def ids(*numbers: int) -> list[bytes]:
    return [number.to_bytes(16, "big") for number in numbers]


def stored(path: Path) -> bytes:
    """All bytes of the file and of its companions."""
    return b"".join(file.read_bytes() for file in path.parent.glob("runs.sqlite*"))


def test_a_delivery_is_handed_out_again_and_again_until_it_is_acknowledged(path: Path, record: RunStore) -> None:
    """As it was filed; oldest first; also by a record that is opened again."""
    filed = tuple(file(record, number) for number in (3, 1, 2))
    assert record.collect("insurer", 64) == record.collect("insurer", 64) == filed
    assert record.collect("insurer", 2) == filed[:2] and record.collect("insurer", 0) == ()
    record.acknowledge("insurer", ids(1, 77))
    assert record.collect("insurer", 64) == (filed[0], filed[2])
    record.close()
    with closing(RunStore(path)) as again:
        assert again.collect("insurer", 64) == (filed[0], filed[2])
        again.acknowledge("insurer", [*ids(2, 3), b"", b"unheard of"])
        assert waiting(again) == [] and again.dropped == 0


def test_a_run_that_is_replayed_is_delivered_once(record: RunStore) -> None:
    """What is waiting stays as it is, what was acknowledged does not come again; the run's own row is the last one."""
    first = file(record, 1)
    file(record, 1, text="another")
    assert record.collect("insurer", 64) == (first,) and len(record.runs(9)) == 1
    record.acknowledge("insurer", ids(1))
    file(record, 1, text="a third")
    file(record, 1, vendor="toko-a")
    assert waiting(record) == waiting(record, "toko-a") == []


def test_a_vendor_reaches_its_own_deliveries_only(record: RunStore) -> None:
    """Neither to collect nor to acknowledge; names are compared as they stand."""
    file(record, 1, "insurer")
    file(record, 2, "toko-a")
    for other in ("", "insure", "insurer ", "INSURER", "insurer%", "toko_a", "' OR 1 = 1 --"):
        assert waiting(record, other) == []
        record.acknowledge(other, ids(1, 2))
    record.acknowledge("toko-a", ids(1))
    assert (waiting(record), waiting(record, "toko-a")) == ([1], [2])


@pytest.mark.parametrize(
    "harm", [{"text": "\udc00"}, {"offers": (wire.Offer("m", "v", "t" * 501, 1),)}, {"run_id": b"short"}],
    ids=["text", "offer", "id"],
)  # fmt: skip
def test_a_run_and_its_delivery_are_written_both_or_neither(record: RunStore, harm: dict[str, Any]) -> None:
    """A delivery that no message could hold would be in the way of all that follow it: it is refused, and its run."""
    file(record, 1)
    with pytest.raises(RecordError, match=r"^a finished run could not be recorded: \w+Error$"):
        file(record, 2, **harm)
    assert record.runs(9) == [a_run(1, copy="queued")] and waiting(record) == [1]
    file(record, 3)
    assert waiting(record) == [1, 3]


def test_a_run_keeps_its_offers_and_what_became_of_the_copy(record: RunStore) -> None:
    """As they were; nothing of them in what is printed of a run."""
    run = a_run(1, offers=CATALOGUED, copy="withheld")
    record.write(run)
    assert record.runs(1) == [run]
    assert "Mug" not in repr(run)


@given(sizes=st.lists(st.integers(0, 400), max_size=12), limit=st.integers(1, 14), most=st.integers(0, 3000))
@QUICK
def test_as_many_are_handed_out_as_fit_but_always_the_first(
    tmp_path: Path, sizes: list[int], limit: int, most: int
) -> None:
    """Measured as they travel."""
    name = tmp_path / os.urandom(8).hex()
    with closing(RunStore(name)) as record:
        filed = [file(record, number, text="x" * size) for number, size in enumerate(sizes)]
        came = record.collect("insurer", limit, most)
    measured = [len(msgspec.msgpack.encode(delivery)) for delivery in filed]
    fits = [n for n in range(min(limit, len(filed)) + 1) if sum(measured[:n]) <= most or n == 1]
    assert list(came) == filed[: max(fits)]


def test_a_delivery_that_is_acknowledged_is_erased_from_the_disk_at_once(path: Path, record: RunStore) -> None:
    """Its words stand nowhere in the file nor in its companions; the id does, which a replay is known by."""
    offers = (wire.Offer("m", "toko-a", "lebkuchen", 1),)
    file(record, 1, prompt="zimtstern " * 900, text="vanillekipferl", offers=offers)
    file(record, 2, text="spekulatius")
    assert all(word in stored(path) for word in (b"zimtstern", b"vanillekipferl", b"lebkuchen", b"spekulatius"))
    record.acknowledge("insurer", ids(1))
    left = stored(path)
    assert not [word for word in (b"zimtstern", b"vanillekipferl", b"lebkuchen") if word in left]
    assert b"spekulatius" in left and a_delivery(1).run_id in left


def test_a_reader_delays_the_erasing_until_it_has_gone(path: Path, record: RunStore) -> None:
    """It sees what was there; the next question after it makes up for it."""
    file(record, 1, prompt="zimtstern")
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM deliveries").fetchone() == (1,)
        record.acknowledge("insurer", ids(1))
        assert waiting(record) == [] and b"zimtstern" in stored(path)
    assert waiting(record, "toko-a") == [] and b"zimtstern" not in stored(path)


def test_a_commit_waits_for_the_disk(connections: list[sqlite3.Connection], record: RunStore) -> None:
    """SQLite's own words for it: a power cut costs nothing that ``write`` has returned for."""
    assert connections[0].execute("PRAGMA synchronous").fetchone() == (2,)
    assert connections[0].execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_an_outbox_that_cannot_be_used_says_so_without_a_word_of_it(path: Path, record: RunStore) -> None:
    """Locked, closed, or with something else in it."""
    file(record, 1)
    with held_by_another(path):
        with pytest.raises(RecordError, match=r"^deliveries could not be read: database is locked$"):
            record.collect("insurer", 1)
        with pytest.raises(RecordError, match=r"^an acknowledgement could not be written: database is locked$"):
            record.acknowledge("insurer", ids(1))
    assert waiting(record) == [1]
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE deliveries SET offers = '{\"zimtstern\": 1'")
    with pytest.raises(RecordError, match=r"^deliveries could not be read: \w+Error$"):
        record.collect("insurer", 1)
    record.close()
    with pytest.raises(RecordError, match=r"^deliveries could not be read: "):
        record.collect("insurer", 1)


# ---- retention


@pytest.fixture
def short(path: Path) -> Iterator[RunStore]:
    """A record with room for few."""
    with closing(RunStore(path, limits=Limits(runs=8, deliveries=4, tombstones=3), secret=SECRET)) as record:
        yield record


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


@pytest.mark.parametrize("days", [1e-9, 1e9, float("inf")])
def test_any_number_of_days_will_do(path: Path, days: float) -> None:
    """From the second on which a run finishes to for ever."""
    with closing(RunStore(path, retention_days=days)) as record:
        file(record, 1)
        record.collect("insurer", 1)


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
        db.executemany("INSERT INTO runs VALUES (NULL, ?, x'', 2, '', ?, ?, 1, 1, 1, '', '[]', 'none')",
                       ((os.urandom(16), utc(NOW), utc(NOW)) for _ in range(20)))  # fmt: skip
    file(record, 7)
    assert len(rows_of(path)) == 8


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
                    "INSERT INTO deliveries VALUES (NULL, ?, ?, x'', ?, ?, 50, NULL, '', '', ?, '[]', 0)",
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
    print(f"steps/10 empty {empty}, full {full}; {ms:.2f} ms per run with its delivery in a full file; "
          f"{counted_s:.2f} s to count one that another program has written to")  # fmt: skip
    assert all(f < 2 * e + 20 for e, f in zip(empty, full, strict=True))


# ---- an outbox is what this says it is


OWNERS = ("ann", "ben", "cy", "")
SHEETS = ("short", "long " * 60)
AMPLE = Limits()


def owner_of(number: int) -> str:
    """Whose run has that number."""
    return OWNERS[number % len(OWNERS)]


def size_of(row: Run | wire.Delivery) -> int:
    """Bytes of its texts, in UTF-8."""
    return len(row.prompt_id.encode()) + len(row.text.encode()) + len(msgspec.json.encode(row.offers))


def over_limit(rows: dict[int, int], most_rows: int, most_bytes: int, beside: int = 0) -> list[int]:
    """Which rows go, said a second time: numbers, with their bytes, from the oldest on.

    While there are too many, the oldest of whoever has most rows; else while they are too large, the oldest of whoever
    has most bytes. None of it is of anybody who has no more than the limit divided among all who have some.
    """
    left, gone = dict(rows), list[int]()
    while left and (len(left) > most_rows or sum(left.values()) + beside > most_bytes):
        by_rows = len(left) > most_rows
        had = {o: [n for n in left if owner_of(n) == o] for o in {owner_of(n) for n in left}}
        parts = {o: len(ns) if by_rows else sum(left[n] for n in ns) for o, ns in had.items()}
        goes = next(n for n in left if parts[owner_of(n)] == max(parts.values()))
        if by_rows or not beside:
            assert parts[owner_of(goes)] > (most_rows if by_rows else most_bytes) / len(parts)
        gone.append(goes)
        del left[goes]
    return gone


class OutboxMachine(RuleBasedStateMachine):
    """The record against a plain model of it, through any order of calls, four owners, three third parties, a clock."""

    DAYS = 3
    parties = st.sampled_from(["insurer", "toko-a", "toko-b"])
    numbers = st.integers(0, 19)

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "runs.sqlite"
        self.clock, self.dropped, self.dropped_runs = Clock(), 0, 0
        self.runs = dict[int, Run]()  # in the order in which they were written
        self.deliveries = dict[int, tuple[str, int, wire.Delivery | None]]()  # party, when, None: acknowledged
        self.limits = AMPLE

    @initialize(
        runs=st.integers(1, 8), deliveries=st.integers(1, 5), tombstones=st.integers(1, 3),
        run_bytes=st.sampled_from([150, 400, 1 << 30]), delivery_bytes=st.sampled_from([200, 500, 1 << 30]),
    )  # fmt: skip
    def begin(self, **limits: int) -> None:
        """Any limits."""
        self.limits = Limits(**limits)
        self.record = self.opened()

    def opened(self) -> RunStore:
        return RunStore(
            self.path, retention_days=self.DAYS, clock=self.clock, limits=self.limits, secret=SECRET
        )  # fmt: skip

    def teardown(self) -> None:
        self.record.close()
        self.directory.cleanup()

    def forget(self) -> None:
        """The retention, said a second time."""
        oldest = int(self.clock.now - self.DAYS * DAY)
        self.runs = {n: run for n, run in self.runs.items() if run.finished_at >= utc(oldest)}
        for n in over_limit({n: size_of(run) for n, run in self.runs.items()}, self.limits.runs, self.limits.run_bytes):
            del self.runs[n]
            self.dropped_runs += 1
        for n, (_, written, delivery) in list(self.deliveries.items()):
            if written < oldest:
                self.dropped += delivery is not None
                del self.deliveries[n]
        for party in ("insurer", "toko-a", "toko-b"):
            self.forget_of(party)

    def forget_of(self, party: str) -> None:
        """Likewise, of one third party."""
        while True:  # a sheet goes with the last copy that needs it: what goes next is asked anew
            of_party = {n: d for n, (p, _, d) in self.deliveries.items() if p == party and d is not None}
            sizes, beside = {n: size_of(d) for n, d in of_party.items()}, {d.prompt for d in of_party.values()}
            most = self.limits.deliveries, self.limits.delivery_bytes
            gone = over_limit(sizes, *most, sum(len(text) for text in beside))
            if not gone:
                break
            del self.deliveries[gone[0]]
            self.dropped += 1
        done = {n: 0 for n, (p, _, d) in self.deliveries.items() if p == party and d is None}
        for n in over_limit(done, self.limits.tombstones, 0):
            del self.deliveries[n]

    def waiting(self, party: str) -> list[wire.Delivery]:
        return [d for p, _, d in self.deliveries.values() if p == party and d is not None]

    @rule(
        number=numbers, party=st.none() | parties, text=st.text(max_size=60), offers=st.booleans(),
        sheet=st.sampled_from(SHEETS),
    )  # fmt: skip
    def finished(self, number: int, party: str | None, text: str, offers: bool, sheet: str) -> None:
        run = a_run(number, finished_at=utc(self.clock.now), text=text, offers=CATALOGUED if offers else ())
        offered = CATALOGUED if offers else ()
        delivery = a_delivery(number, text=text, prompt=sheet, offers=offered, withheld=not text) if party else None
        copy = self.record.write(run, party or "", delivery, owner_of(number))
        self.runs.pop(number, None)
        self.runs[number] = run
        if party is not None and number not in self.deliveries:
            self.deliveries[number] = (party, int(self.clock.now), delivery)
        self.forget()
        assert (copy is wire.DeliveryStatus.FAILED) == (party is not None and number not in self.deliveries)
        if copy is wire.DeliveryStatus.FAILED and number in self.runs:
            self.runs[number] = replace(run, copy="failed")

    @rule(number=numbers, party=parties, harm=st.sampled_from([{"compute_us": 1 << 70}, {}]))
    def refused(self, number: int, party: str, harm: dict[str, int]) -> None:
        """A run that cannot be written, or its delivery: all is as it was."""
        with pytest.raises(RecordError):
            self.record.write(a_run(number, **harm), party, a_delivery(number, text="\udc00"), owner_of(number))

    @rule(party=parties, limit=st.integers(0, 5), most=st.sampled_from([0, 300, 600, 8 << 20]))
    def collect(self, party: str, limit: int, most: int) -> None:
        came = self.record.collect(party, limit, most)
        self.forget()
        expected = self.waiting(party)[:limit]
        while len(expected) > 1 and sum(len(msgspec.msgpack.encode(d)) for d in expected) > most:
            expected.pop()
        assert list(came) == expected

    @rule(party=parties, numbers=st.lists(numbers, max_size=4))
    def acknowledge(self, party: str, numbers: list[int]) -> None:
        self.record.acknowledge(party, ids(*numbers))
        for n in numbers:
            if n in self.deliveries and self.deliveries[n][0] == party:
                self.deliveries[n] = (party, self.deliveries[n][1], None)
        self.forget()

    @rule(party=parties)
    def acknowledge_what_comes(self, party: str) -> None:
        came = self.record.collect(party, 2)
        self.record.acknowledge(party, [delivery.run_id for delivery in came])
        self.forget()
        for delivery in came:
            number = int.from_bytes(delivery.run_id, "big")
            self.deliveries[number] = (party, self.deliveries[number][1], None)
        self.forget()

    @rule(killed=st.booleans())
    def reopen(self, killed: bool) -> None:
        before = self.record
        if not killed:
            before.close()
        assert (before.dropped, before.dropped_runs) == (self.dropped, self.dropped_runs)
        self.record, self.dropped, self.dropped_runs = self.opened(), 0, 0
        before.close()
        self.forget()

    @rule(number=numbers)
    def another_program_deletes(self, number: int) -> None:
        with closing(sqlite3.connect(self.path)) as db, db:
            for table in ("runs", "deliveries"):
                db.execute(f"DELETE FROM {table} WHERE run_id = ?", ids(number))
        self.runs.pop(number, None)
        self.deliveries.pop(number, None)

    @rule(days=st.floats(-0.5, 1))
    def time_passes(self, days: float) -> None:
        """Or the clock is set back. It is looked at meanwhile: a leap is another test's."""
        self.clock.now += days * DAY
        self.collect("insurer", 0, 0)

    @rule()
    def look(self) -> None:
        for party in ("insurer", "toko-a", "toko-b"):
            self.collect(party, 1000, 8 << 20)
        assert self.record.runs(1000) == list(self.runs.values())[::-1]
        assert (self.record.dropped, self.record.dropped_runs) == (self.dropped, self.dropped_runs)
        with closing(sqlite3.connect(self.path)) as db:
            kept = db.execute("SELECT vendor, text FROM sheets").fetchall()
        needed = {(p, d.prompt) for p, _, d in self.deliveries.values() if d is not None}
        assert sorted(kept) == sorted(needed)


OutboxMachine.TestCase.settings = settings(
    deadline=None, max_examples=60, stateful_step_count=60, suppress_health_check=[HealthCheck.too_slow]
)
test_the_outbox_is_what_its_model_is = OutboxMachine.TestCase


# ---- a file of the version before


VERSION_1 = """
CREATE TABLE runs (
    run_id BLOB PRIMARY KEY NOT NULL,
    prompt_id TEXT NOT NULL,
    opened_at TEXT NOT NULL,
    finished_at TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    compute_us INTEGER NOT NULL,
    text TEXT NOT NULL
)
"""


def of_version_1(path: Path, runs: int) -> list[Run]:
    """A file as release 1 leaves it; its runs, newest first."""
    path.touch(0o600)
    rows = [a_run(number, text=f"{number} {TAGGED}") for number in range(runs)]
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("BEGIN IMMEDIATE")
        db.execute(VERSION_1)
        db.execute("PRAGMA user_version = 1")
        db.executemany("INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                       [tuple(getattr(run, name) for name in schema.RUN[:8]) for run in rows])  # fmt: skip
        db.execute("COMMIT")
    return rows[::-1]


def of_version_2(path: Path, runs: int) -> list[Run]:
    """A file as release 2 leaves it, with two deliveries, the second acknowledged; its runs, newest first."""
    rows = of_version_1(path, runs)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        for statement in schema.UPGRADES[2]:
            db.execute(statement)
        db.execute("INSERT INTO versions VALUES (2, ?)", (utc(NOW),))
        for number in (1, 2):
            written = wire.Delivery.__struct_fields__
            values = [as_stored(getattr(a_delivery(number), name)) for name in written]
            db.execute(f"INSERT INTO deliveries (vendor, written_at, acknowledged, {', '.join(written)}) "
                       f"VALUES ('insurer', ?, ?, ?, ?, ?, ?, ?, ?, ?)", (int(NOW), number - 1, *values))  # fmt: skip
        db.execute("PRAGMA user_version = 2")
        db.execute("COMMIT")
    return rows


def of_version_3(path: Path, runs: int) -> list[Run]:
    """A file as release 3 leaves it: as above, with owners' marks; the 300 oldest runs are each a key's."""
    rows = of_version_2(path, runs)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        for statement in schema.UPGRADES[3]:
            db.execute(statement)
        db.execute("INSERT INTO versions VALUES (3, ?)", (utc(NOW),))
        for number in range(min(runs, 300)):
            (run_id,) = ids(number)
            for table in ("runs", "deliveries"):
                mark = key_hash(f"key {number}", run_id)
                db.execute(f"UPDATE {table} SET owner = ? WHERE run_id = ?", (mark, run_id))
        db.execute("PRAGMA user_version = 3")
        db.execute("COMMIT")
    return rows


def schema_of(path: Path) -> tuple[int, list[tuple[str, str]]]:
    """The version, and what made each table and index, apart from white space."""
    with closing(sqlite3.connect(path)) as db:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        made = db.execute("SELECT name, coalesce(sql, '') FROM sqlite_master ORDER BY name")
        return version, [(name, " ".join(sql.split())) for name, sql in made]


@pytest.mark.parametrize(("earlier", "made"), [(1, of_version_1), (2, of_version_2), (3, of_version_3)])
def test_a_file_of_an_earlier_version_is_upgraded_in_place_with_all_its_rows(
    path: Path, tmp_path: Path, earlier: int, made: Callable[[Path, int], list[Run]]
) -> None:
    """Once, which is written down; it is then as a new file is, and an outbox too. Earlier releases refuse it."""
    runs = made(path, 500)
    assert schema_of(path)[0] == earlier
    delivered = [1] if earlier > 1 else []
    with closing(RunStore(path, clock=Clock(NOW + 60))) as record:
        assert record.runs(1000) == runs and runs[0].offers == () and runs[0].copy == "none"
        assert record.collect("insurer", 9) == tuple(a_delivery(number) for number in delivered)
        owner = "key 2" if earlier > 2 else ""
        for number in (1000, 2):  # the latter acknowledged before, where it was
            record.write(a_run(number, copy="queued"), "insurer", a_delivery(number), owner)
    with closing(RunStore(path)) as record:
        newest = [a_run(2, copy="queued"), a_run(1000, copy="queued")]
        assert record.runs(1000) == [*newest, *(run for run in runs if run.run_id != newest[0].run_id)]
        assert waiting(record) == [*delivered, 1000] + [2] * (earlier == 1)
    with closing(sqlite3.connect(path)) as db:
        stamps = dict(db.execute("SELECT * FROM versions"))
    assert stamps == {version: utc(NOW + 60 * (earlier < version)) for version in (2, 3, 4, 5)}
    RunStore(tmp_path / "new").close()
    assert schema_of(path) == schema_of(tmp_path / "new") and schema_of(path)[0] == schema.VERSION


DIES_AT = """
import itertools, os, sys
import llama.cloud.run_store as record
import llama.cloud.schema as schema

class Dying(tuple):
    def __iter__(self):
        for statement in super().__iter__():
            if next(counted) == int(sys.argv[2]):
                os.kill(os.getpid(), 9)
            yield statement

def clock():  # asked for when the upgrade is written down, after its last statement
    if statements == int(sys.argv[2]):
        os.kill(os.getpid(), 9)
    return float(sys.argv[3])

counted, statements = itertools.count(), 0
for version in range(4, schema.VERSION + 1):
    statements += len(schema.UPGRADES[version])
    schema.UPGRADES[version] = Dying(schema.UPGRADES[version])
record.RunStore(sys.argv[1], clock=clock).close()
os.kill(os.getpid(), 9)
"""


STATEMENTS = sum(len(schema.UPGRADES[version]) for version in range(4, schema.VERSION + 1))


@pytest.mark.parametrize("at", range(STATEMENTS + 2))
def test_an_upgrade_that_is_killed_leaves_one_version_whole(path: Path, at: int) -> None:
    """Before each of its statements, before it is written down, and after it; the next opening finds all rows."""
    runs = of_version_3(path, 300)
    old = schema_of(path)
    command = [sys.executable, "-c", DIES_AT, str(path), str(at), str(NOW)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    if at <= STATEMENTS:
        assert schema_of(path) == old
    else:
        assert schema_of(path)[0] == schema.VERSION and schema_of(path) != old
    with closing(RunStore(path)) as record:
        assert record.runs(1000) == runs and waiting(record) == [1]
        assert looked_up(path, "PRAGMA integrity_check") == [("ok",)]


# ---- a record that is killed


WRITES_AND_DIES = """
import os, random, signal, sys, time
from llama import wire
from llama.cloud.run_store import Run, RunStore
from llama.text.dates import utc

path, seed, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
dice = random.Random(seed)

def said(what, run_id):
    os.write(1, f"{what} {run_id.hex()}\\n".encode())  # one piece or nothing

def work():
    record, now = RunStore(path), utc(time.time())
    said("opened", b"")
    while True:
        run_id = os.urandom(16)
        text = run_id.hex() * (1 + run_id[0] * 4)
        vendor = "toko-" + "abc"[run_id[1] % 3]
        offers = (wire.Offer("p", vendor, text[:32], 1),)
        delivery = wire.Delivery(run_id, vendor + "/x", now, "prompt " + text, text, offers)
        record.write(Run(run_id, vendor + "/x", now, now, 1, 1, 1, text, offers, "queued"), vendor, delivery)
        said("finished", run_id)
        if run_id[2] % 4 == 0:
            for delivery in record.collect(vendor, 2):
                said("acknowledging", delivery.run_id)
                record.acknowledge(vendor, [delivery.run_id])
                said("acknowledged", delivery.run_id)

for _ in range(rounds):
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(1)
    time.sleep(dice.uniform(0.002, 0.09))
    os.kill(pid, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
"""


def test_a_kill_at_any_moment_loses_nothing_that_was_finished(path: Path) -> None:
    """Sixty processes, one after the other, each killed at work on the file that the last one left.

    Every run that one of them said is finished is there, whole, with its delivery; what was acknowledged does not come
    again, and of what was not nothing is missing.
    """
    ended = subprocess.run([sys.executable, "-c", WRITES_AND_DIES, str(path), "7", "60"], cwd=ROOT, text=True,
                           capture_output=True, check=False)  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    said: dict[str, set[bytes]] = {word: set() for word in ("opened", "finished", "acknowledging", "acknowledged")}
    for line in ended.stdout.splitlines():
        word, _, digits = line.partition(" ")
        said[word].add(bytes.fromhex(digits))
    assert len(said["finished"]) > 60 and len(said["acknowledged"]) > 10, ended.stdout[-300:]
    with closing(RunStore(path)) as record:
        assert looked_up(path, "PRAGMA integrity_check") == [("ok",)]
        runs = {run.run_id: run for run in record.runs(1_000_000)}
        came = {d.run_id: d for v in "abc" for d in record.collect(f"toko-{v}", 1_000_000, 1 << 40)}
        kept = {run_id for (run_id,) in looked_up(path, "SELECT run_id FROM deliveries")}
        assert record.dropped == 0
    print(f"{len(said['finished'])} said to be finished, {len(runs)} there, {len(said['acknowledged'])} acknowledged")
    assert said["finished"] <= set(runs) == kept and len(runs) <= len(said["finished"]) + 60
    for run_id, run in runs.items():
        assert run.text == run_id.hex() * (1 + run_id[0] * 4) and run.offers[0].title == run_id.hex()
    for run_id, delivery in came.items():
        assert (delivery.text, delivery.prompt) == (runs[run_id].text, f"prompt {runs[run_id].text}")
        assert delivery.offers == runs[run_id].offers and delivery.prompt_id == runs[run_id].prompt_id
    assert not said["acknowledged"] & set(came)
    assert set(runs) - set(came) <= said["acknowledging"]


# ---- the program


def test_the_cloud_program_keeps_a_record_that_outlives_it(tiny_split: Splits, path: Path, tmp_path: Path) -> None:
    """Two devices' runs, read while it serves; it is killed, and starts again with the file that it left."""
    sheet = tmp_path / "sheet.toml"
    sheet.write_text('id = "gift-ideas ☕"\nquestions = ["My Zimtstern is cold: why?"]')
    out = tiny_split()
    with cloud(out / "cloud", "--max_seq_len", 256, "--record_file", path) as running:
        flags = ("--temperature", 0, "--max_gen_len", 8)
        answers = [ask(out / "edge", running.address, sheet, *flags, "--threads", 1) for _ in range(2)]
        rows = rows_of(path)
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
    assert len({row[0] for row in rows}) == 2
    for row, answer in zip(rows, answers, strict=True):
        assert (row[1], row[4], row[7]) == ("gift-ideas ☕", len(answer["prompt_tokens"]), answer["text_sent"])
        assert row[5] == len(answer["tokens"]) > 0
    assert b"Zimtstern" not in path.read_bytes() + path.with_name("runs.sqlite-wal").read_bytes()
    with cloud(out / "cloud", "--max_seq_len", 256, "--record_file", path) as running:
        os.kill(running.pid, signal.SIGTERM)
        assert running.wait() == 0
    assert rows_of(path) == rows
    assert [file.name for file in path.parent.glob("runs*")] == ["runs.sqlite"]


def test_the_cloud_program_refuses_an_unusable_record_in_one_line_before_it_loads_or_listens(
    tiny_split: Splits, path: Path
) -> None:
    """A directory, where a file is wanted."""
    path.mkdir()
    ended = run_main("cloud_main.py", "--ckpt_dir", str(tiny_split() / "cloud"), "--record_file", str(path))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"error: the run record {path} is not a file; give --record_file the path of one\n"


def test_only_rank_0_keeps_the_record(tiny_split: Splits, path: Path, tmp_path: Path) -> None:
    """Two ranks, one row per run."""
    question = tmp_path / "question.txt"
    question.write_text("Why?")
    out = tiny_split(ranks=2)
    with cloud(out / "cloud", "--max_seq_len", 256, "--record_file", path, ranks=2) as running:
        answer = ask(out / "edge", running.address, question, "--max_gen_len", 4, "--threads", 1)
        holders = [pid for pid in running.ranks() if any(str(path) in fd for fd in open_files(pid))]
        assert holders == [running.pid]
    assert [row[7] for row in rows_of(path)] == [answer["text_sent"]]


def open_files(pid: int) -> list[str]:
    """What a process has open, according to the kernel."""
    return [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()]
