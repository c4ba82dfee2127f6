"""Time limits of one request.

A request can stay without an answer in four ways. Each has a limit, so that every wait ends:

silence     no heartbeat comes. Limit: ``deadline_s``. It is ``restart_deadline_s`` if the cloud answered before, and
            then its connection broke or it said that it is stopping.
unanswered  heartbeats come, but no answer. Limit: ``deadlines`` times ``deadline_s``.
busy        the cloud asks the client to come back later. Limit: ``deadline_s``. It is ``restart_deadline_s`` if the
            cloud is stopping, or if a reply that has begun would be lost.
in all      any mixture of these. Limit: the limits of *unanswered* and of a restart together.

This module does bookkeeping only.

Knows: the clock, the kind and time of each sign from the cloud. Does not know: sockets, messages, words.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

MAX_DEADLINES = 10  # a slow cloud with much work may need minutes
FINISH_DEADLINES = 4  # storing a reply takes less
WORTH_ASKING = 0.95  # share of a limit after which another question is no longer worth it

Expired = Literal["silent", "unanswered", "in_all"]


class Timeouts:
    """The clocks of one request.

    Args:
        deadline_s: see the module's text.
        restart_deadline_s: see the module's text; values below ``deadline_s`` count as ``deadline_s``.
        has_answered: whether the cloud has ever answered.
        deadlines: number of deadlines within which a cloud that lives must answer.
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
        """Seconds that the cloud may be silent."""
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
        """Seconds until the limit of *unanswered*. While the cloud is away, it does not have the request."""
        return self.in_all_limit_s if self.away else self.unanswered_limit_s - self.unanswered_s

    @property
    def expired(self) -> Expired | None:
        """The expired limit, or None."""
        if self.silent_s >= WORTH_ASKING * self.silence_limit_s:
            return "silent"
        if self.unanswered_left_s <= 0:
            return "unanswered"
        return "in_all" if self.in_all_s >= self.in_all_limit_s else None

    def missed(self, *, connected: bool) -> None:
        """Note that no answer came, and whether the connection is up."""
        self.away = self.away or (self.has_answered and not connected)

    def heartbeat(self) -> None:
        """Note that the cloud has sent a heartbeat."""
        now = self._clock()
        if self.away or not self.has_answered:  # the cloud may have restarted; the client sends the request again
            self._asked = now
        self._heard, self.away, self.has_answered = now, False, True

    def busy(self, limit_s: float, *, stopping: bool) -> bool:
        """Note that the cloud is busy, which may last ``limit_s`` seconds. Return whether that limit has expired."""
        now = self._clock()
        self.heartbeat()
        self._asked, self.away = now, stopping
        if self._busy_since is None or limit_s != self._busy_limit_s:
            self._busy_since, self._busy_limit_s = now, limit_s
        return now - self._busy_since > limit_s or self.in_all_s >= self.in_all_limit_s

    @property
    def busy_left_s(self) -> float:
        """Seconds that the cloud may still be busy."""
        return 0.0 if self._busy_since is None else max(0.0, self._busy_since + self._busy_limit_s - self._clock())

    def is_news(self, what: str, seconds: float) -> bool:
        """Return whether to notify the person of a wait of ``seconds``. Do so only after it has grown by a quarter."""
        notified, before_s = self._notified
        if notified == what and seconds < 1.25 * before_s:
            return False
        self._notified = what, seconds
        return True
