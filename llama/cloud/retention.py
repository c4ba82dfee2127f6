"""The age of a run record's rows: the wall clock's time, unless the clock has leapt ahead.

Otherwise a clock that is corrected, or wrong for a moment, would erase the whole record. The clock has leapt when it is
more than two days ahead of its last known time, and this process did not run in between. The same holds for a cloud
that was off for long, and for a restored back-up. Rows then stop ageing until a day has passed since. That day is
counted in steps of at most half a day each, so a cloud that only ever runs for moments still forgets in the end. A
clock that is set back is followed.

Knows: the table ``clock``. Does not know: rows.
"""

from __future__ import annotations

import sqlite3
import time

_DAY_S = 24 * 60 * 60
LEAP_S = 2 * _DAY_S
WAIT_S = _DAY_S
MOST_STEP_S = _DAY_S // 2
_WRITTEN_S = 60 * 60  # smaller changes are not written, so that a read need not wait for the disk


class Retention:
    """The age of a file's rows, across restarts.

    Args:
        db: the file, with its tables.

    Attributes:
        leaps: how often the clock has leapt since the file was opened.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self.leaps = 0
        self._db = db
        self._looked_at: float | None = None  # when the table was last written; monotonic seconds

    def look(self, now: float) -> float:
        """Return the time to measure the age of rows by: ``now``, or earlier after a leap. Needs an open transaction.

        Args:
            now: the clock, seconds since 1970.
        """
        row = self._db.execute("SELECT seen, trusted, waited FROM clock").fetchone()
        if row is None:
            self._write(now, now, None)
            return now
        seen, trusted, waited = row
        step = now - seen
        passed = 0.0 if self._looked_at is None else time.monotonic() - self._looked_at
        if waited is None:
            if step > LEAP_S + passed:
                self.leaps += 1
                self._write(now, trusted, 0)
                return float(trusted)
        elif now - trusted > LEAP_S:
            waited += int(min(max(step, 0), MOST_STEP_S))
            if waited < WAIT_S:
                if abs(step) >= _WRITTEN_S:
                    self._write(now, trusted, waited)
                return float(trusted)
        if waited is not None or abs(step) >= _WRITTEN_S or self._looked_at is None:
            self._write(now, now, None)
        return now

    def _write(self, seen: float, trusted: float, waited: int | None) -> None:
        self._db.execute("DELETE FROM clock")
        self._db.execute("INSERT INTO clock VALUES (?, ?, ?)", (int(seen), int(trusted), waited))
        self._looked_at = time.monotonic()
