"""The tables of a run record, version 2, and the check that a file has them.

Does not know: rows, transactions, retention.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from llama.errors import RecordError

VERSION = 2  # of the tables; stored as the file's user_version

# Rows are ordered by `number`, which grows with every row written, also with one that replaces another. Times cannot
# order them: they have whole seconds, and clocks are set back. A row's size stands before its texts, so that SQLite
# reads it without them.
TABLES = {
    "runs": """
        CREATE TABLE runs (
            number INTEGER PRIMARY KEY,
            run_id BLOB NOT NULL,
            owner BLOB NOT NULL,              -- llama.cloud.owners
            bytes INTEGER NOT NULL,           -- of prompt_id, text and offers, in UTF-8
            prompt_id TEXT NOT NULL,
            opened_at TEXT NOT NULL,
            finished_at TEXT NOT NULL,
            prompt_tokens INTEGER NOT NULL,
            output_tokens INTEGER NOT NULL,
            compute_us INTEGER NOT NULL,
            text TEXT NOT NULL,
            offers TEXT NOT NULL,             -- JSON
            copy TEXT NOT NULL,
            UNIQUE (run_id, owner)
        )
    """,
    "sheets": """
        CREATE TABLE sheets (                 -- used by deliveries that are not acknowledged
            number INTEGER PRIMARY KEY,
            vendor TEXT NOT NULL,
            digest BLOB NOT NULL,             -- SHA-256 of the text
            bytes INTEGER NOT NULL,
            text TEXT NOT NULL,
            UNIQUE (vendor, digest)
        )
    """,
    "deliveries": """
        CREATE TABLE deliveries (
            number INTEGER PRIMARY KEY,
            run_id BLOB NOT NULL UNIQUE,
            vendor TEXT NOT NULL,
            owner BLOB NOT NULL,              -- llama.cloud.owners
            written_at INTEGER NOT NULL,      -- seconds since 1970
            handed_out INTEGER NOT NULL,      -- 1: the third party has fetched it
            acknowledged INTEGER NOT NULL,    -- 1: the columns below are erased
            bytes INTEGER NOT NULL,           -- of prompt_id, text and offers, in UTF-8
            sheet INTEGER,                    -- number in sheets
            prompt_id TEXT NOT NULL,
            finished_at TEXT NOT NULL,
            text TEXT NOT NULL,
            offers TEXT NOT NULL,             -- JSON
            withheld INTEGER NOT NULL
        )
    """,
    "clock": """
        CREATE TABLE clock (                  -- one row; llama.cloud.retention
            seen INTEGER NOT NULL,            -- the clock when it was last written here, seconds since 1970
            trusted INTEGER NOT NULL,         -- the time up to which rows have aged
            waited INTEGER                    -- seconds since the clock leapt ahead; NULL: it has not
        )
    """,
}
_INDICES = (
    "CREATE INDEX runs_by_age ON runs (finished_at)",
    "CREATE INDEX deliveries_by_vendor ON deliveries (vendor, acknowledged, number)",
    "CREATE INDEX deliveries_by_age ON deliveries (written_at)",
    "CREATE INDEX deliveries_by_sheet ON deliveries (sheet)",
)


def has_tables(db: sqlite3.Connection, path: Path) -> bool:
    """Return whether a file has a run record's tables; False if it is empty.

    Raises:
        RecordError: the file belongs to another program, or has another version.
        sqlite3.Error: the file cannot be read.
    """
    (version,) = db.execute("PRAGMA user_version").fetchone()
    found = {table: columns_of(db, table) for table in TABLES}
    if version == VERSION and found == COLUMNS:
        return True
    if version == 0 and db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
        return False
    if version == VERSION or not (found["runs"] and found["deliveries"]):
        raise RecordError(f"{path} is not a run record but another program's database; use another --record_file")
    raise RecordError(
        f"the run record {path} has version {version}, and this program reads version {VERSION}; "
        f"use another --record_file, or the program that wrote it"
    )


def create_tables(db: sqlite3.Connection) -> None:
    """Create the tables and indices in an empty file, in the open transaction."""
    for statement in (*TABLES.values(), *_INDICES):
        db.execute(statement)


def columns_of(db: sqlite3.Connection, table: str) -> list[str]:
    """Return the names of a table's columns in their order; none if there is no such table."""
    return [name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")]


def _columns_of_a_new_file() -> dict[str, list[str]]:
    with closing(sqlite3.connect(":memory:")) as db:
        create_tables(db)
        return {table: columns_of(db, table) for table in TABLES}


COLUMNS = _columns_of_a_new_file()
