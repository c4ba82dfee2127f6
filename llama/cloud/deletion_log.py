"""Log lines about rows that the run store deletes early: rate-limited, as a full store deletes one per run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from llama.cloud.event_log import EventLog
from llama.cloud.run_store import RunStore

REPORT_S = 60.0  # between two lines of one kind


class DeletionLog:
    """Reports rows that the store has deleted early and leaps of the clock, each once.

    Args:
        store: keeps runs and deliveries; None if the cloud keeps none.
        event_log: receives the lines.
        clock: monotonic seconds.
    """

    def __init__(
        self, store: RunStore | None, event_log: EventLog, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._event_log, self._clock = store, event_log, clock
        self._reported = {
            "deliveries_deleted": (0, -math.inf),
            "runs_deleted": (0, -math.inf),
        }  # number and time of the last report
        self._reported_leaps = 0

    def report(self, *, all_of_it: bool = False) -> None:
        """Report new deletions. ``all_of_it``, for the end, ignores the time since the last line."""
        store = self._store
        if store is None:
            return
        if store.leaps > self._reported_leaps:
            self._reported_leaps = store.leaps
            why = "more than two days ahead; for one day no row is deleted by age"
            self._event_log.warning("clock_leapt", why=why)
        for event, deleted, why in (
            ("deliveries_deleted", store.dropped, "uncollected: too old, too many or too large"),
            ("runs_deleted", store.dropped_runs, "too many or too large"),
        ):
            (number, at), now = self._reported[event], self._clock()
            if deleted > number and (all_of_it or now - at >= REPORT_S):
                self._reported[event] = deleted, now
                self._event_log.warning(event, number=deleted - number, why=why)
