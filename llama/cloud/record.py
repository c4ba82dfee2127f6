"""What the provider keeps: finished runs, and third parties' deliveries until they are acknowledged. One SQLite file.

Any SQLite tool reads it while it is written. A run and its delivery are written in one transaction, and each call
returns when the disk has what it wrote: neither a kill nor a power cut loses any of it.

Knows: the tables, their version, how long and how many rows are kept. Texts are kept as the cloud has them: a value
that the device sent as a tag, such as ``[NAME_1]``, is that tag here too.
Whose key a run came with is kept as a hash (:func:`mark_of`), so that nobody's run takes the place of another's.
Does not know: sockets, sessions, tensors, who the person is, which third party a run belongs to.

**Retention.** Seconds and days are the wall clock's; what is forgotten is so at the next call of any kind but ``runs``.

===================  ===========================================================================================
runs                 the newest :data:`MAX_RUNS`, and none that finished longer than ``retention_days`` ago
deliveries           for each third party the newest :data:`MAX_DELIVERIES`, and none that was written longer than
                     ``retention_days`` ago, collected or not; :attr:`RunRecord.dropped` counts those that were not
acknowledged ones    only their ids, by which a replayed run is known; for each third party the newest
                     :data:`MAX_TOMBSTONES`, and none whose delivery was written longer than ``retention_days`` ago
===================  ===========================================================================================

What is deleted is overwritten in the file (not in a disk's spare blocks, nor in anybody's copy of it).
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from llama import wire
from llama.errors import RecordError

VERSION = 3  # of the tables: the file's user_version
RETENTION_DAYS = 30.0
MAX_RUNS = 100_000
MAX_DELIVERIES = 10_000  # not acknowledged, of one third party: one that stays away pushes out none but its own
MAX_TOMBSTONES = 100_000  # acknowledged, of one third party
OPEN_PATIENCE_S = 2.0  # how long another program may hold the file when it is opened,
BUSY_MS = 50  # and when a run is written: meanwhile the clerk serves nobody
_DAY_S = 24 * 60 * 60

# What makes a version out of the one before; a new file goes through all of them.
#
# Rows of both tables are in the order of their rowid, which grows with every row that is written, also one that
# replaces another; times have whole seconds, and clocks are set back.
_UPGRADES: dict[int, tuple[str, ...]] = {
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
}


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
        offers: made with the reply.
        copy: what became of the third party's copy; a value of ``wire.Copy``.
        owner: :func:`mark_of` the key that it came with.
    """

    run_id: bytes
    prompt_id: str
    opened_at: str
    finished_at: str
    prompt_tokens: int
    output_tokens: int
    compute_us: int
    text: str = field(repr=False)
    offers: tuple[wire.Offer, ...] = field(default=(), repr=False)
    copy: str = "none"
    owner: bytes = field(default=b"", repr=False)


_RUN = [f.name for f in fields(Run)]
_DELIVERY = list(wire.Delivery.__struct_fields__)
_TABLES: dict[int, dict[str, list[str]]] = {
    1: {"runs": _RUN[:8]},
    2: {
        "runs": _RUN[:10],
        "deliveries": ["place", "run_id", "vendor", "written_at", "acknowledged", *_DELIVERY[1:]],
        "versions": ["version", "applied_at"],
    },
    3: {
        "runs": _RUN,
        "deliveries": ["place", "run_id", "vendor", "written_at", "acknowledged", *_DELIVERY[1:], "owner"],
        "versions": ["version", "applied_at"],
    },
}


def _insert(table: str, columns: Sequence[str]) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


_IS_THE_RUN = "run_id = ? AND owner = ?"
_WRITE_RUN = _insert("runs", _RUN)
_NEWEST_RUNS = f"SELECT {', '.join(_RUN)} FROM runs ORDER BY rowid DESC LIMIT ?"
_WRITE_DELIVERY = (
    _insert("deliveries", ["vendor", "written_at", "acknowledged", "owner", *_DELIVERY])
    + " ON CONFLICT (run_id) DO NOTHING"
)
_IS_WITHHELD = "SELECT withheld FROM deliveries WHERE run_id = ?"
_OWNER_OF_DELIVERY = "SELECT owner FROM deliveries WHERE run_id = ?"
_WAITING = f"""
    SELECT {", ".join(_DELIVERY)} FROM deliveries
    WHERE vendor = ? AND acknowledged = 0 ORDER BY place LIMIT ?
"""
_ERASE = """
    UPDATE deliveries
    SET acknowledged = 1, prompt_id = '', finished_at = '', prompt = '', text = '', offers = '', withheld = 0
    WHERE run_id = ? AND vendor = ? AND acknowledged = 0
"""
_OLD_RUNS = "DELETE FROM runs WHERE finished_at < ?"
_OLD_DELIVERIES = "DELETE FROM deliveries WHERE written_at < ? RETURNING vendor, acknowledged"
_FIRST_RUNS = "DELETE FROM runs WHERE rowid IN (SELECT rowid FROM runs ORDER BY rowid LIMIT ?)"
_FIRST_DELIVERIES = """
    DELETE FROM deliveries WHERE place IN (
        SELECT place FROM deliveries WHERE vendor = ? AND acknowledged = ? ORDER BY place LIMIT ?
    )
"""
_HOW_MANY_DELIVERIES = "SELECT vendor, acknowledged, count(*) FROM deliveries GROUP BY vendor, acknowledged"


class RunRecord:
    """The file of finished runs, and of deliveries that wait for the third parties that they belong to.

    Any thread may use it, one at a time. Other programs may read the file meanwhile.

    Args:
        path: made if it is not there, readable and writable for this user only; a file that is there keeps its mode. A
            file of an earlier version becomes one of this version, with all its rows.
        retention_days: how long rows are kept, see above.
        clock: seconds since 1970.

    Attributes:
        dropped: deliveries that retention has deleted before they were acknowledged, since the file was opened.

    Raises:
        RecordError: not a file, not a run record of this version or an earlier one, or it cannot be written.
    """

    def __init__(
        self, path: str | Path, *, retention_days: float = RETENTION_DAYS, clock: Callable[[], float] = time.time
    ) -> None:
        self.dropped = 0
        self._retention_s, self._clock = retention_days * _DAY_S, clock
        # How many rows there are, kept up to date; see _count.
        self._runs, self._deliveries = 0, Counter[tuple[str, int]]()  # the latter by third party and acknowledged
        self._counted_at: int | None = None
        self._unfolded = False  # erased words may still stand in the companion file
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
        self._path = path
        self._opened = self._identity()
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
        self._version(path)  # first: nothing is changed in a file that is not ours
        if self._db.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):  # readers never make a writer wait
            raise sqlite3.OperationalError("its file system has no shared memory")
        self._db.execute("PRAGMA synchronous = FULL")  # a commit returns when the disk has it
        self._db.execute("PRAGMA fullfsync = ON")  # on macOS, where it would otherwise return before
        self._db.execute("PRAGMA secure_delete = ON")
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            for version in range(self._version(path) + 1, VERSION + 1):
                for statement in _UPGRADES[version]:
                    self._db.execute(statement)
                if version > 1:
                    self._db.execute("INSERT INTO versions VALUES (?, ?)", (version, utc(self._clock())))
            # Written also where it says so already: where nothing can be written, everything before this may pass.
            self._db.execute(f"PRAGMA user_version = {VERSION}")
            self._count()
            self._forget()
        _sync_directory(path.parent)
        self._fold()
        self._db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")

    def _version(self, path: Path) -> int:
        """Of which version the file is; 0 for a file with nothing in it yet."""
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version in _TABLES and all(self._columns(t) == columns for t, columns in _TABLES[version].items()):
            return int(version)
        if version == 0 and self._db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
            return 0
        what = "a database of another program"
        if self._columns("runs") and version not in _TABLES:
            what = f"of version {version}, and this release keeps version {VERSION}"
        raise RecordError(f"the run record {path} is {what}; give --record_file a file of its own")

    def _identity(self) -> tuple[int, int] | None:
        """Which file has the record's name, or None."""
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_dev, stat.st_ino

    def _columns(self, table: str) -> list[str]:
        return [name for _, name, *_ in self._db.execute(f"PRAGMA table_info({table})")]

    # ---- runs

    def finished(self, run: Run, vendor: str = "", delivery: wire.Delivery | None = None) -> wire.Copy:
        """Write a run, and the third party's copy of it if there is one: both or neither.

        An owner's run of the same sheet with the same ``run_id`` is replaced, and becomes the newest. Its delivery is
        left as it is, also if it was acknowledged: a run that is replayed is delivered once. Where another owner's
        delivery has that ``run_id`` already, this one goes under an id of its own. Waits at most :data:`BUSY_MS`
        milliseconds for other writers.

        Args:
            run: which.
            vendor: the third party, where there is a delivery.
            delivery: its copy.

        Returns:
            What the third party has, or will have, of the run.

        Raises:
            RecordError: it could not be written, and the file is as it was; the message holds nothing of the run.
        """
        assert delivery is None or vendor, "a delivery without a third party"
        with self._write("a finished run could not be recorded"):
            key = run.run_id, run.owner
            there = self._db.execute(f"SELECT prompt_id FROM runs WHERE {_IS_THE_RUN}", key).fetchone()
            if there not in (None, (run.prompt_id,)):  # third parties know run ids: none may take another's place
                raise RecordError("a finished run could not be recorded: one of another sheet has the same id")
            self._runs -= self._db.execute(f"DELETE FROM runs WHERE {_IS_THE_RUN}", key).rowcount
            self._db.execute(_WRITE_RUN, [_stored(getattr(run, name)) for name in _RUN])
            self._runs += 1
            if delivery is not None:
                delivery = msgspec.structs.replace(delivery, run_id=self._delivery_id(delivery.run_id, run.owner))
                # One that no message may hold would be in the way of all that come after it.
                msgspec.msgpack.decode(msgspec.msgpack.encode(delivery), type=wire.Delivery)
                values = [_stored(getattr(delivery, name)) for name in _DELIVERY]
                written = self._db.execute(_WRITE_DELIVERY, [vendor, int(self._clock()), 0, run.owner, *values])
                self._deliveries[vendor, 0] += written.rowcount
                (withheld,) = self._db.execute(_IS_WITHHELD, (delivery.run_id,)).fetchone()
            self._forget()
        if delivery is None:
            return wire.Copy.NONE
        return wire.Copy.WITHHELD if withheld else wire.Copy.QUEUED

    def runs(self, limit: int) -> list[Run]:
        """The newest ``limit`` runs, or all if there are fewer, newest first.

        Raises:
            RecordError: the file cannot be read.
        """
        try:
            rows = self._db.execute(_NEWEST_RUNS, (max(0, limit),)).fetchall()
            return [Run(**_loaded(_RUN, row)) for row in rows]
        except (sqlite3.Error, ValueError) as err:
            raise RecordError(f"the run record cannot be read: {_reason(err)}; restore it from a copy") from None

    # ---- deliveries

    def collect(self, vendor: str, limit: int, max_bytes: int = 1 << 20) -> tuple[wire.Delivery, ...]:
        """A third party's deliveries that it has not acknowledged, oldest first.

        Args:
            vendor: whose.
            limit: most of them.
            max_bytes: most that they may measure as MessagePack; the first is handed out however large it is.

        Raises:
            RecordError: the file cannot be read or tidied up.
        """
        deliveries = list[wire.Delivery]()
        with self._write("deliveries could not be read"):
            self._forget()
            for row in self._db.execute(_WAITING, (vendor, max(0, limit))):
                delivery = wire.Delivery(**_loaded(_DELIVERY, row))
                max_bytes -= len(msgspec.msgpack.encode(delivery))
                if deliveries and max_bytes < 0:
                    break
                deliveries.append(delivery)
        self._fold()
        return tuple(deliveries)

    def acknowledge(self, vendor: str, run_ids: Sequence[bytes]) -> None:
        """Erase deliveries that have arrived; only their ids are kept. Ids that are not this third party's do nothing.

        Raises:
            RecordError: it could not be written, and the file is as it was.
        """
        with self._write("an acknowledgement could not be written"):
            for run_id in run_ids:
                if self._db.execute(_ERASE, (run_id, vendor)).rowcount:
                    self._deliveries[vendor, 0] -= 1
                    self._deliveries[vendor, 1] += 1
                    self._unfolded = True
            self._forget()
        self._fold()

    def close(self) -> None:
        """Give the file back; whoever closes it last folds SQLite's companion files into it, if the disk has room."""
        self._db.close()

    # ---- inside

    @contextmanager
    def _write(self, failed: str) -> Iterator[None]:
        """One transaction, on rows that are counted. An error undoes all of it, and becomes a RecordError."""
        dropped = self.dropped
        try:
            if self._identity() != self._opened:  # what is written to a file without a name is gone at the end
                raise RecordError(f"{failed}: its file was removed or replaced; start the cloud again")
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._count()
                yield
        except BaseException as err:
            self.dropped, self._counted_at = dropped, None
            if isinstance(err, sqlite3.Error | ValueError | OverflowError):
                raise RecordError(f"{failed}: {_reason(err)}") from None
            raise

    def _delivery_id(self, run_id: bytes, owner: bytes) -> bytes:
        """Under which id a third party gets the run: its own, or what follows from it where that is another owner's.

        Two owners' deliveries never share one, however many of them somebody has taken who knows the run's id and its
        owner's key: what is a repeat, or acknowledged, of one would be so of the other.
        """
        while self._db.execute(_OWNER_OF_DELIVERY, (run_id,)).fetchone() not in (None, (owner,)):
            run_id = hashlib.blake2b(owner + run_id, digest_size=wire.RUN_ID_BYTES).digest()
        return run_id

    def _count(self) -> None:
        """How many rows there are; counted, which is a scan, only after an error or another program's writing."""
        (now,) = self._db.execute("PRAGMA data_version").fetchone()
        if now != self._counted_at:
            (self._runs,) = self._db.execute("SELECT count(*) FROM runs").fetchone()
            self._deliveries = Counter({(v, a): n for v, a, n in self._db.execute(_HOW_MANY_DELIVERIES)})
            self._counted_at = now

    def _forget(self) -> None:
        """Delete what retention no longer allows, in the transaction that is open; without it the cost is two look-ups
        in indices.
        """
        oldest = int(max(0.0, self._clock() - self._retention_s))
        gone = self._db.execute(_OLD_RUNS, (utc(oldest),)).rowcount
        self._runs -= gone
        for vendor, acknowledged in self._db.execute(_OLD_DELIVERIES, (oldest,)).fetchall():
            self._deliveries[vendor, acknowledged] -= 1
            self.dropped += not acknowledged
            gone += 1
        if self._runs > MAX_RUNS:
            gone += self._db.execute(_FIRST_RUNS, (self._runs - MAX_RUNS,)).rowcount
            self._runs = MAX_RUNS
        for (vendor, acknowledged), number in self._deliveries.items():
            most = MAX_TOMBSTONES if acknowledged else MAX_DELIVERIES
            if number > most:
                gone += self._db.execute(_FIRST_DELIVERIES, (vendor, acknowledged, number - most)).rowcount
                self._deliveries[vendor, acknowledged] = most
                self.dropped += 0 if acknowledged else number - most
        self._unfolded |= gone > 0

    def _fold(self) -> None:
        """Empty the companion file, where what was erased from the file itself may still stand.

        Tried again at the next opportunity where a reader, or a full disk, is in the way. Not after a run is written,
        which would wait for the disk three times; then SQLite itself does it within some 1000 pages.
        """
        if self._unfolded:
            with suppress(sqlite3.Error):
                (busy, *_) = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                self._unfolded = bool(busy)


def _stored(value: Any) -> Any:
    """A field as SQLite keeps it."""
    return msgspec.json.encode(value).decode() if isinstance(value, tuple) else value


def _loaded(columns: Sequence[str], row: Sequence[Any]) -> dict[str, Any]:
    """A row's fields, with the types that they had."""
    values = dict(zip(columns, row, strict=True))
    values["offers"] = msgspec.json.decode(values["offers"], type=tuple[wire.Offer, ...])
    if "withheld" in values:
        values["withheld"] = bool(values["withheld"])
    return values


def _reason(err: Exception) -> str:
    """What may be said of an error: SQLite's own words hold no values; those of Python's conversions do."""
    return str(err).partition(" with text")[0] if isinstance(err, sqlite3.Error) else type(err).__name__


def _sync_directory(directory: Path) -> None:
    """Make the name of a new file outlast a power cut; SQLite does so for its companion files only."""
    with suppress(OSError):  # file systems that cannot
        fd = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def mark_of(owner: str, run_id: bytes) -> bytes:
    """What the file says of the public key that a run came with: 16 bytes, or none without keys.

    What anybody holds of a run is the policy's table, and no key is in it. The mark of the same key is another one for
    each run, so that the file by itself neither names a device nor says which runs are of the same one. (Whoever has
    the public keys, too, can try them all.)
    """
    return hashlib.blake2b(owner.encode(), digest_size=16, salt=run_id).digest() if owner else b""


def utc(seconds: float) -> str:
    """Seconds since 1970 as UTC, ISO 8601, to the second: ``2026-11-25T09:30:00Z``."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
