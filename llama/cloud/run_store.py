"""The provider's run record: finished runs, and third parties' deliveries until acknowledged, in one SQLite file.

Any SQLite tool can read it while the cloud writes. A run and its delivery are written in one transaction. Each call
returns when the data is on the disk, so neither a kill nor a power cut loses it.

Knows: the retention period, the limits, and whose row is deleted first (``shares``). Texts are kept as the cloud has
them: a value that the device sent as a tag, such as ``[NAME_1]``, stays that tag. The key that a run came with is
stored encrypted (``owners``), so that a run never replaces another key's.
Does not know: sockets, sessions, tensors, who the person is, which third party a run belongs to, how deliveries are
written (``outbox``).

**Retention.** Times are the wall clock's. Every call except ``runs`` deletes the rows that are due. Each line of the
table is a pool with its own limits. Rows over a limit are deleted from the owner with the largest share of the pool,
oldest first. No row is kept longer than ``retention_days``; after a leap of the clock, one day longer (``retention``).

===================  ===========================================================================================
runs                 :data:`MAX_RUNS`, and :data:`MAX_RUN_BYTES` of text; :attr:`RunStore.dropped_runs` counts those
                     deleted before their days were over
deliveries           for each third party :data:`MAX_DELIVERIES`, and :data:`MAX_DELIVERY_BYTES` of text including the
                     sheets, each stored once; :attr:`RunStore.dropped` counts those deleted uncollected
acknowledged ones    only their ids, to recognise a replayed run; for each third party :data:`MAX_TOMBSTONES`
===================  ===========================================================================================

Deleted data is overwritten in the file, but not in a disk's spare blocks or in copies of the file.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path

from llama import wire
from llama.cloud.outbox import Outbox
from llama.cloud.owners import Owners
from llama.cloud.retention import Retention
from llama.cloud.rows import bytes_of, insert, loaded, stored
from llama.cloud.schema import VERSION, create_tables, has_tables
from llama.cloud.shares import RUNS, Pool, Shares
from llama.disk import create_empty, fsync_directory
from llama.errors import RecordError
from llama.text.dates import utc

RETENTION_DAYS = 30.0
MAX_RUNS = 100_000
MAX_RUN_BYTES = 1 << 30
MAX_DELIVERIES = 10_000  # unacknowledged, per third party: one that never collects displaces only its own
MAX_DELIVERY_BYTES = 256 << 20  # likewise
MAX_TOMBSTONES = 100_000  # acknowledged, per third party
OPEN_TIMEOUT_S = 2.0  # longest wait for another program's lock at opening,
BUSY_MS = 50  # and in every later call: meanwhile no other run can finish
_DAY_S = 24 * 60 * 60


@dataclass(frozen=True)
class Limits:
    """Limits of the record; see the table above. Bytes are those of texts in UTF-8."""

    runs: int = MAX_RUNS
    run_bytes: int = MAX_RUN_BYTES
    deliveries: int = MAX_DELIVERIES
    delivery_bytes: int = MAX_DELIVERY_BYTES
    tombstones: int = MAX_TOMBSTONES

    def of(self, pool: Pool) -> tuple[int, int]:
        """Return the maximum number of rows and of bytes in a pool."""
        if pool.kind == "runs":
            return self.runs, self.run_bytes
        # Acknowledged deliveries have no texts.
        return (self.deliveries, self.delivery_bytes) if pool.kind == "waiting" else (self.tombstones, sys.maxsize)


@dataclass(frozen=True)
class Run:
    """A finished run: a row of the table ``runs``.

    Args:
        run_id: 16 bytes, from the device.
        prompt_id: id of the prompt sheet; empty for none.
        opened_at: time when its last session was opened; UTC, ISO 8601, whole seconds.
        finished_at: time when its reply was requested; likewise.
        prompt_tokens: tokens of the prompt.
        output_tokens: tokens of the reply, without the stop token.
        compute_us: microseconds its last session waited for the model.
        text: the reply, with the device's tags.
        offers: made with the reply.
        copy: status of the third party's copy; a value of ``wire.DeliveryStatus``.
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


RUN = [each.name for each in fields(Run)]
_IS_THE_RUN = "run_id = ? AND owner = ?"
_WRITE_RUN = insert("runs", ["owner", "bytes", *RUN])
_NEWEST_RUNS = f"SELECT {', '.join(RUN)} FROM runs ORDER BY number DESC LIMIT ?"
_OLD_RUNS = "DELETE FROM runs WHERE finished_at < ?"
_OLD_DELIVERIES = "DELETE FROM deliveries WHERE written_at < ? RETURNING acknowledged"
_GOES = {
    "runs": "DELETE FROM runs WHERE number = ?",
    "waiting": "DELETE FROM deliveries WHERE number = ?",
    "acknowledged": "DELETE FROM deliveries WHERE number = ?",
}


class RunStore:
    """The file of finished runs, and of deliveries that wait for their third parties.

    Any thread may use it, one at a time. Other programs may read the file meanwhile.

    Args:
        path: created if it is not there, readable and writable for this user only. An existing file keeps its mode.
        retention_days: days that rows are kept, see above.
        clock: seconds since 1970.
        limits: limits of the record, see above.
        secret: encrypts the rows' owners. All rows written with another secret count as one unknown owner's.

    Attributes:
        dropped: deliveries that retention has deleted unacknowledged, since the file was opened.
        dropped_runs: runs that it has deleted before their days were over, likewise.

    Raises:
        RecordError: the path is not a file, not a run record of this version, or cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        retention_days: float = RETENTION_DAYS,
        clock: Callable[[], float] = time.time,
        limits: Limits | None = None,
        secret: bytes = b"",
    ) -> None:
        self.dropped = self.dropped_runs = 0
        self._retention_s, self._clock, self._limits = retention_days * _DAY_S, clock, limits or Limits()
        self._owners = Owners(secret)
        self._surveyed_at: int | None = None  # the file's data_version, which other programs' writes change
        self._unfolded = False  # the write-ahead log may still hold erased words
        path = Path(path).absolute()  # SQLite would not take ":memory:" as a file's name
        try:
            create_empty(path)
        except FileExistsError:
            pass
        except OSError as err:
            raise RecordError(
                f"the run record {path} cannot be created: {err.strerror}; "
                f"give --record_file a path where you may write"
            ) from None
        if not path.is_file():
            raise RecordError(f"the run record {path} is not a file; give --record_file the path of one")
        # SQLite would open the file for reading, and leave companion files that are read-only, too. (We check without
        # opening it: closing a file drops the locks of all connections to it in this process.)
        if not os.access(path, os.R_OK | os.W_OK):
            raise RecordError(
                f"the run record {path} is not writable for this user; "
                f"change its mode or owner, or use another --record_file"
            )
        self._path = path
        self._opened = self._identity()
        try:
            self._db = sqlite3.connect(path, OPEN_TIMEOUT_S, isolation_level=None, check_same_thread=False)
            try:
                self._prepare(path)
            except BaseException:
                self._db.close()
                raise
        except sqlite3.Error as err:
            raise RecordError(
                f"the run record {path} cannot be used: {err}; "
                f"use another --record_file, on a local disk where you may write"
            ) from None

    def _prepare(self, path: Path) -> None:
        has_tables(self._db, path)  # first: another program's file stays unchanged
        if self._db.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):  # a writer never waits for readers
            raise sqlite3.OperationalError("its file system has no shared memory")
        self._db.execute("PRAGMA synchronous = FULL")  # a commit returns when it is on the disk
        self._db.execute("PRAGMA fullfsync = ON")  # macOS would otherwise return earlier
        self._db.execute("PRAGMA secure_delete = ON")
        self._shares, self._retention = Shares(self._db, self._owners.opened), Retention(self._db)
        self._outbox = Outbox(self._db, self._owners, self._clock)
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            if not has_tables(self._db, path):
                create_tables(self._db)
            # Written to an existing record, too: where nothing can be written, all other statements may succeed.
            self._db.execute(f"PRAGMA user_version = {VERSION}")
            self._survey()
            self._apply_retention(*self._shares.pools())
        fsync_directory(path.parent)
        self._checkpoint_wal()
        self._db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")

    def _identity(self) -> tuple[int, int] | None:
        """Return device and inode of the file at the record's path, or None."""
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_dev, stat.st_ino

    @property
    def leaps(self) -> int:
        """Number of leaps of the clock since the file was opened. After each, rows stop ageing for a day."""
        return self._retention.leaps

    # ---- runs

    def write(
        self, run: Run, vendor: str = "", delivery: wire.Delivery | None = None, owner: str = ""
    ) -> wire.DeliveryStatus:
        """Write a run, and the third party's copy of it if there is one: both or neither.

        An owner's run of the same sheet with the same ``run_id`` is replaced, and becomes the newest. Its delivery
        stays unchanged, also an acknowledged one: a replayed run is delivered once. If another owner's delivery already
        has that ``run_id``, this one gets another id. Waits at most :data:`BUSY_MS` milliseconds for other writers.

        Args:
            run: the run.
            vendor: the third party, if there is a delivery.
            delivery: the third party's copy.
            owner: the public key that the run came with; empty without keys.

        Returns:
            The status of the third party's copy.

        Raises:
            RecordError: the run could not be written, and the file is unchanged. The message holds nothing of the run.
        """
        assert delivery is None or vendor, "a delivery without a third party"
        copy = wire.DeliveryStatus.NONE
        with self._write("a finished run could not be recorded"):
            sealed = self._owners.sealed(owner, run.run_id)
            key = run.run_id, sealed
            there = self._db.execute(f"SELECT prompt_id FROM runs WHERE {_IS_THE_RUN}", key).fetchone()
            if there not in (None, (run.prompt_id,)):  # third parties know run ids, and may not replace others' runs
                raise RecordError("a finished run could not be recorded: a run of another sheet has the same id")
            self._db.execute(f"DELETE FROM runs WHERE {_IS_THE_RUN}", key)
            values = [stored(getattr(run, name)) for name in RUN]
            self._db.execute(_WRITE_RUN, [sealed, bytes_of(run.prompt_id, run.text, run.offers), *values])
            if delivery is not None:
                copy = self._outbox.deliver(delivery, vendor, owner)
            self._apply_retention(RUNS, Pool("waiting", vendor))
            # The delivery may be larger than the limit.
            if copy is not wire.DeliveryStatus.NONE and not self._outbox.has(run.run_id, owner):
                copy = wire.DeliveryStatus.FAILED
                self._db.execute(f"UPDATE runs SET copy = ? WHERE {_IS_THE_RUN}", (str(copy), *key))
        return copy

    def runs(self, limit: int) -> list[Run]:
        """Return the newest ``limit`` runs, or all if there are fewer, newest first.

        Raises:
            RecordError: the file cannot be read.
        """
        try:
            rows = self._db.execute(_NEWEST_RUNS, (max(0, limit),)).fetchall()
            return [Run(**loaded(RUN, row)) for row in rows]
        except (sqlite3.Error, ValueError) as err:
            raise RecordError(f"the run record cannot be read: {_reason(err)}; restore it from a copy") from None

    # ---- deliveries

    def collect(self, vendor: str, limit: int, max_bytes: int = 1 << 20) -> tuple[wire.Delivery, ...]:
        """Return a third party's unacknowledged deliveries, oldest first.

        Args:
            vendor: the third party.
            limit: maximum number of deliveries.
            max_bytes: maximum total size as MessagePack. The first delivery is returned whatever its size.

        Raises:
            RecordError: the file cannot be read, or due rows cannot be deleted.
        """
        with self._write("deliveries could not be read"):
            self._apply_retention()
            deliveries = self._outbox.waiting(vendor, limit, max_bytes)
        self._checkpoint_wal()
        return deliveries

    def acknowledge(self, vendor: str, run_ids: Sequence[bytes]) -> None:
        """Erase deliveries that have arrived except for their ids. Ignore ids that are not this third party's.

        Raises:
            RecordError: the file could not be written, and is unchanged.
        """
        with self._write("an acknowledgement could not be written"):
            for run_id in run_ids:
                self._unfolded |= self._outbox.erase(vendor, run_id)
            self._apply_retention(Pool("acknowledged", vendor))
        self._checkpoint_wal()

    def forget(self, run_id: bytes, owner: str = "") -> bool:
        """Delete an owner's run, and its delivery unless it was collected. There need not be such a run.

        Of a collected delivery its id stays, by which a replayed run is recognised.

        Args:
            run_id: the run.
            owner: the public key that the run came with; empty without keys.

        Returns:
            Whether the third party has collected its copy.

        Raises:
            RecordError: the file could not be written, and is unchanged.
        """
        with self._write("a run could not be deleted"):
            self._db.execute(f"DELETE FROM runs WHERE {_IS_THE_RUN}", (run_id, self._owners.sealed(owner, run_id)))
            collected_by = self._outbox.forget(run_id, owner)
            self._apply_retention(*([Pool("acknowledged", collected_by)] if collected_by else []))
            self._unfolded = True
        self._checkpoint_wal()
        return bool(collected_by)

    def close(self) -> None:
        """Close the file. The last connection merges SQLite's companion files into it, if the disk has room."""
        self._db.close()

    # ---- inside

    @contextmanager
    def _write(self, failed: str) -> Iterator[None]:
        """Open a transaction with current shares. Roll back on an error, and raise it as a RecordError."""
        before = self.dropped, self.dropped_runs, self._surveyed_at
        try:
            if self._identity() != self._opened:  # writes to a deleted file are lost
                raise RecordError(f"{failed}: its file was removed or replaced; start the cloud again")
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._survey()
                yield
        except BaseException as err:
            self.dropped, self.dropped_runs, self._surveyed_at = before
            if isinstance(err, sqlite3.Error | ValueError | OverflowError):
                raise RecordError(f"{failed}: {_reason(err)}") from None
            raise

    def _survey(self) -> None:
        """Count all rows again if another program has written to the file. This is a scan."""
        (now,) = self._db.execute("PRAGMA data_version").fetchone()
        if now != self._surveyed_at:
            self._shares.survey()
            self._surveyed_at = now

    def _apply_retention(self, *pools: Pool) -> None:
        """Delete rows that are too old or over a limit, in the open transaction.

        If there are none, this costs a few index look-ups.

        Args:
            pools: the pools that may be over their limits.
        """
        oldest = int(max(0.0, self._retention.look(self._clock()) - self._retention_s))
        gone = self._db.execute(_OLD_RUNS, (utc(oldest),)).rowcount
        for (acknowledged,) in self._db.execute(_OLD_DELIVERIES, (oldest,)).fetchall():
            self.dropped += not acknowledged
            gone += 1
        for pool in pools:
            while (number := self._shares.next_to_drop(pool, *self._limits.of(pool))) is not None:
                self._db.execute(_GOES[pool.kind], (number,))
                self.dropped += pool.kind == "waiting"
                self.dropped_runs += pool.kind == "runs"
                gone += 1
        self._unfolded |= gone > 0

    def _checkpoint_wal(self) -> None:
        """Empty the write-ahead log, which may still hold data erased from the file itself.

        If a reader or a full disk prevents it, the next call tries again. Not done after a run is written, which would
        wait for the disk three times; SQLite then does it itself within about 1000 pages.
        """
        if self._unfolded:
            with suppress(sqlite3.Error):
                (busy, *_) = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                self._unfolded = bool(busy)


def _reason(err: Exception) -> str:
    """Return the printable part of an error: SQLite's messages hold no values, those of Python's conversions do."""
    return str(err).partition(" with text")[0] if isinstance(err, sqlite3.Error) else type(err).__name__
