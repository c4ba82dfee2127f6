"""Claims about Forget: what a cloud deletes of a run when the device that made it asks, and what it says."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from llama import wire
from llama.cloud.run_store import RunStore
from llama.errors import RecordError
from llama.tokenizer import Tokenizer
from llama.wire import Close, Finish, Forget, Forgotten
from tests.records import SECRET, a_delivery, a_run, file, held_by_another, ids, looked_up, stored, waiting
from tests.support import Halves, Keys, Peer, Served, code_of, open_request

REPLY = "vanillekipferl"
RUN = ids(1)[0]
KNOWN = b"sixteen letters."


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.sqlite"


@pytest.fixture
def record(path: Path) -> Iterator[RunStore]:
    with closing(RunStore(path, secret=SECRET)) as record:
        yield record


@pytest.fixture
def served(halves: Halves, tokenizer: Tokenizer, record: RunStore) -> Iterator[Served]:
    with Served(halves, tokenizer, record=record) as served:
        yield served


def finished(served: Served, peer: Peer, run_id: bytes = RUN) -> None:
    """A whole run whose reply is :data:`REPLY`."""
    request = open_request(run_id=run_id, resumed_ids=tuple(REPLY.encode()))
    with served.session(peer, request) as session:
        peer.ask(Finish(session, 1, len(REPLY)))


# ---- what is deleted


def test_nothing_of_a_forgotten_run_is_left_in_the_file_its_free_pages_or_its_log(path: Path, record: RunStore) -> None:
    """Neither the row nor the copy nor their ids; the runs beside it stay."""
    for number in range(2, 40):
        record.write(a_run(number, text="spekulatius " * 90))
    run = a_run(run_id=KNOWN, text=REPLY * 900, copy="queued")
    record.write(run, "insurer", a_delivery(run_id=KNOWN, text=REPLY, prompt="zimtstern"))
    words = (REPLY.encode(), b"zimtstern", KNOWN)
    assert all(word in stored(path) for word in words)
    assert record.forget(KNOWN) is False
    left = stored(path)
    assert not [word for word in words if word in left]
    assert waiting(record) == [] and len(record.runs(99)) == 38
    assert looked_up(path, "SELECT count(*) FROM runs") == [(38,)]


def test_a_copy_that_was_handed_out_is_beyond_reach_and_is_called_so(path: Path, record: RunStore) -> None:
    """Also one that was never acknowledged: its words go, its id stays, and it is not handed out again."""
    file(record, 1, text=REPLY)
    file(record, 2)
    assert waiting(record) == [1, 2]
    record.acknowledge("insurer", ids(2))
    assert [record.forget(each) for each in ids(1, 2)] == [True, True]
    assert REPLY.encode() not in stored(path)
    assert waiting(record) == [] and record.runs(9) == []


@pytest.mark.parametrize("collected", [False, True])
def test_forgetting_again_is_answered_the_same(record: RunStore, collected: bool) -> None:
    """As often as it is asked, and by a record that is opened again."""
    file(record, 1)
    if collected:
        assert waiting(record) == [1]
    assert {record.forget(RUN) for _ in range(3)} == {collected}


def test_a_run_that_was_never_there_is_forgotten_like_any_other(record: RunStore) -> None:
    """The answer tells nobody which runs there are."""
    assert record.forget(ids(77)[0]) is False


def test_a_run_that_is_replayed_after_that_is_a_new_one(record: RunStore) -> None:
    """The device has run it again, so the third party gets its copy."""
    file(record, 1)
    record.forget(RUN)
    file(record, 1)
    assert waiting(record) == [1] and len(record.runs(9)) == 1


def test_another_keys_run_stays(record: RunStore) -> None:
    """Also one with the same id, and its copy under the id that the third party knows it by."""
    for owner in ("his", "mine"):
        record.write(a_run(1, text=owner, copy="queued"), "insurer", a_delivery(1, text=owner), owner)
    assert record.forget(RUN, "stranger") is False and len(record.runs(9)) == 2
    assert record.forget(RUN, "mine") is False
    assert [run.text for run in record.runs(9)] == ["his"]
    assert [delivery.text for delivery in record.collect("insurer", 9)] == ["his"]
    assert record.forget(RUN, "mine") is False and record.forget(RUN, "his") is True


def test_a_reader_delays_the_erasing_until_it_has_gone(path: Path, record: RunStore) -> None:
    """The next request after it makes up for it."""
    record.write(a_run(1, text=REPLY))
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM runs").fetchone() == (1,)
        record.forget(RUN)
        assert REPLY.encode() in stored(path)
    assert waiting(record) == [] and REPLY.encode() not in stored(path)


def test_a_record_that_cannot_be_written_says_so_and_keeps_the_run(path: Path, record: RunStore) -> None:
    """Locked by another program."""
    record.write(a_run(1, text=REPLY))
    with held_by_another(path), pytest.raises(RecordError, match=r"^a run could not be deleted: database is locked$"):
        record.forget(RUN)
    assert len(record.runs(9)) == 1


# ---- who may ask, and when


def test_without_keys_whoever_knows_the_id_may_ask(served: Served, record: RunStore) -> None:
    """Over a socket of its own; repeated, the bytes of the answer are the same."""
    with served.peer() as peer, served.peer() as other:
        finished(served, peer)
        assert [run.text for run in record.runs(9)] == [REPLY]
        assert [other.ask(Forget(RUN)) for _ in range(2)] == [Forgotten(), Forgotten()]
        assert record.runs(9) == []


def test_a_run_under_way_is_refused_by_name(served: Served, record: RunStore) -> None:
    """Also when its reply is recorded already: until its session is closed, it could be finished again."""
    with served.peer() as peer, served.peer() as other:
        request = open_request(run_id=RUN, resumed_ids=tuple(REPLY.encode()))
        with served.session(peer, request) as session:
            assert code_of(other.ask(Forget(RUN))) == "run_under_way"
            peer.ask(Finish(session, 1, len(REPLY)))
            assert code_of(other.ask(Forget(RUN))) == "run_under_way" and len(record.runs(9)) == 1
        assert other.ask(Forget(RUN)) == Forgotten() and record.runs(9) == []


def test_a_run_that_waits_for_a_slot_is_under_way(halves: Halves, tokenizer: Tokenizer, record: RunStore) -> None:
    """It would begin afterwards."""
    with Served(halves, tokenizer, slots=1, record=record, most_waiting=1) as served:
        with served.peer() as first, served.peer() as second, served.peer() as other:
            with served.session(first):
                second.send_request(open_request(run_id=RUN))
                while code_of(other.ask(Forget(RUN))) != "run_under_way":
                    pass
            opened = second.receive()
            while isinstance(opened, wire.Error):  # it keeps its place
                opened = second.ask(open_request(run_id=RUN))
            assert isinstance(opened, wire.Opened)
            second.ask(Close(opened.session, 1))


def test_with_keys_only_the_key_that_made_the_run_may_ask(
    halves: Halves, tokenizer: Tokenizer, record: RunStore, tmp_path: Path
) -> None:
    """Another device's request is answered like one for a run that never was; third parties and operators may not."""
    keys = Keys(tmp_path)
    phone, tablet = keys.make("phone"), keys.make("tablet")
    with Served(halves, tokenizer, record=record, keys=keys.of_the_cloud()) as served:
        with served.peer(keys=phone) as peer:
            request = open_request(run_id=RUN, resumed_ids=tuple(REPLY.encode()))
            with served.session(peer, request, phone) as session:
                peer.ask(Finish(session, 1, len(REPLY)))
        with served.peer(keys=tablet) as other:
            assert other.ask(Forget(RUN)) == Forgotten() and len(record.runs(9)) == 1
        for role in ("vendor", "operator"):
            with served.peer(keys=keys.make(role, role)) as other:
                assert code_of(other.ask(Forget(RUN))) == "not_allowed"
        with served.peer(keys=phone) as peer:
            assert peer.ask(Forget(RUN)) == Forgotten() and record.runs(9) == []


def test_a_cloud_without_a_record_says_that_it_has_none(halves: Halves, tokenizer: Tokenizer) -> None:
    """There is nothing to delete; what an earlier start recorded is named."""
    with Served(halves, tokenizer) as served, served.peer() as peer:
        refused = peer.ask(Forget(RUN))
        assert isinstance(refused, wire.Error) and refused.code == "not_served"
        assert "no record of runs" in refused.message and "an earlier start" in refused.advice
