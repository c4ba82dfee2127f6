"""Each owner's share of the record, and the row to delete first when a limit is exceeded.

Each **pool** has its own limit: all runs, each third party's waiting deliveries, and each third party's acknowledged
deliveries. Rows over a limit are deleted from the owner with the largest share of the pool, oldest first. If several
owners have the same share, the oldest row of theirs is deleted. So an owner with no more than the limit divided by the
number of owners loses nothing to another owner. The texts of sheets count towards their third party's pool, but
towards no owner's share.

Triggers keep the shares in temporary tables in memory. They follow every change and every rollback of the record. The
file itself does not show which rows have the same owner (``llama.cloud.owners``).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import NamedTuple


class Pool(NamedTuple):
    """Rows with a common limit: ``runs``, or a third party's ``waiting`` or ``acknowledged`` deliveries."""

    kind: str
    vendor: str = ""

    @property
    def key(self) -> str:
        """The pool's name in the tables."""
        return f"{self.kind} {self.vendor}"


RUNS = Pool("runs")

_TABLES = """
CREATE TEMP TABLE pool_rows (
    pool TEXT, owner BLOB, number INTEGER, bytes INTEGER, PRIMARY KEY (pool, owner, number)
) WITHOUT ROWID;
CREATE TEMP TABLE shares (
    pool TEXT, owner BLOB, rows INTEGER, bytes INTEGER, oldest INTEGER, PRIMARY KEY (pool, owner)
) WITHOUT ROWID;
CREATE INDEX temp.most_rows ON shares (pool, rows DESC, oldest);
CREATE INDEX temp.most_bytes ON shares (pool, bytes DESC, oldest);
CREATE TEMP TABLE pools (pool TEXT PRIMARY KEY, rows INTEGER, bytes INTEGER) WITHOUT ROWID;
"""
_KIND = "CASE {}acknowledged WHEN 0 THEN 'waiting ' ELSE 'acknowledged ' END || {}vendor"
_NEW_POOL, _OLD_POOL = _KIND.format("NEW.", "NEW."), _KIND.format("OLD.", "OLD.")
_DROP_SHEET = """
    DELETE FROM sheets WHERE number = OLD.sheet AND NOT EXISTS (SELECT 1 FROM deliveries WHERE sheet = OLD.sheet)
"""
_TRIGGERS = {
    "pool_row_in": """
        AFTER INSERT ON temp.pool_rows BEGIN
            INSERT INTO shares VALUES (NEW.pool, NEW.owner, 1, NEW.bytes, NEW.number) ON CONFLICT (pool, owner)
                DO UPDATE SET rows = rows + 1, bytes = bytes + excluded.bytes, oldest = min(oldest, excluded.oldest);
            INSERT INTO pools VALUES (NEW.pool, 1, NEW.bytes) ON CONFLICT (pool)
                DO UPDATE SET rows = rows + 1, bytes = bytes + excluded.bytes;
        END
    """,
    "pool_row_out": """
        AFTER DELETE ON temp.pool_rows BEGIN
            UPDATE shares SET rows = rows - 1, bytes = bytes - OLD.bytes,
                oldest = (SELECT min(number) FROM pool_rows WHERE pool = OLD.pool AND owner = OLD.owner)
                WHERE pool = OLD.pool AND owner = OLD.owner;
            DELETE FROM shares WHERE pool = OLD.pool AND owner = OLD.owner AND rows = 0;
            UPDATE pools SET rows = rows - 1, bytes = bytes - OLD.bytes WHERE pool = OLD.pool;
        END
    """,
    "run_in": """
        AFTER INSERT ON main.runs BEGIN
            INSERT INTO pool_rows VALUES ('runs ', owner_in(NEW.owner, NEW.run_id), NEW.number, NEW.bytes);
        END
    """,
    "run_out": """
        AFTER DELETE ON main.runs BEGIN
            DELETE FROM pool_rows
            WHERE pool = 'runs ' AND owner = owner_in(OLD.owner, OLD.run_id) AND number = OLD.number;
        END
    """,
    "delivery_in": f"""
        AFTER INSERT ON main.deliveries BEGIN
            INSERT INTO pool_rows VALUES ({_NEW_POOL}, owner_in(NEW.owner, NEW.run_id), NEW.number, NEW.bytes);
        END
    """,
    "delivery_out": f"""
        AFTER DELETE ON main.deliveries BEGIN
            DELETE FROM pool_rows
            WHERE pool = {_OLD_POOL} AND owner = owner_in(OLD.owner, OLD.run_id) AND number = OLD.number;
            {_DROP_SHEET};
        END
    """,
    "delivery_acknowledged": f"""
        AFTER UPDATE OF acknowledged ON main.deliveries BEGIN
            DELETE FROM pool_rows
            WHERE pool = {_OLD_POOL} AND owner = owner_in(OLD.owner, OLD.run_id) AND number = OLD.number;
            INSERT INTO pool_rows VALUES ({_NEW_POOL}, owner_in(NEW.owner, NEW.run_id), NEW.number, NEW.bytes);
            {_DROP_SHEET};
        END
    """,
    "sheet_in": """
        AFTER INSERT ON main.sheets BEGIN
            INSERT INTO pools VALUES ('waiting ' || NEW.vendor, 0, NEW.bytes) ON CONFLICT (pool)
                DO UPDATE SET bytes = bytes + excluded.bytes;
        END
    """,
    "sheet_out": """
        AFTER DELETE ON main.sheets BEGIN
            UPDATE pools SET bytes = bytes - OLD.bytes WHERE pool = 'waiting ' || OLD.vendor;
        END
    """,
}
_SURVEY = (
    "DELETE FROM sheets WHERE number NOT IN (SELECT sheet FROM deliveries WHERE sheet IS NOT NULL)",
    *(f"DELETE FROM temp.{table}" for table in ("pool_rows", "shares", "pools")),
    "INSERT INTO pool_rows SELECT 'runs ', owner_in(owner, run_id), number, bytes FROM runs",
    f"INSERT INTO pool_rows SELECT {_KIND.format('', '')}, owner_in(owner, run_id), number, bytes FROM deliveries",
    "INSERT INTO shares SELECT pool, owner, count(*), sum(bytes), min(number) FROM pool_rows GROUP BY pool, owner",
    "INSERT INTO pools SELECT pool, sum(rows), sum(bytes) FROM shares GROUP BY pool",
    """
    INSERT INTO pools SELECT 'waiting ' || vendor, 0, sum(bytes) FROM sheets WHERE true GROUP BY vendor
        ON CONFLICT (pool) DO UPDATE SET bytes = bytes + excluded.bytes
    """,
)
_TOTALS = "SELECT rows, bytes FROM pools WHERE pool = ?"
_MOST_ROWS = "SELECT oldest FROM shares WHERE pool = ? ORDER BY rows DESC, oldest LIMIT 1"
_MOST_BYTES = "SELECT oldest FROM shares WHERE pool = ? ORDER BY bytes DESC, oldest LIMIT 1"


class Shares:
    """The shares of one record, through the one connection that writes it.

    Args:
        db: the record; its tables need not be there yet.
        owner_in: returns a row's pseudonym from its column ``owner`` and its id.
    """

    def __init__(self, db: sqlite3.Connection, owner_in: Callable[[bytes, bytes], bytes]) -> None:
        self._db = db
        db.create_function("owner_in", 2, owner_in, deterministic=True)
        db.execute("PRAGMA temp_store = MEMORY")  # a disk would show what the file hides
        db.executescript(_TABLES)

    def survey(self) -> None:
        """Count all rows again, in the open transaction. This is a scan, needed after another program has written."""
        for name in _TRIGGERS:
            self._db.execute(f"DROP TRIGGER IF EXISTS temp.{name}")
        for statement in _SURVEY:
            self._db.execute(statement)
        for name, does in _TRIGGERS.items():
            self._db.execute(f"CREATE TEMP TRIGGER {name} {does}")

    def pools(self) -> list[Pool]:
        """Return all pools that have rows."""
        keys = [key.partition(" ") for (key,) in self._db.execute("SELECT pool FROM pools ORDER BY pool").fetchall()]
        return [Pool(kind, vendor) for kind, _, vendor in keys]

    def total(self, pool: Pool) -> tuple[int, int]:
        """Return the number of rows and of bytes in a pool."""
        rows, total = self._db.execute(_TOTALS, (pool.key,)).fetchone() or (0, 0)
        return int(rows), int(total)

    def next_to_drop(self, pool: Pool, most_rows: int, most_bytes: int) -> int | None:
        """Return the number of the row to delete next, or None if the pool is within both limits."""
        rows, total = self.total(pool)
        if not rows or (rows <= most_rows and total <= most_bytes):
            return None
        question = _MOST_ROWS if rows > most_rows else _MOST_BYTES
        (number,) = self._db.execute(question, (pool.key,)).fetchone()
        return int(number)
