"""The tables of a run record, version by version.

Knows: what a file of each version looks like, and how one becomes the next. Does not know: what is written into them.
"""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

from llama.errors import RecordError

VERSION = 5  # of the tables: the file's user_version

# What makes a version out of the one before; a new file goes through all of them.
#
# Rows are in the order of their place (before version 4, of runs, their rowid), which grows with every row that is
# written, also one that replaces another; times have whole seconds, and clocks are set back.
UPGRADES: dict[int, tuple[str, ...]] = {
    1: (
        """
        CREATE TABLE runs (
            run_id BLOB PRIMARY KEY NOT NULL,
            prompt_id TEXT NOT NULL,
            opened_at TEXT NOT NULL,
            finished_at TEXT NOT NULL,
            prompt_tokens INTEGER NOT NULL,
            output_tokens INTEGER NOT NULL,
            compute_us INTEGER NOT NULL,
            text TEXT NOT NULL
        )
        """,
    ),
    2: (
        "ALTER TABLE runs ADD COLUMN offers TEXT NOT NULL DEFAULT '[]'",  # JSON
        "ALTER TABLE runs ADD COLUMN copy TEXT NOT NULL DEFAULT 'none'",
        "CREATE INDEX runs_by_age ON runs (finished_at)",
        """
        CREATE TABLE deliveries (
            place INTEGER PRIMARY KEY,
            run_id BLOB NOT NULL UNIQUE,
            vendor TEXT NOT NULL,
            written_at INTEGER NOT NULL,      -- seconds since 1970
            acknowledged INTEGER NOT NULL,    -- 1: what follows is erased
            prompt_id TEXT NOT NULL,
            finished_at TEXT NOT NULL,
            prompt TEXT NOT NULL,
            text TEXT NOT NULL,
            offers TEXT NOT NULL,             -- JSON
            withheld INTEGER NOT NULL
        )
        """,
        "CREATE INDEX deliveries_by_vendor ON deliveries (vendor, acknowledged, place)",
        "CREATE INDEX deliveries_by_age ON deliveries (written_at)",
        # Version 1 kept no such table: in a file that it made the first row is 2.
        "CREATE TABLE versions (version INTEGER PRIMARY KEY, applied_at TEXT NOT NULL)",
    ),
    3: (
        "ALTER TABLE runs RENAME TO runs_before",
        """
        CREATE TABLE runs (
            run_id BLOB NOT NULL,
            prompt_id TEXT NOT NULL,
            opened_at TEXT NOT NULL,
            finished_at TEXT NOT NULL,
            prompt_tokens INTEGER NOT NULL,
            output_tokens INTEGER NOT NULL,
            compute_us INTEGER NOT NULL,
            text TEXT NOT NULL,
            offers TEXT NOT NULL,             -- JSON
            copy TEXT NOT NULL,
            owner BLOB NOT NULL,
            PRIMARY KEY (run_id, owner)
        )
        """,
        "INSERT INTO runs SELECT *, x'' FROM runs_before ORDER BY rowid",  # nobody's: it was not written down
        "DROP TABLE runs_before",  # with its index
        "CREATE INDEX runs_by_age ON runs (finished_at)",
        "ALTER TABLE deliveries ADD COLUMN owner BLOB NOT NULL DEFAULT x''",
    ),
    # A row's size stands before its texts, so that it is read without them.
    4: (
        "ALTER TABLE runs RENAME TO runs_before",
        """
        CREATE TABLE runs (
            place INTEGER PRIMARY KEY,
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
        """
        INSERT INTO runs
        SELECT rowid, run_id, owner,
            length(CAST(prompt_id AS BLOB)) + length(CAST(text AS BLOB)) + length(CAST(offers AS BLOB)),
            prompt_id, opened_at, finished_at, prompt_tokens, output_tokens, compute_us, text, offers, copy
        FROM runs_before ORDER BY rowid
        """,
        "DROP TABLE runs_before",  # with its index
        "CREATE INDEX runs_by_age ON runs (finished_at)",
        """
        CREATE TABLE sheets (                 -- that deliveries which are not acknowledged were asked with
            number INTEGER PRIMARY KEY,
            vendor TEXT NOT NULL,
            digest BLOB NOT NULL,             -- SHA-256 of the text
            bytes INTEGER NOT NULL,
            text TEXT NOT NULL,
            UNIQUE (vendor, digest)
        )
        """,
        """
        INSERT OR IGNORE INTO sheets (vendor, digest, bytes, text)
        SELECT vendor, digest_of(prompt), length(CAST(prompt AS BLOB)), prompt
        FROM deliveries WHERE acknowledged = 0 ORDER BY place
        """,
        "ALTER TABLE deliveries RENAME TO deliveries_before",
        """
        CREATE TABLE deliveries (
            place INTEGER PRIMARY KEY,
            run_id BLOB NOT NULL UNIQUE,
            vendor TEXT NOT NULL,
            owner BLOB NOT NULL,              -- llama.cloud.owners
            written_at INTEGER NOT NULL,      -- seconds since 1970
            acknowledged INTEGER NOT NULL,    -- 1: what follows is erased
            bytes INTEGER NOT NULL,           -- of prompt_id, text and offers, in UTF-8
            sheet INTEGER,                    -- its number
            prompt_id TEXT NOT NULL,
            finished_at TEXT NOT NULL,
            text TEXT NOT NULL,
            offers TEXT NOT NULL,             -- JSON
            withheld INTEGER NOT NULL
        )
        """,
        """
        INSERT INTO deliveries
        SELECT place, run_id, vendor, owner, written_at, acknowledged,
            length(CAST(prompt_id AS BLOB)) + length(CAST(text AS BLOB)) + length(CAST(offers AS BLOB)),
            (SELECT number FROM sheets
             WHERE acknowledged = 0 AND sheets.vendor = old.vendor AND digest = digest_of(old.prompt)),
            prompt_id, finished_at, text, offers, withheld
        FROM deliveries_before AS old ORDER BY place
        """,
        "DROP TABLE deliveries_before",  # with its indices
        "CREATE INDEX deliveries_by_vendor ON deliveries (vendor, acknowledged, place)",
        "CREATE INDEX deliveries_by_age ON deliveries (written_at)",
        "CREATE INDEX deliveries_by_sheet ON deliveries (sheet)",
    ),
    5: (
        """
        CREATE TABLE clock (                  -- one row; llama.cloud.retention
            seen INTEGER NOT NULL,            -- the clock when it was last written here, seconds since 1970
            trusted INTEGER NOT NULL,         -- until when rows have aged
            waited INTEGER                    -- seconds since the clock has leapt; NULL: it has not
        )
        """,
        """
        INSERT INTO clock SELECT seen, seen, NULL FROM (
            SELECT max(at) AS seen FROM (
                SELECT max(written_at) AS at FROM deliveries
                UNION ALL SELECT CAST(strftime('%s', max(finished_at)) AS INTEGER) FROM runs
            )
        ) WHERE seen IS NOT NULL
        """,
    ),
}

RUN = [
    "run_id",
    "prompt_id",
    "opened_at",
    "finished_at",
    "prompt_tokens",
    "output_tokens",
    "compute_us",
    "text",
    "offers",
    "copy",
]
_VERSIONS = ["version", "applied_at"]
_DELIVERIES = [
    "place",
    "run_id",
    "vendor",
    "written_at",
    "acknowledged",
    "prompt_id",
    "finished_at",
    "prompt",
    "text",
    "offers",
    "withheld",
]
COLUMNS: dict[int, dict[str, list[str]]] = {
    1: {"runs": RUN[:8]},
    2: {"runs": RUN, "deliveries": _DELIVERIES, "versions": _VERSIONS},
    3: {"runs": [*RUN, "owner"], "deliveries": [*_DELIVERIES, "owner"], "versions": _VERSIONS},
    4: {
        "runs": ["place", "run_id", "owner", "bytes", *RUN[1:]],
        "deliveries": [
            "place",
            "run_id",
            "vendor",
            "owner",
            "written_at",
            "acknowledged",
            "bytes",
            "sheet",
            "prompt_id",
            "finished_at",
            "text",
            "offers",
            "withheld",
        ],
        "sheets": ["number", "vendor", "digest", "bytes", "text"],
        "versions": _VERSIONS,
    },
}
COLUMNS[5] = COLUMNS[4] | {"clock": ["seen", "trusted", "waited"]}


def version_of(db: sqlite3.Connection, path: Path) -> int:
    """Of which version a file is; 0 for one with nothing in it yet.

    Raises:
        RecordError: it is no run record, or of a version that this release does not know.
        sqlite3.Error: it cannot be read.
    """
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version in COLUMNS and all(_columns(db, t) == columns for t, columns in COLUMNS[version].items()):
        return int(version)
    if version == 0 and db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
        return 0
    what = "a database of another program"
    if _columns(db, "runs") and version not in COLUMNS:
        what = f"of version {version}, and this release keeps version {VERSION}"
    raise RecordError(f"the run record {path} is {what}; give --record_file a file of its own")


def upgrade(db: sqlite3.Connection, version: int, now: str) -> None:
    """Make a file of that version one of :data:`VERSION`, in the transaction that is open.

    Args:
        db: the file.
        version: as of :func:`version_of`.
        now: UTC, ISO 8601; written down.
    """
    db.create_function("digest_of", 1, digest_of, deterministic=True)
    for later in range(version + 1, VERSION + 1):
        for statement in UPGRADES[later]:
            db.execute(statement)
        if later > 1:
            db.execute("INSERT INTO versions VALUES (?, ?)", (later, now))
    # Written also where it says so already: where nothing can be written, everything before this may pass.
    db.execute(f"PRAGMA user_version = {VERSION}")


def digest_of(text: str) -> bytes:
    """By what a sheet's text is known: SHA-256 of its UTF-8."""
    return hashlib.sha256(text.encode()).digest()


def _columns(db: sqlite3.Connection, table: str) -> list[str]:
    return [name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")]
