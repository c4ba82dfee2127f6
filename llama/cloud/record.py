"""What the provider keeps of a finished run: a row of an SQLite file, which any SQLite tool reads while it is written.

Knows: the table, its version, how many rows are kept. The reply is kept as the cloud has it: a value that the device
sent as a tag, such as ``[NAME_1]``, is that tag here too.
Does not know: sockets, sessions, tensors, prompts, who the person is.
"""

from __future__ import annotations

import os
import sqlite3
from dataclasses import astuple, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path

from llama.errors import RecordError

VERSION = 1  # of the table: the file's user_version
MAX_RUNS = 100_000
OPEN_PATIENCE_S = 2.0  # how long another program may hold the file when it is opened,
BUSY_MS = 50  # and when a run is written: meanwhile the cloud answers nobody

# Rows are in the order of their rowid, which grows with every run that is written, also one that replaces another;
# times have whole seconds, and clocks are set back.
_TABLE = """
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
"""


@dataclass(frozen=True)
class Run:
    """A finished run; the columns of the table, in their order.

    Args:
        run_id: 16 bytes, from the device.
        prompt_id: which prompt sheet; empty for none.
        opened_at: when its last session was opened; UTC, ISO 8601, whole seconds.
        finished_at: when its reply was asked for; likewise.
        prompt_tokens: tokens of the prompt.
        output_tokens: tokens of the reply, without the stop token.
        compute_us: microseconds its last session waited for the model.
        text: the reply, with the device's tags.
    """

    run_id: bytes
    prompt_id: str
    opened_at: str
    finished_at: str
    prompt_tokens: int
    output_tokens: int
    compute_us: int
    text: str = field(repr=False)


_COLUMNS = [f.name for f in fields(Run)]
_INSERT = f"INSERT OR REPLACE INTO runs ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
_NEWEST = f"SELECT {', '.join(_COLUMNS)} FROM runs ORDER BY rowid DESC LIMIT ?"
_SPAN = "SELECT (SELECT max(rowid) FROM runs) - (SELECT min(rowid) FROM runs) + 1"
_DELETE_OLDEST = "DELETE FROM runs WHERE rowid IN (SELECT rowid FROM runs ORDER BY rowid LIMIT ?)"


class RunRecord:
    """The file of finished runs; one row per run, the newest :data:`MAX_RUNS` of them.

    Any thread may use it, one at a time. Other programs may read the file meanwhile.

    Args:
        path: made if it is not there, readable and writable for this user only; a file that is there keeps its mode.

    Raises:
        RecordError: not a file, not a run record of this version, or it cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path).absolute()  # to SQLite, ":memory:" would not be a file's name
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            pass
        except OSError as err:
            raise RecordError(f"the run record {path} cannot be made: {err.strerror}; give --record_file a path where "
                              f"this user may write") from None  # fmt: skip
        if not path.is_file():
            raise RecordError(f"the run record {path} is not a file; give --record_file the path of one")
        # SQLite would open it for reading, and leave companion files that may only be read either. (Asked without
        # opening it: to close a file gives up the locks of every connection to it in this process.)
        if not os.access(path, os.R_OK | os.W_OK):
            raise RecordError(f"the run record {path} cannot be written by this user; change its mode or owner, or "
                              f"give --record_file another file")  # fmt: skip
        try:
            self._db = sqlite3.connect(path, OPEN_PATIENCE_S, isolation_level=None, check_same_thread=False)
            try:
                self._prepare(path)
            except BaseException:
                self._db.close()
                raise
        except sqlite3.Error as err:
            raise RecordError(f"the run record {path} cannot be used: {err}; give --record_file another file, on a "
                              f"local disk, where this user may write") from None  # fmt: skip

    def _prepare(self, path: Path) -> None:
        self._check_kind(path)  # first: nothing is changed in a file that is not ours
        if self._db.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):  # readers never make a writer wait
            raise sqlite3.OperationalError("its file system has no shared memory")
        self._db.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost the last runs, never the file
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            if not self._check_kind(path):
                self._db.execute(_TABLE)
            # Written also where it says so already: where nothing can be written, everything before this may pass.
            self._db.execute(f"PRAGMA user_version = {VERSION}")
        self._db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")

    def _check_kind(self, path: Path) -> bool:
        """True for a run record, False for a file with nothing in it yet."""
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        columns = [name for _, name, *_ in self._db.execute("PRAGMA table_info(runs)")]
        if version == VERSION and columns == _COLUMNS:
            return True
        if version == 0 and self._db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
            return False
        what = "a database of another program"
        if columns and version != VERSION:
            what = f"of version {version}, and this release keeps version {VERSION}"
        raise RecordError(f"the run record {path} is {what}; give --record_file a file of its own")

    def finished(self, run: Run) -> None:
        """Write a run; one with the same ``run_id`` is replaced, and becomes the newest.

        With more than :data:`MAX_RUNS` rows the oldest are deleted, at the cost of counting them (a walk over the index
        of run ids, some 0.6 ms). Waits at most :data:`BUSY_MS` milliseconds for other writers.

        Raises:
            RecordError: it could not be written, and the file is as it was; the message holds nothing of the run.
        """
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.execute(_INSERT, astuple(run))
                (span,) = self._db.execute(_SPAN).fetchone()
                if span > MAX_RUNS:  # only then can there be too many, and only then are they counted
                    (count,) = self._db.execute("SELECT count(*) FROM runs").fetchone()
                    self._db.execute(_DELETE_OLDEST, (max(0, count - MAX_RUNS),))
        except (sqlite3.Error, ValueError, OverflowError) as err:
            # SQLite's own words hold no values; those of Python's conversions might.
            reason = str(err) if isinstance(err, sqlite3.Error) else type(err).__name__
            raise RecordError(f"a finished run could not be recorded: {reason}") from None

    def runs(self, limit: int) -> list[Run]:
        """The newest ``limit`` runs, or all if there are fewer, newest first.

        Raises:
            RecordError: the file cannot be read.
        """
        try:
            return [Run(*row) for row in self._db.execute(_NEWEST, (max(0, limit),))]
        except sqlite3.Error as err:
            raise RecordError(f"the run record cannot be read: {err}; restore it from a copy") from None

    def close(self) -> None:
        """Give the file back; whoever closes it last folds SQLite's companion files into it, if the disk has room."""
        self._db.close()


def utc(seconds: float) -> str:
    """Seconds since 1970 as UTC, ISO 8601, to the second: ``2026-11-25T09:30:00Z``."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
