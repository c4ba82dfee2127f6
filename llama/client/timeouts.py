"""How long one request is waited for.

Four ways of getting no answer, each with its own limit, so that every wait ends:

silence     no heartbeat: ``deadline_s``; ``restart_deadline_s`` where the cloud had answered before, and then its
            connection went, or it said that it is stopping.
unanswered  the cloud says that it lives, but does not answer the request: so many deadlines.
busy        it asks to be asked later: ``deadline_s``; ``restart_deadline_s`` where it is stopping, or where a reply
            that had begun would be lost.
in all      whatever comes in between: the limits of *unanswered* and of a restart together.

Bookkeeping only. Knows: the clock, what was heard. Does not know: sockets, messages, words.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

MAX_DEADLINES = 10  # a slow cloud with much to do may honestly need minutes
FINISH_DEADLINES = 4  # to write a reply down takes less
WORTH_ASKING = 0.95  # of a limit; the rest would not be worth another question

Expired = Literal["silent", "unanswered", "in_all"]


class Timeouts:
    """The clocks of one request.

    Args:
        deadline_s: see above.
        restart_deadline_s: see above; no less than ``deadline_s``.
        has_answered: whether the cloud has ever answered.
        deadlines: after how many of them a cloud that lives must have answered.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        deadline_s: float,
        restart_deadline_s: float,
        *,
        has_answered: bool,
        deadlines: int = MAX_DEADLINES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.deadline_s, self.restart_deadline_s = deadline_s, max(deadline_s, restart_deadline_s)
        self.has_answered, self.away = has_answered, False
        self.unanswered_limit_s = deadlines * deadline_s
        self.in_all_limit_s = self.unanswered_limit_s + self.restart_deadline_s
        self._clock = clock
        self._begun = self._asked = self._heard = clock()
        self._busy_since: float | None = None
        self._busy_limit_s = 0.0
        self._notified: tuple[str, float] = ("", 0.0)

    @property
    def silent_s(self) -> float:
        """Seconds without a heartbeat."""
        return self._clock() - self._heard

    @property
    def unanswered_s(self) -> float:
        """Seconds that the cloud has had the request."""
        return self._clock() - self._asked

    @property
    def in_all_s(self) -> float:
        """Seconds since the request was made."""
        return self._clock() - self._begun

    @property
    def silence_limit_s(self) -> float:
        """How long it may be silent."""
        return self.restart_deadline_s if self.away else self.deadline_s

    @property
    def left_s(self) -> float:
        """Seconds until the first limit is reached."""
        return max(
            0.0,
            min(
                self.silence_limit_s - self.silent_s,
                self.unanswered_left_s,
                self.in_all_limit_s - self.in_all_s,
            ),
        )

    @property
    def unanswered_left_s(self) -> float:
        """Likewise, of that limit only; while the cloud is away it does not have the request."""
        return self.in_all_limit_s if self.away else self.unanswered_limit_s - self.unanswered_s

    @property
    def expired(self) -> Expired | None:
        """Which limit is reached."""
        if self.silent_s >= WORTH_ASKING * self.silence_limit_s:
            return "silent"
        if self.unanswered_left_s <= 0:
            return "unanswered"
        return "in_all" if self.in_all_s >= self.in_all_limit_s else None

    def missed(self, *, connected: bool) -> None:
        """No answer has come; nor is there a connection, perhaps."""
        self.away = self.away or (self.has_answered and not connected)

    def heartbeat(self) -> None:
        """The cloud has said that it lives."""
        now = self._clock()
        if self.away or not self.has_answered:  # it may be another start of the cloud, which is given the request anew
            self._asked = now
        self._heard, self.away, self.has_answered = now, False, True

    def busy(self, limit_s: float, *, stopping: bool) -> bool:
        """It has asked to be asked again, which may go on for ``limit_s``; whether that is over."""
        now = self._clock()
        self.heartbeat()
        self._asked, self.away = now, stopping
        if self._busy_since is None or limit_s != self._busy_limit_s:
            self._busy_since, self._busy_limit_s = now, limit_s
        return now - self._busy_since > limit_s or self.in_all_s >= self.in_all_limit_s

    @property
    def busy_left_s(self) -> float:
        """Seconds that it may go on to be busy."""
        return 0.0 if self._busy_since is None else max(0.0, self._busy_since + self._busy_limit_s - self._clock())

    def is_news(self, what: str, seconds: float) -> bool:
        """Whether a person is to be told of so long a wait: not at every question, or it would be said for minutes."""
        notified, before_s = self._notified
        if notified == what and seconds < 1.25 * before_s:
            return False
        self._notified = what, seconds
        return True
