"""Reports what the store of runs has deleted early, now and then: a full one deletes a row for each run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from llama.cloud.event_log import EventLog
from llama.cloud.run_store import RunStore

REPORT_S = 60.0  # between two lines of one kind


class DeletionLog:
    """Counts what was reported.

    Args:
        store: where runs and deliveries are kept, if they are.
        event_log: where the lines go.
        clock: monotonic seconds.
    """

    def __init__(
        self, store: RunStore | None, event_log: EventLog, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._event_log, self._clock = store, event_log, clock
        self._reported = {"deliveries_deleted": (0, -math.inf), "runs_deleted": (0, -math.inf)}  # how many, when
        self._reported_leaps = 0

    def report(self, *, all_of_it: bool = False) -> None:
        """Report what is new, or at the end all of it, however short the time since the last line."""
        store = self._store
        if store is None:
            return
        if store.leaps > self._reported_leaps:
            self._reported_leaps = store.leaps
            why = "over two days ahead of its last; for a day nothing is deleted as old"
            self._event_log.warning("clock_leapt", why=why)
        for event, deleted, why in (
            ("deliveries_deleted", store.dropped, "uncollected: too old, too many or too large"),
            ("runs_deleted", store.dropped_runs, "too many or too large"),
        ):
            (number, at), now = self._reported[event], self._clock()
            if deleted > number and (all_of_it or now - at >= REPORT_S):
                self._reported[event] = deleted, now
                self._event_log.warning(event, number=deleted - number, why=why)
