"""How far the rows of a run record have aged: as the wall clock says, unless it has leapt ahead.

A clock that is set right, or wrong for a moment, would otherwise erase all that is kept. It has leapt when it is more
than two days ahead of what it was at the last look, and this process has not itself been there meanwhile: so has that
of a cloud that was off for long, or of a restored back-up. Rows then age no further until a day has been seen to pass
since, step by step, of which each counts half a day at most: also a cloud that is on for moments only forgets in the
end. A clock that is set back is followed.

Knows: the table ``clock``. Does not know: rows.
"""

from __future__ import annotations

import sqlite3
import time

_DAY_S = 24 * 60 * 60
LEAP_S = 2 * _DAY_S
WAIT_S = _DAY_S
MOST_STEP_S = _DAY_S // 2
_WRITTEN_S = 60 * 60  # what has changed by less is not written: a look alone need not wait for the disk


class Retention:
    """The age of a file's rows, over any number of processes.

    Args:
        db: the file, with its tables.

    Attributes:
        leaps: how often the clock has leapt, since the file was opened.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self.leaps = 0
        self._db = db
        self._looked_at: float | None = None  # when what the table says was last seen; monotonic

    def look(self, now: float) -> float:
        """The time by which rows are old, in the transaction that is open: ``now``, or earlier.

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
