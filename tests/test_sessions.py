"""Claims about the cloud's bookkeeping of sessions, with a clock that stands still until the test moves it."""

from __future__ import annotations

import pytest

from llama.cloud.sessions import FORGOTTEN_S, HELD_S, REMEMBERED_CLOSED, UNUSED_S, Session, Sessions, digest_of
from llama.wire import ErrorCode, Open, Refused, Step
from tests.support import open_request


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(clock: Clock) -> Sessions:
    return Sessions(2, 60.0, clock)


def code(refused: pytest.ExceptionInfo[Refused]) -> ErrorCode:
    return refused.value.error.code


def opened(sessions: Sessions, request: Open, digest: bytes) -> Session:
    """Open a session that need not wait, and return it."""
    sessions.enqueue(request, digest, b"")
    [(_, session)] = sessions.admit()
    return session


def step(session: Session, position: int, rows: int, want: int = 0) -> Step:
    return Step(session.id, 1, position, want, "float32", rows, 8)


def test_sessions_get_rows_of_their_own_and_ids_nobody_can_guess(sessions: Sessions) -> None:
    """Two slots, two sessions, 16 random bytes each."""
    one, two = opened(sessions, open_request(), b"1"), opened(sessions, open_request(), b"2")
    assert {one.slot, two.slot} == {0, 1}
    assert len(one.id) == len(two.id) == 16 and one.id != two.id
    assert sessions.find(one.id) is one and sessions.find(two.id) is two
    assert sessions.running(one.request.run_id) is one and len(sessions) == 2


def test_who_must_wait_gets_a_slot_in_the_order_of_first_asking(sessions: Sessions) -> None:
    """Two slots, five devices.

    A freed slot goes to the first device in the queue, which keeps its turn by asking again.
    """
    first, _ = opened(sessions, open_request(), b""), opened(sessions, open_request(), b"")
    waiting = [open_request() for _ in range(3)]
    for request in waiting:
        sessions.enqueue(request, b"", b"peer")
    sessions.enqueue(waiting[0], b"", b"a newer socket")
    assert sessions.admit() == []
    sessions.close(first)
    assert sessions.admit() == [], "not before the row is cleared"
    sessions.release(first.slot)
    [(entry, session)] = sessions.admit()
    assert entry.peer == b"a newer socket" and session.request is waiting[0] and session.slot == first.slot
    assert [each.request for each in sessions.queue.values()] == waiting[1:]


def test_who_waits_is_told_so_before_the_device_gives_up_and_keeps_its_turn(sessions: Sessions, clock: Clock) -> None:
    """A free slot is kept for a device that is about to ask again. A device that does not ask again loses its turn."""
    first, _ = opened(sessions, open_request(), b""), opened(sessions, open_request(), b"")
    ahead, behind = open_request(), open_request()
    sessions.enqueue(ahead, b"", b"ahead")
    clock.now += HELD_S / 2
    sessions.enqueue(behind, b"", b"behind")
    assert sessions.still_waiting() == []
    clock.now += HELD_S / 2
    [(peer, refusal)] = sessions.still_waiting()
    assert peer == b"ahead" and (refusal.error.code, refusal.error.retry_after_s) == (ErrorCode.BUSY, 0.0)
    sessions.close(first)
    sessions.release(first.slot)
    assert sessions.admit() == [], "the row is the first one's, who is about to ask again"
    sessions.enqueue(ahead, b"", b"ahead")
    [(entry, session)] = sessions.admit()
    assert entry.request is ahead
    sessions.queue["", behind.run_id].peer = None
    sessions.close(session)
    sessions.release(session.slot)
    clock.now += FORGOTTEN_S + 0.1
    assert sessions.admit() == [] and not sessions.queue


def test_when_the_line_is_full_the_next_is_refused_with_a_hint(clock: Clock) -> None:
    """One slot, one device in the queue. Devices in the queue may ask again."""
    small = Sessions(1, 60.0, clock, most_waiting=1)
    opened(small, open_request(), b"")
    waiting = open_request()
    small.enqueue(waiting, b"", b"")
    with pytest.raises(Refused) as refused:
        small.enqueue(open_request(), b"", b"")
    assert code(refused) == ErrorCode.BUSY and refused.value.error.retry_after_s == 2.0
    small.enqueue(waiting, b"", b"")


def test_an_owners_sessions_and_those_in_line_count_and_end_together(clock: Clock) -> None:
    """An owner may have two at a time. A key that is removed from the allow list loses its place in the queue."""
    sessions = Sessions(1, 60.0, clock, per_owner=2)
    sessions.enqueue(open_request(), b"", b"", "her")
    [(_, running)] = sessions.admit()
    sessions.enqueue(open_request(), b"", b"", "her")
    with pytest.raises(Refused) as refused:
        sessions.enqueue(open_request(), b"", b"", "her")
    assert code(refused) == ErrorCode.BUSY and "this key" in str(refused.value)
    sessions.enqueue(open_request(), b"", b"", "him")
    sessions.leave_queue(lambda owner: owner == "him")
    sessions.close(running)
    sessions.release(running.slot)
    [(_, next_one)] = sessions.admit()
    assert next_one.owner == "him"


def test_a_session_that_is_never_used_goes_sooner_than_one_that_was(clock: Clock) -> None:
    """Its device may have left while it was in the queue."""
    sessions = Sessions(2, 600.0, clock)
    unused, used = opened(sessions, open_request(), b""), opened(sessions, open_request(), b"")
    used.accept(1, b"", b"")
    used.reply = b"done"
    clock.now += UNUSED_S + 1
    assert sessions.idle() == [unused]


def test_a_closed_session_is_unknown_but_remembered_as_closed(sessions: Sessions) -> None:
    """Its run can be opened again. A session that never existed is not remembered."""
    one = opened(sessions, open_request(), b"")
    sessions.close(one)
    with pytest.raises(Refused) as refused:
        sessions.find(one.id)
    assert code(refused) == ErrorCode.UNKNOWN_SESSION
    assert sessions.running(one.request.run_id) is None
    assert not sessions.was_closed(b"?" * 16)


def test_closing_an_old_session_of_a_run_leaves_its_new_one(sessions: Sessions) -> None:
    """The run id finds the session that was opened last."""
    old = opened(sessions, open_request(run_id=b"r" * 16), b"1")
    new = opened(sessions, open_request(run_id=b"r" * 16), b"2")
    sessions.close(old)
    assert sessions.running(b"r" * 16) is new


def test_memory_of_closed_sessions_is_bounded(clock: Clock) -> None:
    """The oldest ones are forgotten."""
    sessions = Sessions(1, 60.0, clock)
    ids = []
    for _ in range(REMEMBERED_CLOSED + 10):
        session = opened(sessions, open_request(), b"")
        sessions.close(session)
        sessions.release(session.slot)
        ids.append(session.id)
    assert not any(map(sessions.was_closed, ids[:10])) and all(map(sessions.was_closed, ids[10:]))


def test_idle_sessions_are_those_unused_for_longer_than_the_timeout(sessions: Sessions, clock: Clock) -> None:
    """Looking a session up counts as use. A session whose step is computed is never idle."""
    one, two = opened(sessions, open_request(), b""), opened(sessions, open_request(), b"")
    for session in (one, two):
        session.accept(1, b"", b"")
        session.reply = b"done"
    clock.now += 59
    sessions.find(two.id)
    clock.now += 1
    assert sessions.idle() == []
    clock.now += 0.5
    assert sessions.idle() == [one]
    one.accept(1, b"digest", b"peer")
    assert sessions.idle() == []
    one.reply = b"done"
    clock.now += 60
    assert sessions.idle() == [one, two]


def test_the_number_after_the_last_is_new_and_the_last_with_the_same_bytes_a_repeat(sessions: Sessions) -> None:
    """All other requests are out of sequence. While one is computed, all but its repeat are."""
    session = opened(sessions, open_request(), b"")
    assert session.is_repeat(1, b"a") is False
    session.accept(1, b"a", b"peer")
    assert session.busy and session.is_repeat(1, b"a") is True
    for seq, digest in ((2, b"b"), (1, b"b"), (3, b"a"), (0, b"")):
        with pytest.raises(Refused) as refused:
            session.is_repeat(seq, digest)
        assert code(refused) == ErrorCode.OUT_OF_SEQUENCE
    session.reply = b"done"
    assert session.is_repeat(2, b"b") is False and session.is_repeat(1, b"a") is True


def test_digests_tell_frames_apart_by_content_and_by_where_they_are_cut() -> None:
    """The same bytes in one frame, in two frames, or cut at another place."""
    digests = {digest_of(b"ab"), digest_of(b"a", b"b"), digest_of(b"", b"ab"), digest_of(b"ab", b""), digest_of(b"ac")}
    assert len(digests) == 5
    assert digest_of(b"ab", b"c") == digest_of(b"ab", memoryview(b"c"))


@pytest.mark.parametrize(
    ("position", "rows", "want", "fits"),
    [
        (0, 4, 0, True),
        (0, 4, 1, True),  # the prompt's last row
        (0, 4, 2, False),  # the first wanted row lies in the prompt
        (0, 3, 1, False),
        (0, 5, 1, False),  # output 1 while output 0 is not known
        (0, 5, 2, True),
        (0, 6, 3, True),
        (1, 1, 0, False),  # a gap
        (0, 8, 0, True),
        (0, 9, 0, False),  # more than max_rows
        (0, 2, 3, False),
    ],
)
def test_a_first_step_fits_when_it_leaves_no_hole_and_wants_only_outputs(
    sessions: Sessions, position: int, rows: int, want: int, fits: bool
) -> None:
    """A prompt of four, a context of 10, at most 8 rows."""
    session = opened(sessions, open_request(4), b"")
    if fits:
        session.check_step(step(session, position, rows, want), 10, 8)
    else:
        with pytest.raises(Refused) as refused:
            session.check_step(step(session, position, rows, want), 10, 8)
        assert code(refused) == ErrorCode.OUT_OF_RANGE and refused.value.error.advice


def test_outputs_are_kept_by_index_and_overwritten_by_a_later_sample(sessions: Sessions) -> None:
    """Forward, back to an earlier position, forward again. The end may be any that was reached."""
    session = opened(sessions, open_request(4, stop_ids=(9,), resumed_ids=(1, 2)), b"")
    assert session.reply_ids(2) == [1, 2]
    session.record_step(step(session, 0, 4, 1), [7])
    assert (session.filled, session.outputs) == (4, [7, 2])
    session.record_step(step(session, 4, 3, 3), [5, 6, 9])
    assert (session.filled, session.outputs) == (7, [7, 5, 6, 9])
    session.record_step(step(session, 5, 1, 1), [8])
    assert (session.filled, session.outputs) == (6, [7, 5, 8, 9])
    assert session.reply_ids(4) == [7, 5, 8] and session.reply_ids(0) == []
    with pytest.raises(Refused) as refused:
        session.reply_ids(5)
    assert code(refused) == ErrorCode.OUT_OF_RANGE


def test_a_session_does_not_print_its_ids_or_settings(sessions: Sessions) -> None:
    """The content of a run must not get into logs."""
    session = opened(sessions, open_request(4, resumed_ids=(31337,), prompt_id="rahasia"), b"")
    assert "31337" not in repr(session) and "rahasia" not in repr(session)
