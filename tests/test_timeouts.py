"""Claims about how long a request is waited for: by the clock, and whatever a cloud says in between."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llama.client.timeouts import FINISH_DEADLINES, MAX_DEADLINES, Timeouts


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def timeouts(clock: Clock, *, has_answered: bool = True, deadlines: int = MAX_DEADLINES) -> Timeouts:
    return Timeouts(30.0, 300.0, has_answered=has_answered, deadlines=deadlines, clock=clock)


def test_a_cloud_that_never_answered_is_given_up_after_the_deadline_whether_or_not_it_takes_connections() -> None:
    for connected in (True, False):
        clock = Clock()
        waited = timeouts(clock, has_answered=False)
        clock.now += 27
        waited.missed(connected=connected)
        assert waited.expired is None and waited.left_s == 3
        clock.now += 3
        assert waited.expired == "silent"


def test_a_cloud_that_had_answered_and_went_away_is_waited_for_longer_and_a_silent_one_is_not() -> None:
    """What tells them apart is the connection."""
    for connected, limit_s in ((True, 30), (False, 300)):
        clock = Clock()
        waited = timeouts(clock)
        waited.missed(connected=connected)
        clock.now += 0.9 * limit_s
        assert waited.expired is None and waited.silence_limit_s == limit_s
        clock.now += 0.1 * limit_s
        assert waited.expired == "silent"


def test_a_cloud_that_lives_but_does_not_answer_is_given_up_after_so_many_deadlines() -> None:
    """Of Finish fewer; a cloud that was away has the request from then on."""
    for deadlines in (MAX_DEADLINES, FINISH_DEADLINES):
        clock = Clock()
        waited = timeouts(clock, deadlines=deadlines)
        for _ in range(deadlines * 3 - 1):
            clock.now += 10
            waited.heartbeat()
            assert waited.expired is None
        clock.now += 10
        waited.heartbeat()
        assert waited.expired == "unanswered"
    clock = Clock()
    waited = timeouts(clock)
    waited.missed(connected=False)
    clock.now += 250
    waited.heartbeat()
    assert waited.unanswered_s == 0 and waited.expired is None


def test_busy_ends_after_its_limit_and_a_cloud_that_stops_after_the_longer_one() -> None:
    for limit_s, stopping in ((30.0, False), (300.0, True)):
        clock = Clock()
        waited = timeouts(clock)
        assert not waited.busy(limit_s, stopping=stopping)
        clock.now += limit_s
        assert not waited.busy(limit_s, stopping=stopping) and waited.busy_left_s == 0
        clock.now += 1
        assert waited.busy(limit_s, stopping=stopping)


def test_a_limit_for_restarts_below_the_deadline_shortens_nothing() -> None:
    clock = Clock()
    waited = Timeouts(30.0, 5.0, has_answered=True, clock=clock)
    waited.missed(connected=False)
    clock.now += 20
    assert waited.expired is None


@given(st.lists(st.tuples(st.sampled_from(["missed", "gone", "lives", "full", "stopping"]), st.floats(0.05, 20.0))))
def test_whatever_a_cloud_does_in_turns_no_request_takes_longer_than_all_limits_together(
    happened: list[tuple[str, float]],
) -> None:
    """600 s with the usual ones; as long as no limit is reached, some time is left."""
    clock = Clock()
    begun, waited = clock.now, timeouts(clock)
    for what, seconds in happened * 50:
        if what in ("missed", "gone"):
            waited.missed(connected=what == "missed")
        elif what == "lives":
            waited.heartbeat()
        elif waited.busy(300.0 if what == "stopping" else 30.0, stopping=what == "stopping"):
            break
        if waited.expired is not None:
            break
        assert waited.left_s > 0
        clock.now += min(seconds, waited.left_s)
    assert clock.now - begun <= 600 + 1e-6


def test_a_person_is_told_ever_less_often() -> None:
    """Of five minutes, asked every five seconds: some twenty times."""
    waited = timeouts(Clock())
    assert 10 < sum(waited.is_news("silent", seconds) for seconds in range(5, 300, 5)) < 25
    assert waited.is_news("unanswered", 1.0)
