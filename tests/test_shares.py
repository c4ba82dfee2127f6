"""Claims about whose rows go when there are too many: what one key made, only its own runs push out."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama import wire
from llama.cloud.event_log import EventLog
from llama.cloud.owners import NOBODY, Owners, secret_of
from llama.cloud.provider import ProviderServices
from llama.cloud.run_finisher import FinishedRun
from llama.cloud.run_store import Limits, Run, RunStore
from llama.cloud.shares import Shares
from llama.keys import LinkKeys, read_key
from llama.sheets import read_all
from llama.text.dates import utc
from llama.tokenizer import Tokenizer
from llama.wire import Close, DeliveryStatus, Final, Finish, Open
from tests.support import Halves, Keys, Peer, Served, event_of, open_request, written
from tests.volumes import SOAK, examples

EMPTY, REAL = (20_000, 10_000) if SOAK else (1_000, 500)
MOST = REAL // 2  # rows and copies that are kept
SECRET = b"s" * 32
SHEETS = {"system.txt": "Be kind.", "insurer/cover.toml": 'questions = ["Which cover?"]'}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.sqlite"


def finish(record: RunStore, owner: str, text: str = "a reply", prompt: str = "sheet", run_id: bytes = b"") -> bytes:
    """A finished run of a third party's sheet; its id."""
    run_id, now = run_id or os.urandom(16), utc(time.time())
    run = Run(run_id, "insurer/cover", now, now, 1, 1, 1, text, copy="queued")
    record.write(run, "insurer", wire.Delivery(run_id, run.prompt_id, now, prompt, text), owner)
    return run_id


def runs_of(record: RunStore) -> set[bytes]:
    return {run.run_id for run in record.runs(1_000_000)}


def looked_up(path: Path, query: str) -> list[tuple[Any, ...]]:
    """What stands in the file, read without any code of the product's."""
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def waiting(record: RunStore) -> set[bytes]:
    return {delivery.run_id for delivery in record.collect("insurer", 1_000_000, 1 << 40)}


# ---- who loses what


@given(
    runs=st.lists(st.tuples(st.sampled_from("abcddeeeeeee"), st.integers(1, 90), st.booleans()), max_size=50),
    most=st.integers(1, 20),
    most_bytes=st.integers(60, 2_000) | st.just(1 << 30),
)
@examples(0.3)
def test_who_has_no_more_than_a_fair_share_loses_nothing_to_others(
    runs: Sequence[tuple[str, int, bool]], most: int, most_bytes: int
) -> None:
    """Runs, copies, and what is known of those acknowledged; in rows and in bytes, whatever the others write."""
    limits = Limits(
        runs=most, run_bytes=most_bytes, deliveries=most, delivery_bytes=most_bytes + len("sheet"), tombstones=most
    )
    made, size = defaultdict[str, list[bytes]](list), Counter[str]()
    acknowledged = defaultdict[str, set[bytes]](set)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "r"
        with closing(RunStore(path, limits=limits, secret=SECRET)) as record:
            for owner, length, collects in runs:
                run_id = finish(record, owner, "x" * length)
                made[owner].append(run_id)
                size[owner] += len("insurer/cover") + length + len("[]")
                if collects:
                    record.acknowledge("insurer", [run_id])
                    acknowledged[owner].add(run_id)
                there, to_be_collected = runs_of(record), waiting(record)
                known = {row for (row,) in looked_up(path, "SELECT run_id FROM deliveries WHERE acknowledged")}
                for each in made:
                    if len(made[each]) <= most / len(made) and size[each] <= most_bytes / len(made):
                        assert there >= set(made[each])
                        assert to_be_collected >= set(made[each]) - acknowledged[each]
                        assert known >= acknowledged[each]
                assert len(there) <= most and len(to_be_collected) <= most and len(known) <= most


def test_of_who_has_most_the_oldest_goes_and_of_several_the_oldest_of_all(path: Path) -> None:
    """One by one."""
    with closing(RunStore(path, limits=Limits(runs=5, deliveries=5), secret=SECRET)) as record:
        names = dict[bytes, str]()
        for name in ("ann1", "ben1", "ben2", "ben3", "cy1"):
            names[finish(record, name[:-1])] = name
        for name, goes in (("ben4", "ben1"), ("dan1", "ben2"), ("ann2", "ann1"), ("cy2", "ben3"), ("cy3", "cy1")):
            before = runs_of(record)
            names[finish(record, name[:-1])] = name
            assert [names[run_id] for run_id in before - runs_of(record)] == [goes]
            assert waiting(record) == runs_of(record)


def test_by_size_too_who_has_most_goes_first(path: Path) -> None:
    """Three hundred small copies stay beside one key's large ones."""
    limits = Limits(run_bytes=82_000, delivery_bytes=82_000)
    with closing(RunStore(path, limits=limits, secret=SECRET)) as record:
        small = {finish(record, f"key {number % 10}") for number in range(300)}
        for _ in range(30):
            finish(record, "large", "x" * 9_000)
        assert runs_of(record) > small and waiting(record) > small
        assert len(runs_of(record)) == len(waiting(record)) == 300 + 8
        assert record.dropped == record.dropped_runs == 22


def test_a_copy_larger_than_all_that_is_kept_is_said_to_have_failed(path: Path) -> None:
    """It takes nobody else's with it, and the run's own row says so, too."""
    with closing(RunStore(path, limits=Limits(delivery_bytes=1_000), secret=SECRET)) as record:
        kept = finish(record, "ann")
        now = utc(time.time())
        run = Run(b"r" * 16, "insurer/cover", now, now, 1, 1, 1, "x" * 2_000, copy="queued")
        delivery = wire.Delivery(run.run_id, run.prompt_id, now, "sheet", run.text)
        assert record.write(run, "insurer", delivery, "ben") is DeliveryStatus.FAILED
        assert waiting(record) == {kept} and record.runs(1)[0].copy == "failed"


def test_a_sheets_text_is_stored_once_and_goes_with_its_last_copy(path: Path) -> None:
    """Of each third party; it counts to what its copies may take."""
    sheets = "SELECT vendor, length(text) FROM sheets ORDER BY number"
    with closing(RunStore(path, limits=Limits(delivery_bytes=150_000), secret=SECRET)) as record:
        ids = [finish(record, "ann", prompt="zimtstern" * 5_000) for _ in range(50)]
        assert looked_up(path, sheets) == [("insurer", 45_000)]
        assert {d.prompt for d in record.collect("insurer", 50, 1 << 30)} == {"zimtstern" * 5_000}
        newer = [finish(record, "ann", prompt=f"{number}" * 45_000) for number in range(2)]
        assert len(looked_up(path, sheets)) == 3 and record.dropped == 0
        last = finish(record, "ann", prompt="2" * 45_000)  # there is no room for a fourth text
        assert waiting(record) == {*newer, last} and record.dropped == 50
        record.acknowledge("insurer", [*ids, newer[0]])
        assert len(looked_up(path, sheets)) == 2
        record.acknowledge("insurer", [newer[1], last])
        assert looked_up(path, sheets) == []
    assert b"zimtstern" not in path.read_bytes()


def test_shares_are_known_again_after_a_restart_and_after_another_program_has_written(path: Path) -> None:
    """Out of the file, with the secret; without it, all rows that it cannot read count as one owner's."""
    with closing(RunStore(path, secret=SECRET)) as record:
        honest = {finish(record, "ann") for _ in range(5)}
        for _ in range(20):
            finish(record, "ben")
    with closing(RunStore(path, limits=Limits(runs=12, deliveries=12), secret=SECRET)) as record:
        assert runs_of(record) > honest and waiting(record) > honest
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("UPDATE runs SET text = 'changed'")
        finish(record, "cy")
        assert runs_of(record) > honest and waiting(record) > honest
    with closing(RunStore(path, limits=Limits(runs=12, deliveries=12), secret=b"another")) as record:
        mine = {finish(record, "ben") for _ in range(4)}
        assert runs_of(record) > mine and len(runs_of(record)) == 12


def test_what_cannot_be_written_costs_no_look_at_all_rows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a key that sends what is refused could keep the cloud reading its record."""
    with closing(RunStore(path, secret=SECRET)) as record:
        finish(record, "ann", run_id=b"r" * 16)
        surveys, survey = [0], Shares.survey

        def counted(shares: Shares) -> None:
            surveys[0] += 1
            survey(shares)

        monkeypatch.setattr(Shares, "survey", counted)
        now = utc(time.time())
        for changes in ({"prompt_id": "other"}, {"compute_us": 1 << 70}, {"text": "\udc00"}):
            fields = {"prompt_id": "insurer/cover", "compute_us": 1, "text": "t"} | changes
            run = Run(b"r" * 16, str(fields["prompt_id"]), now, now, 1, 1, fields["compute_us"], str(fields["text"]))  # type: ignore[arg-type]
            with pytest.raises(Exception, match="could not be recorded"):
                record.write(run, owner="ann")
            finish(record, "ann")
        assert surveys == [0] and len(runs_of(record)) == 4


# ---- whose a row is


@given(
    owner=st.text(min_size=1, max_size=50), row_id=st.binary(min_size=16, max_size=16), secret=st.binary(max_size=32)
)
def test_a_pseudonym_is_read_with_the_secret_and_the_rows_id_only(owner: str, row_id: bytes, secret: bytes) -> None:
    """It is the same for a key's rows, and what stands in them is not."""
    mine, another = Owners(secret), Owners(secret + b"!" if len(secret) < 32 else secret[:-1])
    sealed, other_id = mine.sealed(owner, row_id), bytes([row_id[0] ^ 1]) + row_id[1:]
    assert mine.opened(sealed, row_id) == mine.pseudonym(owner) != NOBODY
    assert mine.opened(mine.sealed(owner, other_id), other_id) == mine.pseudonym(owner)
    assert mine.sealed(owner, row_id) == sealed != mine.sealed(owner, other_id) and len(sealed) == 24
    assert another.sealed(owner, row_id) != sealed and another.opened(sealed, row_id) == NOBODY
    for harmed in (sealed[:-1], sealed[:-1] + bytes([sealed[-1] ^ 1]), b"", bytes(24), sealed[:16], row_id):
        assert mine.opened(harmed, row_id) == NOBODY
    assert mine.opened(sealed, other_id) == NOBODY and mine.sealed("", row_id) == b""


def test_rows_of_one_key_have_nothing_in_common_in_the_file(path: Path, tmp_path: Path) -> None:
    """Not even two keys' rows of the same ids; neither keys nor pseudonyms stand in it."""
    keys = Keys(tmp_path)
    keys.make("phone")
    own = read_key(str(tmp_path / "cloud.key"), "cloud")
    owners, secret = Owners(secret_of(own)), secret_of(own)
    with closing(RunStore(path, secret=secret)) as record:
        run_ids = [finish(record, "ann") for _ in range(20)]
        for run_id in run_ids:
            finish(record, "ben", run_id=run_id)
        rows = looked_up(path, "SELECT owner FROM runs ORDER BY number")
        kept = b"".join(file.read_bytes() for file in tmp_path.glob("runs.sqlite*"))
    ann, ben = [row for (row,) in rows[:20]], [row for (row,) in rows[20:]]
    for start in range(0, 24, 4):
        pieces = [row[start : start + 4] for row in (*ann, *ben)]
        between = [
            bytes(a ^ b for a, b in zip(*pair, strict=True)) for pair in zip(pieces[:20], pieces[20:], strict=True)
        ]
        assert len(set(pieces)) > 38 and len(set(between)) > 18
    for reported in (b"ann", b"ben", owners.pseudonym("ann"), owners.pseudonym("ben"), secret, own.secret.encode()):
        assert reported not in kept


# ---- through a real socket


def ended(served: Served, peer: Peer, request: Open, keys: LinkKeys | None = None) -> Final:
    """A run whose reply is what it resumes; closed by the socket that opened it."""
    session = served.open(peer, request)
    final = peer.ask(Finish(session, 1, len(request.resumed_ids)))
    assert isinstance(final, Final), final
    peer.ask(Close(session, 2))
    return final


@pytest.mark.long
def test_a_key_with_thousands_of_runs_empty_and_real_takes_nobody_elses(
    halves: Halves, tokenizer: Tokenizer, tmp_path: Path, path: Path
) -> None:
    """Others' rows, their copies that wait, and what is known of those acknowledged, from before and from meanwhile."""
    keys, directory = Keys(tmp_path), read_all(str(written(tmp_path / "sheets", SHEETS)))
    hostile, people = keys.make("hostile"), [keys.make(f"person-{number}") for number in range(4)]
    insurer, own = keys.make("insurer", "vendor"), read_key(str(tmp_path / "cloud.key"), "cloud")
    limits = Limits(runs=MOST, deliveries=MOST, tombstones=MOST)
    with closing(RunStore(path, limits=limits, secret=secret_of(own))) as record:
        services = ProviderServices.of(tokenizer, store=record, directory=directory, event_log=EventLog("error"))
        with Served(halves, tokenizer, services=services, keys=keys.of_the_cloud(), log_level="error") as served:
            honest, arrived = set[bytes](), set[bytes]()

            def by_others() -> None:
                for person in people:
                    with served.peer(keys=person) as peer:
                        for which in (honest, arrived):
                            request = open_request(resumed_ids=tuple(b"mine"), prompt_id="insurer/cover")
                            assert ended(served, peer, request).copy is DeliveryStatus.QUEUED
                            which.add(request.run_id)
                with served.peer(keys=insurer) as vendor:
                    vendor.ask(wire.Acknowledge("insurer", tuple(arrived)))

            by_others()
            with served.peer(keys=hostile) as peer:
                for number in range(EMPTY):
                    final = ended(
                        served, peer, open_request(prompt_id="insurer/cover", run_id=number.to_bytes(16, "little"))
                    )
                    assert (final.text, final.offers, final.copy) == ("", (), DeliveryStatus.NONE)
                assert runs_of(record) == honest | arrived and waiting(record) == honest
                for number in range(REAL):
                    ended(served, peer, open_request(resumed_ids=tuple(b"his"), prompt_id="insurer/cover"))
                    if number == REAL * 3 // 4:
                        by_others()
                        with served.peer(keys=insurer) as vendor:
                            came = vendor.ask(wire.Collect("insurer"))
                            assert isinstance(came, wire.Deliveries)
                            his = tuple(d.run_id for d in came.deliveries if d.text == "his")
                            vendor.ask(wire.Acknowledge("insurer", his))
        assert len(honest) == len(arrived) == 8
        assert runs_of(record) > honest | arrived and len(runs_of(record)) == MOST
        assert waiting(record) > honest and len(waiting(record)) <= MOST
        assert record.dropped > REAL // 4 and record.dropped_runs == REAL + 16 - MOST
        known = {row for (row,) in looked_up(path, "SELECT run_id FROM deliveries WHERE acknowledged")}
        assert known > arrived
    print(f"{EMPTY} empty and {REAL} real runs of one key, of which {MOST} are kept: 16 of 16 others' are there")


def test_the_provider_is_told_of_what_was_deleted_early(
    tokenizer: Tokenizer, path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Now and then, since a full record deletes one for each run, and at the end; in all every one once."""
    with closing(RunStore(path, limits=Limits(runs=3, deliveries=2), secret=SECRET)) as record:
        services = ProviderServices.of(tokenizer, store=record)
        for reply in (b"one", b"two", b"", b"three", b"four", b"five", b"six"):
            services.finish(FinishedRun(os.urandom(16), "", time.time(), 1, list(reply), 1, "ann"))
            finish(record, "ben")
        services.close()
        services.close()
    reported = [event_of(line) for line in capfd.readouterr().err.splitlines()]
    numbers = defaultdict[str, list[str]](list)
    for each in reported:
        assert each["level"] == "warning"
        numbers[each["event"]].append(each["number"])
    assert numbers == {"deliveries_deleted": ["1", "4"], "runs_deleted": ["3", "7"]}
