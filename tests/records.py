"""Helpers for tests of the run record: sample runs and deliveries, and queries without the product's code."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from llama import wire
from llama.cloud.run_store import RUN, Run, RunStore
from llama.text.dates import utc

NOW = time.time()
DAY = 86400
TAGGED = "For [NAME_1]: a mug, up to [PRICE_1]"
SECRET = b"s" * 32
CATALOGUED = (wire.Offer("mug-1", "toko-a", "Mug", 45_000, "https://toko.example/mug", "a mug", ("mug",)),)


class Clock:
    """Seconds since 1970, as the test says."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def a_run(number: int = 1, **changes: Any) -> Run:
    fields: dict[str, Any] = {
        "run_id": number.to_bytes(16, "big"),
        "prompt_id": "gift-ideas",
        "opened_at": utc(NOW),
        "finished_at": utc(NOW + 9),
        "prompt_tokens": 5,
        "output_tokens": 3,
        "compute_us": 700,
        "text": TAGGED,
    }
    return Run(**(fields | changes))


def a_delivery(number: int = 1, **changes: Any) -> wire.Delivery:
    fields: dict[str, Any] = {
        "run_id": number.to_bytes(16, "big"),
        "prompt_id": "insurer/cover",
        "finished_at": utc(NOW),
        "prompt": 'questions = ["…"]',
        "text": f"{number}: {TAGGED}",
        "offers": CATALOGUED,
    }
    return wire.Delivery(**(fields | changes))


def file(record: RunStore, number: int, vendor: str = "insurer", **changes: Any) -> wire.Delivery:
    """A finished run of a third party's sheet."""
    delivery = a_delivery(number, **changes)
    record.write(a_run(number, copy="queued"), vendor, delivery)
    return delivery


def waiting(record: RunStore, vendor: str = "insurer") -> list[int]:
    """Numbers of the deliveries that would be handed out."""
    return [int.from_bytes(delivery.run_id, "big") for delivery in record.collect(vendor, 1_000_000, 1 << 40)]


def ids(*numbers: int) -> list[bytes]:
    return [number.to_bytes(16, "big") for number in numbers]


def looked_up(path: Path, query: str) -> list[tuple[Any, ...]]:
    """What stands in the file, read without any code of the product's."""
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def rows_of(path: Path) -> list[tuple[Any, ...]]:
    """All rows, oldest first: the fields of a Run in their order, and owner."""
    return looked_up(path, f"SELECT {', '.join(RUN)}, owner FROM runs ORDER BY number")


def stored(path: Path) -> bytes:
    """All bytes of the file and of its companions."""
    return b"".join(file.read_bytes() for file in path.parent.glob("runs.sqlite*"))


@contextmanager
def held_by_another(path: Path) -> Iterator[None]:
    """A second connection that keeps the whole file to itself."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


def opened_connections(monkeypatch: pytest.MonkeyPatch) -> list[sqlite3.Connection]:
    """Every connection to SQLite that is opened from here on, the record's among them."""
    opened, connect = list[sqlite3.Connection](), sqlite3.connect

    def kept(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        opened.append(connect(*args, **kwargs))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", kept)
    return opened
