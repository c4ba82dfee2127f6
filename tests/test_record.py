"""Claims about the record of finished runs: real files, read by SQLite itself, of really served runs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llama import wire
from llama.cloud import schema
from llama.cloud.run_store import BUSY_MS, MAX_RUNS, Run, RunStore
from llama.errors import RecordError
from llama.text.dates import utc
from llama.tokenizer import Tokenizer
from llama.wire import Final, Finish, Hello, Open, Welcome
from tests.processes import ask, cloud
from tests.programs import needed
from tests.records import (
    CATALOGUED,
    TAGGED,
    a_run,
    held_by_another,
    opened_connections,
    rows_of,
)
from tests.support import MAX_SEQ_LEN, ROOT, Halves, Peer, Served, event_of, open_request, run_main, step_of
from tests.volumes import examples

Splits = Callable[..., Path]

PROMPT = [258, 84, 104, 101, 32]
COLUMNS = [
    "number",
    "run_id",
    "owner",
    "bytes",
    "prompt_id",
    "opened_at",
    "finished_at",
    "prompt_tokens",
    "output_tokens",
    "compute_us",
    "text",
    "offers",
    "copy",
]
QUICK = examples(0.6)


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
def served(halves: Halves, tokenizer: Tokenizer, record: RunStore) -> Iterator[Served]:
    with Served(halves, tokenizer, record=record) as served:
        yield served


@pytest.fixture
def peer(served: Served) -> Iterator[Peer]:
    with served.peer() as peer:
        yield peer


def finish(served: Served, peer: Peer, request: Open, end: int) -> Final:
    """A session whose reply is its first ``end`` resumed ids."""
    with served.session(peer, request) as session:
        final = peer.ask(Finish(session, 1, end))
    assert isinstance(final, Final), final
    return final


def saying(text: str, **changes: Any) -> Open:
    """The Open of a run whose reply so far is ``text``: every byte is a token of the small tokenizer."""
    return open_request(resumed_ids=tuple(text.encode()), **changes)


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
    """Four tables and their indices; no value is of another type than its column; one run is one row of one table."""
    served.run(PROMPT, 12)
    with closing(sqlite3.connect(path)) as db:
        assert [name for _, name, *_ in db.execute("PRAGMA table_info(runs)")] == COLUMNS
        assert [name for _, name, *_ in db.execute("PRAGMA table_info(deliveries)")] == [
            "number",
            "run_id",
            "vendor",
            "owner",
            "written_at",
            "handed_out",
            "acknowledged",
            "bytes",
            "sheet",
            "prompt_id",
            "finished_at",
            "text",
            "offers",
            "withheld",
        ]
        assert db.execute("SELECT type, tbl_name FROM sqlite_master ORDER BY type, tbl_name").fetchall() == [
            *[("index", "deliveries")] * 4,
            *[("index", "runs")] * 2,
            ("index", "sheets"),
            *[("table", name) for name in ("clock", "deliveries", "runs", "sheets")],
        ]
        assert db.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
        assert db.execute("SELECT count(*) FROM deliveries").fetchone() == (0,)
        (types,) = db.execute(f"SELECT {', '.join(f'typeof({name})' for name in COLUMNS)} FROM runs").fetchall()
    assert types == ("integer", "blob", "blob", "integer", *["text"] * 3, *["integer"] * 3, *["text"] * 3)


def test_a_run_keeps_its_offers_and_what_became_of_the_copy(record: RunStore) -> None:
    """As they were; nothing of them in what is printed of a run."""
    run = a_run(1, offers=CATALOGUED, copy="withheld")
    record.write(run)
    assert record.runs(1) == [run]
    assert "Mug" not in repr(run)


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


@pytest.mark.parametrize("rows", [0, 100_000])
def test_writing_a_run_takes_the_router_no_noticeable_time(path: Path, record: RunStore, rows: int) -> None:
    """In an empty file and in a full one, the median of 200 is far below what one token takes."""
    assert MAX_RUNS == 100_000
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


def test_a_commit_waits_for_the_disk(connections: list[sqlite3.Connection], record: RunStore) -> None:
    """SQLite's own words for it: a power cut costs nothing that ``write`` has returned for."""
    assert connections[0].execute("PRAGMA synchronous").fetchone() == (2,)
    assert connections[0].execute("PRAGMA journal_mode").fetchone() == ("wal",)


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


def of_version(path: Path, version: int) -> None:
    """A record with another version's number."""
    RunStore(path).close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"PRAGMA user_version = {version}")


def damaged(path: Path, start: int, size: int) -> None:
    """A record with bytes of noise."""
    with closing(RunStore(path)) as record:
        for number in range(200):
            record.write(a_run(number, text=TAGGED * 10))
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\x7f" * size)


REFUSED = "has version {}, and this program reads version 2; use another --record_file, or the program that wrote it"
ANOTHERS = "but another program's database"
MALFORMED = "cannot be used: database disk image is malformed"
UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "directory": (Path.mkdir, "is not a file; give --record_file the path of one"),
    "pipe": (os.mkfifo, "is not a file; give"),
    "dangling link": (lambda path: path.symlink_to("nowhere"), "is not a file; give"),
    "text": (lambda path: path.write_text("Dear diary\n"), "file is not a database; use another --record_file"),
    "weights": (lambda path: path.write_bytes(os.urandom(9000)), "file is not a database; use"),
    "damaged list of tables": (
        lambda path: damaged(path, 100, 2000),
        MALFORMED,
    ),
    "damaged rows": (lambda path: damaged(path, 5 * 4096, 40_000), MALFORMED),
    "older version": (lambda path: of_version(path, 1), REFUSED.format(1)),
    "newer version": (lambda path: of_version(path, 3), REFUSED.format(3)),
    "much newer version": (lambda path: of_version(path, 2**31 - 1), REFUSED.format(2**31 - 1)),
    "other program's": (another_programs, "is not a run record but another program's database; use another --record"),
    "other program's of this version": (
        lambda path: another_programs(path, schema.VERSION),
        "but another program's database",
    ),
    "another runs": (
        lambda path: another_programs(path, schema.VERSION, "runs (run_id, km)"),
        "but another program's database",
    ),
    "version 0 with runs": (lambda path: another_programs(path, 0, "runs (km)"), ANOTHERS),
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


@pytest.mark.process
def test_a_record_that_may_only_be_read_is_refused_at_once(path: Path) -> None:
    """Before any run is lost: the file is read-only, then its directory is."""
    opens_it = "import sys; from llama.cloud.run_store import RunStore; RunStore(sys.argv[1]).close()"
    command = [*as_a_user(), sys.executable, "-c", opens_it, str(path)]
    RunStore(path).close()
    for locked, mode, said in ((path, 0o400, "for this user; change"), (path.parent, 0o500, "a local disk where")):
        before = stat.S_IMODE(locked.stat().st_mode)
        locked.chmod(mode)
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        locked.chmod(before)
        assert ended.returncode == 1 and f"RecordError: the run record {path} " in ended.stderr
        assert said in ended.stderr and [file.name for file in path.parent.iterdir()] == [path.name]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0


@pytest.mark.long
def test_a_record_that_another_program_keeps_locked_is_refused_after_a_moment(path: Path) -> None:
    """Not waited for without end."""
    RunStore(path).close()
    with held_by_another(path), pytest.raises(RecordError, match="cannot be used: database is locked; use another"):
        RunStore(path)
    RunStore(path).close()


# ---- the program


@pytest.mark.process
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


@pytest.mark.process
def test_the_cloud_program_refuses_an_unusable_record_in_one_line_before_it_loads_or_listens(
    tiny_split: Splits, path: Path
) -> None:
    """A directory, where a file is wanted."""
    path.mkdir()
    ended = run_main("cloud_main.py", "--ckpt_dir", str(tiny_split() / "cloud"), "--record_file", str(path))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"error: the run record {path} is not a file; give --record_file the path of one\n"


@pytest.mark.process
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
