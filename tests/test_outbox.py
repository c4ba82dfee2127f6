"""Claims about third parties' deliveries in the run record: filed, handed out, acknowledged, erased."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from llama import wire
from llama.cloud.run_store import Limits, Run, RunStore
from llama.errors import RecordError
from llama.text.dates import utc
from tests.records import (
    CATALOGUED,
    DAY,
    SECRET,
    Clock,
    a_delivery,
    a_run,
    file,
    held_by_another,
    ids,
    looked_up,
    stored,
    waiting,
)
from tests.support import ROOT
from tests.volumes import examples

QUICK = examples(0.6)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.sqlite"


@pytest.fixture
def record(path: Path) -> Iterator[RunStore]:
    with closing(RunStore(path)) as record:
        yield record


# ---- deliveries


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
    "harm",
    [{"text": "\udc00"}, {"offers": (wire.Offer("m", "v", "t" * 501, 1),)}, {"run_id": b"short"}],
    ids=["text", "offer", "id"],
)
def test_a_run_and_its_delivery_are_written_both_or_neither(record: RunStore, harm: dict[str, Any]) -> None:
    """A delivery that no message could hold would be in the way of all that follow it: it is refused, and its run."""
    file(record, 1)
    with pytest.raises(RecordError, match=r"^a finished run could not be recorded: \w+Error$"):
        file(record, 2, **harm)
    assert record.runs(9) == [a_run(1, copy="queued")] and waiting(record) == [1]
    file(record, 3)
    assert waiting(record) == [1, 3]


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


# ---- runs of several keys with the same id


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
        self.handed_out = set[int]()
        self.limits = AMPLE

    @initialize(
        runs=st.integers(1, 8),
        deliveries=st.integers(1, 5),
        tombstones=st.integers(1, 3),
        run_bytes=st.sampled_from([150, 400, 1 << 30]),
        delivery_bytes=st.sampled_from([200, 500, 1 << 30]),
    )
    def begin(self, **limits: int) -> None:
        """Any limits."""
        self.limits = Limits(**limits)
        self.record = self.opened()

    def opened(self) -> RunStore:
        return RunStore(self.path, retention_days=self.DAYS, clock=self.clock, limits=self.limits, secret=SECRET)

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
        number=numbers,
        party=st.none() | parties,
        text=st.text(max_size=60),
        offers=st.booleans(),
        sheet=st.sampled_from(SHEETS),
    )
    def finished(self, number: int, party: str | None, text: str, offers: bool, sheet: str) -> None:
        run = a_run(number, finished_at=utc(self.clock.now), text=text, offers=CATALOGUED if offers else ())
        offered = CATALOGUED if offers else ()
        delivery = a_delivery(number, text=text, prompt=sheet, offers=offered, withheld=not text) if party else None
        copy = self.record.write(run, party or "", delivery, owner_of(number))
        self.runs.pop(number, None)
        self.runs[number] = run
        if party is not None and number not in self.deliveries:
            self.deliveries[number] = (party, int(self.clock.now), delivery)
            self.handed_out.discard(number)
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
        self.handed_out |= {int.from_bytes(delivery.run_id, "big") for delivery in came}

    @rule(party=parties, numbers=st.lists(numbers, max_size=4))
    def acknowledge(self, party: str, numbers: list[int]) -> None:
        self.record.acknowledge(party, ids(*numbers))
        for n in numbers:
            if n in self.deliveries and self.deliveries[n][0] == party:
                self.deliveries[n] = (party, self.deliveries[n][1], None)
        self.forget()

    @rule(number=numbers, owner=st.sampled_from(OWNERS))
    def device_forgets(self, number: int, owner: str) -> None:
        """Only its own run; what the third party had handed out or acknowledged is said to be collected."""
        collected = self.record.forget(ids(number)[0], owner)
        delivery = self.deliveries.get(number)
        if owner == owner_of(number):
            self.runs.pop(number, None)
            if delivery is not None and delivery[2] is not None and number not in self.handed_out:
                del self.deliveries[number]
            elif delivery is not None:
                self.deliveries[number] = (*delivery[:2], None)
        self.forget()
        assert collected == (
            owner == owner_of(number) and delivery is not None and (delivery[2] is None or number in self.handed_out)
        )

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


OutboxMachine.TestCase.settings = settings(examples(0.4), stateful_step_count=60)
test_the_outbox_is_what_its_model_is = OutboxMachine.TestCase


# ---- a record that is killed


WRITES_AND_DIES = """
import os, random, signal, sys, time
from llama import wire
from llama.cloud.run_store import Run, RunStore
from llama.text.dates import utc
from tests.volumes import examples

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

began = time.perf_counter()
pace = RunStore(path + ".pace")
pace.write(Run(b"p" * 16, "", "", utc(time.time()), 1, 1, 1, "text"))
pace.close()
pace_s = time.perf_counter() - began  # of an opening and a write on this machine as it is

for _ in range(rounds):
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(1)
    time.sleep(dice.uniform(0.1, 8) * pace_s)
    os.kill(pid, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
"""


@pytest.mark.process
def test_a_kill_at_any_moment_loses_nothing_that_was_finished(path: Path) -> None:
    """Sixty processes, one after the other, each killed at work on the file that the last one left.

    Every run that one of them said is finished is there, whole, with its delivery; what was acknowledged does not come
    again, and of what was not nothing is missing.
    """
    ended = subprocess.run(
        [sys.executable, "-c", WRITES_AND_DIES, str(path), "7", "60"],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
    )
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
