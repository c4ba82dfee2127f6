"""Third parties' deliveries in the run record: written once, handed out until acknowledged, then erased.

Every call needs an open transaction. Two owners' deliveries never share an id (:meth:`Outbox.deliver`).

Knows: the tables of deliveries and of their sheets, the owner of a row. Does not know: the file, transactions, runs,
retention and limits.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable

import msgspec

from llama import wire
from llama.cloud.owners import Owners
from llama.cloud.rows import bytes_of, insert, loaded, stored

_DELIVERY = list(wire.Delivery.__struct_fields__)
_DELIVERY_COLUMNS = [name for name in _DELIVERY if name != "prompt"]  # the sheet's text

_WRITE_SHEET = insert("sheets", ["vendor", "digest", "bytes", "text"])
_SHEET = "SELECT number FROM sheets WHERE vendor = ? AND digest = ?"
_WRITE_DELIVERY = insert(
    "deliveries",
    ["vendor", "owner", "written_at", "handed_out", "acknowledged", "bytes", "sheet", *_DELIVERY_COLUMNS],
)
_THE_DELIVERY = "SELECT owner, withheld FROM deliveries WHERE run_id = ?"
_VENDOR = "SELECT vendor FROM deliveries WHERE run_id = ?"
_WAITING = f"""
    SELECT {", ".join("coalesce(sheets.text, '')" if n == "prompt" else f"deliveries.{n}" for n in _DELIVERY)}
    FROM deliveries LEFT JOIN sheets ON sheets.number = deliveries.sheet
    WHERE deliveries.vendor = ? AND acknowledged = 0 ORDER BY deliveries.number LIMIT ?
"""
_HANDED_OUT = "UPDATE deliveries SET handed_out = 1 WHERE run_id = ? AND handed_out = 0"
_ERASE = """
    UPDATE deliveries
    SET acknowledged = 1, bytes = 0, sheet = NULL, prompt_id = '', finished_at = '', text = '', offers = '',
        withheld = 0
    WHERE run_id = ? AND acknowledged = 0
"""
_DELETE_UNCOLLECTED = "DELETE FROM deliveries WHERE run_id = ? AND handed_out = 0 AND acknowledged = 0"


class Outbox:
    """The deliveries in a file.

    Args:
        db: the file, with its tables.
        owners: encrypts the owner of a delivery.
        clock: seconds since 1970.
    """

    def __init__(self, db: sqlite3.Connection, owners: Owners, clock: Callable[[], float]) -> None:
        self._db, self._owners, self._clock = db, owners, clock

    def deliver(self, delivery: wire.Delivery, vendor: str, owner: str) -> wire.DeliveryStatus:
        """Write a delivery unless it is there already.

        Returns:
            The status of the third party's copy.

        Raises:
            ValueError: no message can hold the delivery. It would block all later ones.
        """
        msgspec.msgpack.decode(msgspec.msgpack.encode(delivery), type=wire.Delivery)
        run_id, withheld = self._id_of(delivery.run_id, owner)
        if withheld is None:
            delivery, withheld = msgspec.structs.replace(delivery, run_id=run_id), delivery.withheld
            sealed, now = self._owners.sealed(owner, run_id), int(self._clock())
            values = [stored(getattr(delivery, name)) for name in _DELIVERY_COLUMNS]
            sheet = self._sheet(vendor, delivery.prompt)
            size = bytes_of(delivery.prompt_id, delivery.text, delivery.offers)
            self._db.execute(_WRITE_DELIVERY, [vendor, sealed, now, 0, 0, size, sheet, *values])
        return wire.DeliveryStatus.WITHHELD if withheld else wire.DeliveryStatus.QUEUED

    def _sheet(self, vendor: str, text: str) -> int:
        """Return the number of a sheet's text; write the text if it is not there yet."""
        key = vendor, hashlib.sha256(text.encode()).digest()
        there = self._db.execute(_SHEET, key).fetchone()
        if there is not None:
            return int(there[0])
        number = self._db.execute(_WRITE_SHEET, [*key, len(text.encode()), text]).lastrowid
        assert number is not None
        return number

    def waiting(self, vendor: str, limit: int, max_bytes: int) -> tuple[wire.Delivery, ...]:
        """Return a third party's unacknowledged deliveries, oldest first, and mark them as handed out.

        See ``RunStore.collect``.
        """
        deliveries = list[wire.Delivery]()
        for row in self._db.execute(_WAITING, (vendor, max(0, limit))):
            delivery = wire.Delivery(**loaded(_DELIVERY, row))
            max_bytes -= len(msgspec.msgpack.encode(delivery))
            if deliveries and max_bytes < 0:
                break
            deliveries.append(delivery)
        self._db.executemany(_HANDED_OUT, [(delivery.run_id,) for delivery in deliveries])
        return tuple(deliveries)

    def erase(self, vendor: str, run_id: bytes) -> bool:
        """Erase a delivery except for its id; return whether this third party had it and had not acknowledged it."""
        return self._db.execute(f"{_ERASE} AND vendor = ?", (run_id, vendor)).rowcount > 0

    def forget(self, run_id: bytes, owner: str) -> str:
        """Delete the delivery of an owner's run. If it was collected, erase it except for its id.

        Returns:
            The third party that has collected it; empty if none has.
        """
        run_id, withheld = self._id_of(run_id, owner)
        if withheld is None or self._db.execute(_DELETE_UNCOLLECTED, (run_id,)).rowcount > 0:
            return ""
        self._db.execute(_ERASE, (run_id,))
        (vendor,) = self._db.execute(_VENDOR, (run_id,)).fetchone()
        return str(vendor)

    def _id_of(self, run_id: bytes, owner: str) -> tuple[bytes, bool | None]:
        """Return the id under which a third party gets the run, and whether its delivery is withheld.

        The id is the run's own. If another owner's delivery has that id, the next one is derived from it. Two owners'
        deliveries never share an id: a repeat or an acknowledgement of one would count for the other. The derived id
        depends on the secret, so another key cannot predict and occupy it. The derived id is also looked up when the
        other owner's delivery has been deleted meanwhile.

        Returns:
            The id, and None if there is no delivery yet.
        """
        while True:
            sealed = self._owners.sealed(owner, run_id)
            there = self._db.execute(_THE_DELIVERY, (run_id,)).fetchone()
            if there is not None and there[0] == sealed:
                return run_id, bool(there[1])
            following = hashlib.blake2b(sealed + run_id, digest_size=wire.RUN_ID_BYTES).digest()
            if there is None:
                later = self._db.execute(_THE_DELIVERY, (following,)).fetchone()
                if later is not None and later[0] == self._owners.sealed(owner, following):
                    return following, bool(later[1])
                return run_id, None
            run_id = following

    def has(self, run_id: bytes, owner: str) -> bool:
        """Return whether an owner's run has a delivery."""
        return self._id_of(run_id, owner)[1] is not None
