"""What the provider keeps: finished runs, and third parties' deliveries until they are acknowledged. One SQLite file.

Any SQLite tool reads it while it is written. A run and its delivery are written in one transaction, and each call
returns when the disk has what it wrote: neither a kill nor a power cut loses any of it.

Knows: how long and how many rows are kept, and whose goes first (``shares``). Texts are kept as the cloud has them: a
value that the device sent as a tag, such as ``[NAME_1]``, is that tag here too. Whose key a run came with is kept
encrypted (``owners``), so that nobody's run takes the place of another's.
Does not know: sockets, sessions, tensors, who the person is, which third party a run belongs to; nor how deliveries are
written (``outbox``).

**Retention.** Seconds and days are the wall clock's; what is forgotten is so at the next call of any kind but ``runs``.
Of each line there are no more than its limits say; what is over them goes from the owner who has most of that line, the
oldest first. Nothing is kept longer than ``retention_days``; after a leap of the clock, a day longer (``retention``).

===================  ===========================================================================================
runs                 :data:`MAX_RUNS`, and :data:`MAX_RUN_BYTES` of text; :attr:`RunStore.dropped_runs` counts those
                     that went before their days were over
deliveries           of each third party :data:`MAX_DELIVERIES`, and :data:`MAX_DELIVERY_BYTES` of text with the
                     sheets, each of which is kept once; :attr:`RunStore.dropped` counts those that went uncollected
acknowledged ones    only their ids, by which a replayed run is known; of each third party :data:`MAX_TOMBSTONES`
===================  ===========================================================================================

What is deleted is overwritten in the file (not in a disk's spare blocks, nor in anybody's copy of it).
"""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from llama import wire
from llama.cloud.outbox import Outbox
from llama.cloud.owners import Owners, key_hash
from llama.cloud.retention import Retention
from llama.cloud.rows import bytes_of, insert, loaded, stored
from llama.cloud.schema import RUN, upgrade, version_of
from llama.cloud.shares import RUNS, Pool, Shares
from llama.disk import create_empty, fsync_directory
from llama.errors import RecordError
from llama.text.dates import utc

RETENTION_DAYS = 30.0
MAX_RUNS = 100_000
MAX_RUN_BYTES = 1 << 30
MAX_DELIVERIES = 10_000  # not acknowledged, of one third party: one that stays away pushes out none but its own
MAX_DELIVERY_BYTES = 256 << 20  # likewise
MAX_TOMBSTONES = 100_000  # acknowledged, of one third party
OPEN_TIMEOUT_S = 2.0  # how long another program may hold the file when it is opened,
BUSY_MS = 50  # and when a run is written: meanwhile no other run is finished
_DAY_S = 24 * 60 * 60


@dataclass(frozen=True)
class Limits:
    """How much is kept; see the table above. Bytes are those of texts in UTF-8."""

    runs: int = MAX_RUNS
    run_bytes: int = MAX_RUN_BYTES
    deliveries: int = MAX_DELIVERIES
    delivery_bytes: int = MAX_DELIVERY_BYTES
    tombstones: int = MAX_TOMBSTONES

    def of(self, pool: Pool) -> tuple[int, int]:
        """Most rows and most bytes of a pool."""
        if pool.kind == "runs":
            return self.runs, self.run_bytes
        # Those acknowledged have no texts.
        return (self.deliveries, self.delivery_bytes) if pool.kind == "waiting" else (self.tombstones, sys.maxsize)


@dataclass(frozen=True)
class Run:
    """A finished run, as the table has it.

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
        copy: what became of the third party's copy; a value of ``wire.DeliveryStatus``.
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


_IS_THE_RUN = "run_id = ? AND owner IN (?, ?)"
_WRITE_RUN = insert("runs", ["owner", "bytes", *RUN])
_NEWEST_RUNS = f"SELECT {', '.join(RUN)} FROM runs ORDER BY place DESC LIMIT ?"
_OLD_RUNS = "DELETE FROM runs WHERE finished_at < ?"
_OLD_DELIVERIES = "DELETE FROM deliveries WHERE written_at < ? RETURNING acknowledged"
_GOES = {
    "runs": "DELETE FROM runs WHERE place = ?",
    "waiting": "DELETE FROM deliveries WHERE place = ?",
    "acknowledged": "DELETE FROM deliveries WHERE place = ?",
}


class RunStore:
    """The file of finished runs, and of deliveries that wait for the third parties that they belong to.

    Any thread may use it, one at a time. Other programs may read the file meanwhile.

    Args:
        path: made if it is not there, readable and writable for this user only; a file that is there keeps its mode. A
            file of an earlier version becomes one of this version, with all its rows.
        retention_days: how long rows are kept, see above.
        clock: seconds since 1970.
        limits: how much is kept, see above.
        secret: with which rows' owners are encrypted. Rows of another secret, and those that a file of version 3 has,
            count as one owner's, whom nobody knows.

    Attributes:
        dropped: deliveries that retention has deleted before they were acknowledged, since the file was opened.
        dropped_runs: runs that it has deleted before their days were over, likewise.

    Raises:
        RecordError: not a file, not a run record of this version or an earlier one, or it cannot be written.
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
        self._surveyed_at: int | None = None  # the file's data_version: what others write changes it
        self._unfolded = False  # erased words may still stand in the companion file
        path = Path(path).absolute()  # to SQLite, ":memory:" would not be a file's name
        try:
            create_empty(path)
        except FileExistsError:
            pass
        except OSError as err:
            raise RecordError(
                f"the run record {path} cannot be made: {err.strerror}; give --record_file a path where "
                f"this user may write"
            ) from None
        if not path.is_file():
            raise RecordError(f"the run record {path} is not a file; give --record_file the path of one")
        # SQLite would open it for reading, and leave companion files that may only be read either. (Asked without
        # opening it: to close a file gives up the locks of every connection to it in this process.)
        if not os.access(path, os.R_OK | os.W_OK):
            raise RecordError(
                f"the run record {path} cannot be written by this user; change its mode or owner, or "
                f"give --record_file another file"
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
                f"the run record {path} cannot be used: {err}; give --record_file another file, on a "
                f"local disk, where this user may write"
            ) from None

    def _prepare(self, path: Path) -> None:
        version_of(self._db, path)  # first: nothing is changed in a file that is not ours
        if self._db.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):  # readers never make a writer wait
            raise sqlite3.OperationalError("its file system has no shared memory")
        self._db.execute("PRAGMA synchronous = FULL")  # a commit returns when the disk has it
        self._db.execute("PRAGMA fullfsync = ON")  # on macOS, where it would otherwise return before
        self._db.execute("PRAGMA secure_delete = ON")
        self._shares, self._retention = Shares(self._db, self._owners.opened), Retention(self._db)
        self._outbox = Outbox(self._db, self._owners, self._clock)
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            upgrade(self._db, version_of(self._db, path), utc(self._clock()))
            self._survey()
            self._apply_retention(*self._shares.pools())
        fsync_directory(path.parent)
        self._checkpoint_wal()
        self._db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")

    def _identity(self) -> tuple[int, int] | None:
        """Which file has the record's name, or None."""
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_dev, stat.st_ino

    @property
    def leaps(self) -> int:
        """How often the clock has leapt ahead since the file was opened; rows age no further for a day after."""
        return self._retention.leaps

    # ---- runs

    def write(
        self, run: Run, vendor: str = "", delivery: wire.Delivery | None = None, owner: str = ""
    ) -> wire.DeliveryStatus:
        """Write a run, and the third party's copy of it if there is one: both or neither.

        An owner's run of the same sheet with the same ``run_id`` is replaced, and becomes the newest. Its delivery is
        left as it is, also if it was acknowledged: a run that is replayed is delivered once. Where another owner's
        delivery has that ``run_id`` already, this one goes under an id of its own. Waits at most :data:`BUSY_MS`
        milliseconds for other writers.

        Args:
            run: which.
            vendor: the third party, where there is a delivery.
            delivery: its copy.
            owner: the public key that the run came with; empty without keys.

        Returns:
            What the third party has, or will have, of the run.

        Raises:
            RecordError: it could not be written, and the file is as it was; the message holds nothing of the run.
        """
        assert delivery is None or vendor, "a delivery without a third party"
        copy = wire.DeliveryStatus.NONE
        with self._write("a finished run could not be recorded"):
            sealed = self._owners.sealed(owner, run.run_id)
            key = run.run_id, sealed, key_hash(owner, run.run_id)
            there = self._db.execute(f"SELECT prompt_id FROM runs WHERE {_IS_THE_RUN}", key).fetchone()
            if there not in (None, (run.prompt_id,)):  # third parties know run ids: none may take another's place
                raise RecordError("a finished run could not be recorded: one of another sheet has the same id")
            self._db.execute(f"DELETE FROM runs WHERE {_IS_THE_RUN}", key)
            values = [stored(getattr(run, name)) for name in RUN]
            self._db.execute(_WRITE_RUN, [sealed, bytes_of(run.prompt_id, run.text, run.offers), *values])
            if delivery is not None:
                copy = self._outbox.deliver(delivery, vendor, owner)
            self._apply_retention(RUNS, Pool("waiting", vendor))
            # It may have been larger than all that is kept.
            if copy is not wire.DeliveryStatus.NONE and not self._outbox.has(run.run_id, owner):
                copy = wire.DeliveryStatus.FAILED
                self._db.execute(f"UPDATE runs SET copy = ? WHERE {_IS_THE_RUN}", (str(copy), *key))
        return copy

    def runs(self, limit: int) -> list[Run]:
        """The newest ``limit`` runs, or all if there are fewer, newest first.

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
        """A third party's deliveries that it has not acknowledged, oldest first.

        Args:
            vendor: whose.
            limit: most of them.
            max_bytes: most that they may measure as MessagePack; the first is handed out however large it is.

        Raises:
            RecordError: the file cannot be read or tidied up.
        """
        with self._write("deliveries could not be read"):
            self._apply_retention()
            deliveries = self._outbox.waiting(vendor, limit, max_bytes)
        self._checkpoint_wal()
        return deliveries

    def acknowledge(self, vendor: str, run_ids: Sequence[bytes]) -> None:
        """Erase deliveries that have arrived; only their ids are kept. Ids that are not this third party's do nothing.

        Raises:
            RecordError: it could not be written, and the file is as it was.
        """
        with self._write("an acknowledgement could not be written"):
            for run_id in run_ids:
                self._unfolded |= self._outbox.erase(vendor, run_id)
            self._apply_retention(Pool("acknowledged", vendor))
        self._checkpoint_wal()

    def close(self) -> None:
        """Give the file back; whoever closes it last folds SQLite's companion files into it, if the disk has room."""
        self._db.close()

    # ---- inside

    @contextmanager
    def _write(self, failed: str) -> Iterator[None]:
        """One transaction, with every owner's share known. An error undoes all of it, and becomes a RecordError."""
        before = self.dropped, self.dropped_runs, self._surveyed_at
        try:
            if self._identity() != self._opened:  # what is written to a file without a name is gone at the end
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
        """Look at all rows if somebody else may have changed some: a scan, after another program's writing only."""
        (now,) = self._db.execute("PRAGMA data_version").fetchone()
        if now != self._surveyed_at:
            self._shares.survey()
            self._surveyed_at = now

    def _apply_retention(self, *pools: Pool) -> None:
        """Delete what retention no longer allows, in the transaction that is open; without it the cost is some look-ups
        in indices.

        Args:
            pools: those that may be over their limits.
        """
        oldest = int(max(0.0, self._retention.look(self._clock()) - self._retention_s))
        gone = self._db.execute(_OLD_RUNS, (utc(oldest),)).rowcount
        for (acknowledged,) in self._db.execute(_OLD_DELIVERIES, (oldest,)).fetchall():
            self.dropped += not acknowledged
            gone += 1
        for pool in pools:
            while (place := self._shares.next_to_drop(pool, *self._limits.of(pool))) is not None:
                self._db.execute(_GOES[pool.kind], (place,))
                self.dropped += pool.kind == "waiting"
                self.dropped_runs += pool.kind == "runs"
                gone += 1
        self._unfolded |= gone > 0

    def _checkpoint_wal(self) -> None:
        """Empty the companion file, where what was erased from the file itself may still stand.

        Tried again at the next opportunity where a reader, or a full disk, is in the way. Not after a run is written,
        which would wait for the disk three times; then SQLite itself does it within some 1000 pages.
        """
        if self._unfolded:
            with suppress(sqlite3.Error):
                (busy, *_) = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                self._unfolded = bool(busy)


def _reason(err: Exception) -> str:
    """What may be said of an error: SQLite's own words hold no values; those of Python's conversions do."""
    return str(err).partition(" with text")[0] if isinstance(err, sqlite3.Error) else type(err).__name__
